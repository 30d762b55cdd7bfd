"""Run edgeq bundles on a device: ``edgeq_runtime.load("model.tflite.edgeq").run({"image": image})``."""
from __future__ import annotations

__version__ = "0.1.0"

from typing import TYPE_CHECKING

from .errors import BundleError, EdgeqError, EngineError, InputError
from .manifest import Manifest, TensorSpec
from .session import Model, load

if TYPE_CHECKING:
    from .installation import install, rollback
    from .integers import to_integers, to_reals

__all__ = ["BundleError", "EdgeqError", "EngineError", "InputError", "Manifest", "Model", "TensorSpec", "install",
           "load", "rollback", "to_integers", "to_reals"]


_LATER = {"install": "installation", "rollback": "installation", "to_integers": "integers", "to_reals": "integers"}


def __getattr__(name: str) -> object:
    """What a program that only runs models does not need is imported when it is asked for."""
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
