"""Everything edgeq raises on purpose, on the host and on the device.

EdgeqError
├── BundleError        a bundle that is damaged, from a newer format, or points outside its folder
├── EngineError        the engine that a bundle needs is missing or too old
├── InputError         an input with a wrong name, shape or dtype
└── ... the host adds its own, see edgeq.errors
"""
from __future__ import annotations


class EdgeqError(Exception):
    """Base class: catch this to catch every error that edgeq raises on purpose."""


class BundleError(EdgeqError):
    """The bundle cannot be trusted: damaged, incomplete, too new, or unsafe."""


class EngineError(EdgeqError):
    """The engine that runs this bundle is not installed, or too old for it."""


class InputError(EdgeqError):
    """A model input has a wrong name, shape or dtype."""
