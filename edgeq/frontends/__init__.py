"""Anything that holds a network -> onnx_ir.Model at opset 21, IR 10, every shape a number."""
from __future__ import annotations

from edgeq.frontends.load import Source, check_there, is_language_model, load_model, load_source
from edgeq.frontends.reference import Reference

__all__ = ["Reference", "Source", "check_there", "is_language_model", "load_model", "load_source"]
