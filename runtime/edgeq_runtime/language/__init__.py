"""Language models on a device: text in, text out, over one decoder.

Numpy and one engine; `tokenizers`, `jinja2` and `llguidance` are imported where they are used.
"""
from __future__ import annotations

from .decoder import Decoder, open_decoder

__all__ = ["Decoder", "open_decoder"]
