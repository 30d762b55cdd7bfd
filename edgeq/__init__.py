"""edgeq: a trained network in, a small, fast, verified bundle for a device out."""
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeq.api import analyze, convert, estimate, evaluate, inspect, sweep, verify
    from edgeq.bundle.folder import Bundle
    from edgeq_runtime import __version__

__all__ = ["Bundle", "__version__", "analyze", "convert", "estimate", "evaluate", "inspect", "sweep", "verify"]


def __getattr__(name: str) -> object:
    """Import on use: `import edgeq` alone loads no numpy, so that the command line answers at once."""
    if name == "__version__":
        from edgeq_runtime import __version__

        return __version__
    if name == "Bundle":
        from edgeq.bundle.folder import Bundle

        return Bundle
    if name in __all__:
        from edgeq import api

        return getattr(api, name)
    raise AttributeError(f"module 'edgeq' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


def _warn_of_both() -> None:
    """Two wheels that own the same files: pip neither refuses that nor tells of it."""
    import warnings
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        distribution("edgeq-runtime")
    except PackageNotFoundError:
        return
    warnings.warn("edgeq and edgeq-runtime are both installed here, and share the module edgeq_runtime: "
                  "uninstall both, then install edgeq alone", stacklevel=3)


_warn_of_both()
