"""Which version of an installed bundle is in use. Apart from `installation`, so that loading one stays light."""
from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Optional, Union

from .errors import BundleError

if TYPE_CHECKING:
    from pathlib import Path

CURRENT = "current"
VERSION = re.compile(r"version-(\d{1,9})")
_MAX_CHARACTERS = 1000


@dataclass(frozen=True)
class Versions:
    """Names of folders. previous: None until there has been an update, or after a rollback."""

    current: str
    previous: Optional[str] = None


def find_versions(folder: Union[str, Path]) -> Optional[Versions]:
    """What `folder/current` names, or None where nothing was installed.

    A pointer that is damaged is found anew: the newest version of which every byte is right, and the one before it.

    Raises:
        BundleError: the pointer is damaged, and so is every version.
    """
    path = os.path.join(folder, CURRENT)
    numbers = sorted(int(found.group(1)) for found in map(VERSION.fullmatch, os.listdir(folder)) if found)[::-1]
    try:
        return _read(path)
    except FileNotFoundError:
        if not numbers:
            return None
        reason: Exception = FileNotFoundError("it is gone")
    except (OSError, TypeError, ValueError) as error:
        reason = error
    whole = [name for name in (f"version-{number}" for number in numbers) if _is_whole(os.path.join(folder, name))]
    if not whole:
        raise BundleError(f"{path} cannot be read ({reason}), and no version is whole; install again into "
                          "another folder")
    return Versions(*whole[:2])


def _read(path: str) -> Versions:
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("it is no file")
    with open(path, encoding="utf-8") as file:
        versions = Versions(**json.loads(file.read(_MAX_CHARACTERS)))
    if not all(VERSION.fullmatch(name) for name in (versions.current, versions.previous) if name is not None):
        raise ValueError("it names no version")
    return versions


def _is_whole(folder: str) -> bool:
    from .manifest import Manifest

    try:
        Manifest.read(folder, verify=True)
        return True
    except BundleError:
        return False
