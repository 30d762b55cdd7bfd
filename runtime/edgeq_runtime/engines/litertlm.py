"""LiteRT-LM files, which are language models, on LiteRT. See edgeq_runtime.language."""
from __future__ import annotations

from typing import Optional

from edgeq_runtime.language.engine import LanguageEngine
from edgeq_runtime.manifest import Manifest


def open(folder: str, manifest: Manifest, threads: Optional[int]) -> LanguageEngine:
    """Raises BundleError: no language model; EngineError: LiteRT is not installed, or refuses the file."""
    return LanguageEngine(folder, manifest, threads)
