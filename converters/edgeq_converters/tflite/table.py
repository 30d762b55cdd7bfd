"""The backend's table of handlers; the ops_* modules fill it, one family of ops each."""
from __future__ import annotations

from edgeq_converters.optable import OpTable
from edgeq_converters.tflite.builder import Builder

op: OpTable[Builder] = OpTable("tflite")
