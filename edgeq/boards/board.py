"""A board of the user's, and the transport that its address asks for."""
from __future__ import annotations

from dataclasses import dataclass

from edgeq.boards.adb import OverAdb
from edgeq.boards.addresses import Adb, EmulatedAs, Ssh, parse_address
from edgeq.boards.emulated import Emulated
from edgeq.boards.ssh import OverSsh
from edgeq.boards.transport import Transport


@dataclass(frozen=True, slots=True)
class Board:
    """name: the one given, or the address. python: the program to run there."""

    name: str
    address: str
    python: str = "python3"

    def connect(self) -> Transport:
        """Raises BoardError: see the transports."""
        match parse_address(self.address):
            case EmulatedAs(row):
                return Emulated(row)
            case Adb() as address:
                return OverAdb(address, self.python)
            case Ssh() as address:
                return OverSsh(address, self.python)
