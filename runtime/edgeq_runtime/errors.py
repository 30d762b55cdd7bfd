"""Everything edgeq raises on purpose, on the host and on the device.

EdgeqError
├── BundleError        a bundle that is damaged, from a newer format, or points outside its folder
├── EngineError        the engine that a bundle needs is missing or too old
├── InputError         an input with a wrong name, shape or dtype
└── ... the host adds its own, see edgeq.errors
"""
from __future__ import annotations

MAX_MESSAGE = 4000  # characters: what a bundle says of itself may be of any length


def printable(text: str) -> str:
    """A text for a terminal: control characters, which could move its cursor or set its title, are shown as numbers."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else sign.encode("unicode_escape").decode()
                   for sign in text)


def _shortened(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else f"{message[:MAX_MESSAGE]} ..."


class EdgeqError(Exception):
    """Base class: catch this to catch every error that edgeq raises on purpose."""


class BundleError(EdgeqError):
    """The bundle cannot be trusted: damaged, incomplete, too new, or unsafe."""

    def __init__(self, message: str = "") -> None:
        super().__init__(_shortened(message))


class EngineError(EdgeqError):
    """The engine that runs this bundle is not installed, or too old for it."""

    def __init__(self, message: str = "") -> None:
        super().__init__(_shortened(message))


class InputError(EdgeqError):
    """A model input has a wrong name, shape or dtype."""
