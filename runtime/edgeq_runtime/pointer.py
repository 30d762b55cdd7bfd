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
VERSION = re.compile(r"version-(\d+)")


@dataclass(frozen=True)
class Versions:
    """Names of folders. previous: None until there has been an update, or after a rollback."""

    current: str
    previous: Optional[str] = None


def read_versions(folder: Union[str, Path]) -> Versions:
    """What `folder/current` names.

    Raises:
        BundleError: nothing was installed there, or the file is damaged.
    """
    path = os.path.join(folder, CURRENT)
    try:
        with open(path, encoding="utf-8") as file:
            versions = Versions(**json.load(file))
        if not all(VERSION.fullmatch(name) for name in (versions.current, versions.previous) if name is not None):
            raise ValueError("it names no version")
        return versions
    except FileNotFoundError:
        raise BundleError(f"nothing is installed in {folder}") from None
    except (OSError, TypeError, ValueError) as error:
        raise BundleError(f"{path} cannot be read ({error}); install again into another folder") from None
