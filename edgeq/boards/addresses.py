"""Where a board is: three kinds of address."""
from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from edgeq.boards.profiles import EMULATED
from edgeq.errors import UsageError

FORMS: Final = "ssh://user@host[:port], adb:SERIAL or emulated:NAME"
# Nothing that ssh or adb would take for an option.
_SSH: Final = re.compile(r"ssh://((?P<user>\w[\w.-]*)@)?(?P<host>\w[\w.-]*|\[[0-9A-Fa-f:.%\w]+\])(:(?P<port>\d+))?/?")
_SERIAL: Final = re.compile(r"\w[\w.:-]*")


@dataclass(frozen=True, slots=True)
class Ssh:
    """host: a name, an address, or an alias of the user's ssh configuration, which says the rest."""

    host: str
    user: str | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class Adb:
    serial: str


@dataclass(frozen=True, slots=True)
class EmulatedAs:
    """row: a name of profiles.EMULATED."""

    row: str


Address: TypeAlias = Ssh | Adb | EmulatedAs


def parse_address(text: str) -> Address:
    """Raises UsageError: none of the three forms."""
    kind, _, rest = text.partition(":")
    if kind == "emulated":
        if rest not in EMULATED:
            raise UsageError(f"there is no emulated board '{rest}'; there are {', '.join(EMULATED)}")
        return EmulatedAs(rest)
    if kind == "adb" and _SERIAL.fullmatch(rest):
        return Adb(rest)
    found = _SSH.fullmatch(text)
    if found is not None:
        return Ssh(found["host"].strip("[]"), found["user"], int(found["port"]) if found["port"] else None)
    raise UsageError(f"'{text}' is not an address of a board: write {FORMS} (ssh takes your keys, not a password)")
