"""edgeq: a trained network in, a small, fast, verified bundle for a device out."""
from __future__ import annotations

from typing import TYPE_CHECKING

from edgeq_runtime import __version__

if TYPE_CHECKING:
    from edgeq.bundle import Bundle
    from edgeq.pipeline import convert

__all__ = ["Bundle", "__version__", "convert"]


def __getattr__(name: str) -> object:
    """Import on use: `import edgeq` alone stays light."""
    if name == "convert":
        from edgeq.pipeline import convert

        return convert
    if name == "Bundle":
        from edgeq.bundle import Bundle

        return Bundle
    raise AttributeError(f"module 'edgeq' has no attribute {name!r}")
