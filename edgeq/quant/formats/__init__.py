"""Weight formats: each quantizes, dequantizes, and gives the grid that codes may be fitted on. Arrays only, no graph.

A row of FORMATS is a type of GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import Final

from edgeq.quant.formats.blocks import BlockFormat
from edgeq.quant.formats.grid import Grid, Table, Whole
from edgeq.quant.formats.layout import Bits, Minimum, Nibbles, Scale, Signed, SignedBytes, SignedSixes, Sixes

__all__ = ["FORMATS", "BlockFormat", "Grid", "row_format"]

# https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h (kvalues_iq4nl)
_IQ4: Final = Table((-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113))

_GGUF: Final[Mapping[str, BlockFormat]] = MappingProxyType({row.name: row for row in (
    BlockFormat("Q4_0", 2, 32, 32, Whole(-8, 7), (Scale(), Bits(4, 0, 16))),
    BlockFormat("Q4_1", 3, 32, 32, Whole(0, 15), (Scale(), Minimum(), Bits(4, 0, 16))),
    BlockFormat("Q5_0", 6, 32, 32, Whole(-16, 15), (Scale(), Bits(1, 4, 1), Bits(4, 0, 16))),
    BlockFormat("Q5_1", 7, 32, 32, Whole(0, 31), (Scale(), Minimum(), Bits(1, 4, 1), Bits(4, 0, 16))),
    BlockFormat("Q8_0", 8, 32, 32, Whole(-127, 127, -128), (Scale(), Signed())),
    BlockFormat("Q2_K", 10, 256, 16, Whole(0, 3), (Nibbles(), Bits(2, 0, 32), Scale(), Minimum())),
    BlockFormat("Q3_K", 11, 256, 16, Whole(-4, 3), (Bits(1, 2, 32), Bits(2, 0, 32), SignedSixes(), Scale())),
    BlockFormat("Q4_K", 12, 256, 32, Whole(0, 15), (Scale(), Minimum(), Sixes(), Bits(4, 0, 32))),
    BlockFormat("Q5_K", 13, 256, 32, Whole(0, 31), (Scale(), Minimum(), Sixes(), Bits(1, 4, 32), Bits(4, 0, 32))),
    BlockFormat("Q6_K", 14, 256, 16, Whole(-32, 31), (Bits(4, 0, 64), Bits(2, 4, 32), SignedBytes(), Scale())),
    BlockFormat("IQ4_NL", 20, 32, 32, _IQ4, (Scale(), Bits(4, 0, 16))),
)})


class _Formats(Mapping[str, BlockFormat]):
    """The rows of GGUF, and on top of them INT4[n] and INT8[n]: rows of n weights, each with one scale above 0."""

    def __getitem__(self, name: str) -> BlockFormat:
        found = _GGUF.get(name) or _row_format(name)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_GGUF)

    def __len__(self) -> int:
        return len(_GGUF)


FORMATS: Final[Mapping[str, BlockFormat]] = _Formats()


def row_format(bits: int, columns: int) -> str:
    """The name of the format with one scale a row."""
    return f"INT{bits}[{columns}]"


@cache
def _row_format(name: str) -> BlockFormat | None:
    found = re.fullmatch(r"INT([48])\[(\d+)\]", name)
    if found is None:
        return None
    bits, columns = int(found[1]), int(found[2])
    high = 2 ** (bits - 1) - 1
    layout = (Scale(), Signed()) if bits == 8 else (Scale(), Bits(4, 0, columns // 2))
    return BlockFormat(name, -1, columns, columns, Whole(-high, high), layout)
