"""MIL's ops in Core AI's operators, complete. One file per family; importing a family adds its rows."""
from __future__ import annotations

from typing import Final

from edgeq_converters.coreai import words_indexing, words_layer, words_math, words_moving, words_recurrent
from edgeq_converters.coreai.words import WORDS

__all__ = ["FAMILIES", "WORDS"]

FAMILIES: Final = (words_indexing, words_layer, words_math, words_moving, words_recurrent)
