"""LiteRT (TensorFlow Lite): a .tflite file, written without TensorFlow."""
from edgeq_converters.tflite.emit import emit

__all__ = ["emit"]
