"""Arithmetic of layouts against numpy's own transpose and reshape."""
from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgeq_converters.tflite.layout import (
    channels_last,
    identity,
    inverse,
    last,
    moves_nothing,
    permute,
    reshape_groups,
    reshape_layouts,
    steps,
    transposed,
    with_new_axes,
    without,
)

SHAPES = [(2, 6, 4, 5), (1, 6, 4, 5), (2, 6, 1, 5), (1, 3, 1, 7)]


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_bring_any_layout_to_any_other(shape: tuple[int, ...]) -> None:
    data = np.arange(np.prod(shape)).reshape(shape)
    for source, target in itertools.product(itertools.permutations(range(4)), repeat=2):
        moved = data.transpose(source).transpose(steps(source, target))
        np.testing.assert_array_equal(moved, data.transpose(target))
        if moves_nothing(permute(shape, source), steps(source, target)):
            np.testing.assert_array_equal(data.transpose(source).reshape(moved.shape), moved)


def test_a_transpose_is_a_relabelling() -> None:
    data = np.arange(120).reshape(2, 3, 4, 5)
    for layout, perm in itertools.product(itertools.permutations(range(4)), repeat=2):
        np.testing.assert_array_equal(data.transpose(perm).transpose(transposed(layout, perm)), data.transpose(layout))


RESHAPES = [((2, 6, 4, 5), (2, 6, 20)), ((2, 6, 4, 5), (2, 2, 3, 4, 5)), ((2, 6, 4, 5), (2, 120)),
            ((1, 6, 4, 5), (6, 20)),
            ((2, 6, 20), (2, 6, 4, 5)), ((2, 6, 4, 5), (12, 4, 5)), ((2, 1, 4, 5), (2, 4, 5)),
            ((4, 5), (1, 4, 1, 5, 1))]


@pytest.mark.parametrize(("old", "new"), RESHAPES)
def test_a_reshape_in_any_layout(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    data = np.arange(np.prod(old)).reshape(old)
    for layout in itertools.permutations(range(len(old))):
        needed, made = reshape_layouts(old, new, layout)
        tensor = data.transpose(layout).transpose(steps(layout, needed))
        np.testing.assert_array_equal(tensor.reshape(permute(new, made)), data.reshape(new).transpose(made))


def test_which_reshapes_are_free() -> None:
    nhwc = channels_last(4)
    assert reshape_layouts((2, 6, 4, 5), (2, 6, 20), nhwc) == (nhwc, (0, 2, 1))
    assert reshape_layouts((2, 6, 4, 5), (2, 2, 3, 4, 5), nhwc) == (nhwc, (0, 3, 4, 1, 2))
    assert reshape_layouts((2, 6, 4, 5), (2, 120), nhwc)[0] == identity(4)


def test_groups() -> None:
    assert reshape_groups((2, 6, 4, 5), (2, 2, 3, 20)) == [([0], [0]), ([1], [1, 2]), ([2, 3], [3])]
    assert reshape_groups((2, 0), (0, 3)) == [([0, 1], [0, 1])]


def test_small_functions() -> None:
    assert last(4, 1) == (0, 2, 3, 1) == channels_last(4)
    assert inverse((0, 2, 3, 1)) == (0, 3, 1, 2)
    assert without((0, 2, 3, 1), [2, 3]) == (0, 1)
    data = np.arange(24).reshape(2, 3, 4)
    wide = with_new_axes((0, 2, 1), [0], 4)
    np.testing.assert_array_equal(data.reshape(1, 2, 3, 4).transpose(wide).reshape(2, 4, 3), data.transpose(0, 2, 1))
