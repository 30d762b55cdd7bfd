"""LiteRT (TensorFlow Lite): a .tflite file, written without TensorFlow."""
from edgeq_converters.tflite.backend import emit

__all__ = ["emit"]
