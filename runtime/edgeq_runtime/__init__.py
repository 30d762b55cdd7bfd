"""Run edgeq bundles on a device: ``edgeq_runtime.load("model.tflite.edgeq").run({"image": image})``."""
from __future__ import annotations

__version__ = "0.1.0"

from .errors import BundleError, EdgeqError, EngineError, InputError
from .manifest import Manifest, TensorSpec
from .session import Model, load

__all__ = ["BundleError", "EdgeqError", "EngineError", "InputError", "Manifest", "Model", "TensorSpec", "load"]
