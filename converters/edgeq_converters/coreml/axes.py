"""Which neighbouring axes an operator can see as one.

Core ML ends at rank 5, but elements keep their order when axes of size 1 are dropped and neighbours merged: a Reshape
is all it takes.
"""
from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Permutation:
    """Reshape to `shape`, then transpose by `perm`."""

    shape: Shape
    perm: tuple[int, ...]


def merged(shape: Sequence[int], kinds: Sequence[Hashable]) -> list[tuple[Hashable, list[int]]]:
    """Runs of axes that are treated alike -> (kind, axes) of each. kinds: of every axis; those of size 1 fit any run.

        shape [2, 3, 1, 4], kinds "aaba"     =>     [("a", [0, 1, 3])]
    """
    axes = [axis for axis, dim in enumerate(shape) if dim != 1]
    return [(kind, list(run)) for kind, run in groupby(axes, lambda axis: kinds[axis])]


def isolated(shape: Sequence[int], axis: int) -> Shape:
    """[before, the axis, behind]"""
    return prod(shape[:axis]), shape[axis], prod(shape[axis + 1:])


def permutations(shape: Sequence[int], perm: Sequence[int], most: int) -> list[Permutation]:
    """A Transpose as Transposes of at most `most` axes, 4 or more, one after the other.

        shape [1, 8, 8, 2, 12, 2], perm [0, 1, 3, 5, 2, 4]     =>     [Permutation((8, 8, 2, 12, 2), (0, 2, 4, 1, 3))]
    """
    order = [axis for axis in perm if shape[axis] != 1]
    place = {axis: number for number, axis in enumerate(sorted(order))}
    blocks: list[list[int]] = []  # axes that stay neighbours, in their order behind the Transpose
    for axis in order:
        if blocks and place[axis] == place[blocks[-1][-1]] + 1:
            blocks[-1].append(axis)
        else:
            blocks.append([axis])
    before = sorted(blocks)
    dims = [prod(shape[axis] for axis in block) for block in before]
    wanted = [before.index(block) for block in blocks]
    if len(wanted) < 2:
        return []
    if len(wanted) <= most:
        return [Permutation(tuple(dims), tuple(wanted))]
    return _one_block_at_a_time(dims, wanted)


def _one_block_at_a_time(dims: Sequence[int], wanted: Sequence[int]) -> list[Permutation]:
    """Every step takes the blocks that belong next to the front: [done, skipped, taken, rest] -> 0, 2, 1, 3."""
    steps, now = [], list(range(len(wanted)))
    for first in range(len(wanted)):
        start = now.index(wanted[first])
        if start == first:
            continue
        end = start
        while end < len(now) and now[end] == wanted[first + end - start]:
            end += 1
        parts = now[:first], now[first:start], now[start:end], now[end:]
        steps.append(Permutation(tuple(prod(dims[block] for block in part) for part in parts), (0, 2, 1, 3)))
        now = [*parts[0], *parts[2], *parts[1], *parts[3]]
    return steps
