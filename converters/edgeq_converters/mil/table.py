"""The one table that every file of handlers adds to."""
from __future__ import annotations

from typing import Final

from edgeq_converters.mil.builder import Builder
from edgeq_converters.optable import OpTable

op: Final[OpTable[Builder]] = OpTable("mil")
