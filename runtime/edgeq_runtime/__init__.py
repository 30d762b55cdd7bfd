"""Run edgeq bundles on a device: ``edgeq_runtime.load("model.tflite.edgeq").run({"image": image})``."""
from __future__ import annotations

__version__ = "0.1.0"
