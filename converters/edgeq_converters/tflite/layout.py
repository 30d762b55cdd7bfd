"""Arithmetic of layouts: in which order a tensor stores the axes of an ONNX value. Pure functions on tuples.

A layout is a permutation: tensor axis i holds ONNX axis layout[i]. NHWC of an NCHW value is (0, 2, 3, 1). Because a
value may be held in any permutation, an ONNX Transpose is a relabelling, and only a reader that insists on an order
pays for one.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

T = TypeVar("T")
Layout: TypeAlias = tuple[int, ...]


def identity(rank: int) -> Layout:
    """ONNX order."""
    return tuple(range(rank))


def channels_last(rank: int) -> Layout:
    """[N, C, spatial..] stored as [N, spatial.., C]."""
    return (0, *range(2, rank), 1) if rank > 2 else identity(rank)


def last(rank: int, axis: int) -> Layout:
    """ONNX order, but `axis` is stored last."""
    return (*(a for a in range(rank) if a != axis), axis)


def permute(values: Sequence[T], layout: Layout) -> tuple[T, ...]:
    """Per-axis values in ONNX order -> in the tensor's order."""
    return tuple(values[axis] for axis in layout)


def inverse(layout: Layout) -> Layout:
    return tuple(sorted(range(len(layout)), key=layout.__getitem__))


def steps(source: Layout, target: Layout) -> Layout:
    """The `perm` of a TRANSPOSE that brings a tensor from one layout to another."""
    return tuple(source.index(axis) for axis in target)


def transposed(layout: Layout, perm: Sequence[int]) -> Layout:
    """The layout that the same tensor has as a view of ONNX Transpose(x, perm)."""
    back = inverse(tuple(perm))
    return tuple(back[axis] for axis in layout)


def moves_nothing(shape: Sequence[int], perm: Sequence[int]) -> bool:
    """True when a TRANSPOSE only moves axes of size 1, so that a RESHAPE does it."""
    moved = [axis for axis in perm if shape[axis] != 1]
    return moved == sorted(moved)


def without(layout: Layout, removed: Sequence[int]) -> Layout:
    """The layout after ONNX axes were reduced away; the others are renumbered."""
    kept = sorted(set(layout) - set(removed))
    return tuple(kept.index(axis) for axis in layout if axis in kept)


def with_new_axes(layout: Layout, added: Sequence[int], rank: int) -> Layout:
    """The layout after axes of size 1 were inserted at the ONNX positions `added`, stored where they stand in ONNX
    order."""
    kept = [axis for axis in range(rank) if axis not in added]
    result = [kept[axis] for axis in layout]
    for axis in sorted(added):
        result.insert(result.index(axis - 1) + 1 if axis else 0, axis)
    return tuple(result)


def reshape_groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The finest split of a reshape into independent ones: groups of (old axes, new axes) with equal products.

        [2, 6, 4, 5] -> [2, 2, 3, 20]     =>     ([0], [0]), ([1], [1, 2]), ([2, 3], [3])
    """
    if 0 in old or 0 in new:
        return [(list(range(len(old))), list(range(len(new))))]
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        first_old, first_new, left, right = i, j, 1, 1
        if i < len(old):
            left, i = old[i], i + 1
        if j < len(new):
            right, j = new[j], j + 1
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        groups.append((list(range(first_old, i)), list(range(first_new, j))))
    return groups


def reshape_layouts(old: Sequence[int], new: Sequence[int], layout: Layout) -> tuple[Layout, Layout]:
    """-> (layout in which the old value must be held, layout that its tensor has after a plain RESHAPE).

    The first equals `layout` when the reshape is free. Whole groups keep the order they are stored in; only the axes
    inside a group are brought into ONNX order. So a channel shuffle costs one TRANSPOSE, and merging or splitting
    spatial axes costs none.
    """
    place = {axis: position for position, axis in enumerate(layout)}
    keyed: list[tuple[float, list[int], list[int]]] = []
    previous = -1.0
    for before, after in reshape_groups(old, new):
        wide = [axis for axis in before if old[axis] != 1] or before
        previous = float(min(place[axis] for axis in wide)) if wide else previous + 1e-3
        keyed.append((previous, before, after))
    keyed.sort(key=lambda group: group[0])
    needed = tuple(axis for _, before, _ in keyed for axis in before)
    result = tuple(axis for _, _, after in keyed for axis in after)
    return (layout if moves_nothing(permute(old, layout), steps(layout, needed)) else needed), result


def flattens(old: Sequence[int], new: Sequence[int], layout: Layout) -> bool:
    """[N, C, spatial..] -> [N, F], stored so that each row is one run of numbers."""
    return len(new) == 2 and layout[:1] == (0,) and old[0] == new[0] and all(
        before in ([0], []) or 0 not in before for before, _ in reshape_groups(old, new))


def swapped(rank: int) -> Layout:
    """ONNX order with the last two axes exchanged."""
    return (*range(rank - 2), rank - 1, rank - 2)
