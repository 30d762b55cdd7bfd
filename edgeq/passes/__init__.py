"""Rewrites that make a float network smaller and plainer, and leave what it computes alone."""
from __future__ import annotations

from edgeq.passes.canonical import PASSES, Applied, Pass, canonicalize
from edgeq.passes.shapes import fix_shapes

__all__ = ["PASSES", "Applied", "Pass", "canonicalize", "fix_shapes"]
