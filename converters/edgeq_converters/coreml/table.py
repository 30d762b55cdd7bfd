"""The handlers of Core ML: those that are written in MIL, the whole of them."""
from __future__ import annotations

from typing import Final

from edgeq_converters.coreml.builder import Builder
from edgeq_converters.mil.ops import HANDLERS
from edgeq_converters.optable import OpTable

TABLE: Final[OpTable[Builder]] = OpTable("coreml", HANDLERS)
