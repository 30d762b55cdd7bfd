"""Run edgeq bundles on a device: ``edgeq_runtime.load("model.tflite.edgeq").run({"image": image})``."""
from __future__ import annotations

__version__ = "0.1.0"

from typing import TYPE_CHECKING

from .errors import BundleError, EdgeqError, EngineError, InputError
from .integers import to_integers, to_reals
from .manifest import Manifest, TensorSpec
from .session import Model, load

if TYPE_CHECKING:
    from .installation import install, rollback

__all__ = ["BundleError", "EdgeqError", "EngineError", "InputError", "Manifest", "Model", "TensorSpec", "install",
           "load", "rollback", "to_integers", "to_reals"]


def __getattr__(name: str) -> object:
    """`install` and `rollback` are imported when they are asked for: a program that only runs models needs neither."""
    if name in ("install", "rollback"):
        from . import installation

        return getattr(installation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
