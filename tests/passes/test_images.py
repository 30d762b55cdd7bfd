"""Which images are channels first, and what makes them channels last."""
from __future__ import annotations

import numpy as np
import pytest
from small_graphs import network, normal

from edgeq.errors import UsageError
from edgeq.inference.reference import run_onnx
from edgeq.passes.images import arrays_channels_last, channels_first_names, layouts, make_channels_last

WEIGHTS = {"w": normal(4, 3, 3, 3), "k": normal(4, 3, 5), "m": normal(7, 6), "s": np.array([1, 189])}
PICTURE, TIMES = "float[1,3,9,7] x", "float[1,3,9] x"
# Graph -> what is known of x and y.
KNOWN = {
    "read and made by a convolution": (f"({PICTURE}) => (float[1,4,7,5] y) {{ y = Conv (x, w) }}", "NCHW NCHW"),
    "through pointwise operators": (
        f"({PICTURE}) => (float[1,4,7,5] y) {{ a = Relu (x) b = Add (a, x) c = Conv (b, w) y = Sigmoid (c) }}",
        "NCHW NCHW"),
    "channels last as it came": (
        "(float[1,9,7,3] x) => (float[1,7,5,4] y) { a = Transpose <perm = [0,3,1,2]> (x) b = Conv (a, w) "
        "y = Transpose <perm = [0,2,3,1]> (b) }", "NHWC NHWC"),
    "one axis of space": (f"({TIMES}) => (float[1,4,5] y) {{ y = Conv (x, k) }}", "NCW NCW"),
    "pooled to nothing": (f"({PICTURE}) => (float[1,3,1,1] y) {{ y = GlobalAveragePool (x) }}", "NCHW -"),
    "rows of a matrix": (f"({PICTURE}) => (float[1,3,9,6] y) {{ y = MatMul (x, m) }}", "- -"),
    "flattened": (f"({PICTURE}) => (float[1,189] y) {{ y = Reshape (x, s) }}", "- -"),
    "another order": (
        "(float[1,7,3,9] x) => (float[1,4,7,5] y) { a = Transpose <perm = [0,2,3,1]> (x) y = Conv (a, w) }", "- NCHW"),
    "read in two orders": (
        "(float[1,3,3,3] x) => (float[1,4,1,1] y, float[1,4,1,1] z) { a = Transpose <perm = [0,3,1,2]> (x) "
        "y = Conv (a, w) z = Conv (x, w) }", "- NCHW"),
    "only a filter": ("(float[1,3,9,7] z, float[4,3,3,3] x) => (float[1,4,7,5] y) { y = Conv (z, x) }", "- NCHW"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_what_is_known(name: str) -> None:
    text, expected = KNOWN[name]
    known = layouts(network("g " + text, **WEIGHTS).graph)
    assert f"{known.get('x', '-')} {known.get('y', '-')}" == expected


@pytest.mark.parametrize("name", [name for name, (_, known) in KNOWN.items() if "NC" in known])
def test_the_same_numbers_channels_last(name: str) -> None:
    text, _ = KNOWN[name]
    model, turned = network("g " + text, **WEIGHTS), network("g " + text, **WEIGHTS)
    names = channels_first_names(model.graph)
    make_channels_last(turned, names)
    feed = {value.name: normal(*value.shape.numpy(), seed=3) for value in model.graph.inputs}
    (expected,), (found,) = run_onnx(model, [feed]), run_onnx(turned, [arrays_channels_last(feed, names)])
    assert list(found) == list(expected)
    assert {name: array.shape for name, array in found.items()} == {
        value.name: tuple(value.shape.numpy()) for value in turned.graph.outputs}
    for output, array in arrays_channels_last(expected, names).items():
        np.testing.assert_array_equal(found[output], array)
    assert "C" not in "".join(layout[1] for layout in layouts(turned.graph).values())


@pytest.mark.parametrize("name", ["rows of a matrix", "channels last as it came"])
def test_nothing_to_turn_is_an_error_of_use(name: str) -> None:
    with pytest.raises(UsageError, match=r"'x' (NHWC|no image that is known), 'y'"):
        channels_first_names(network("g " + KNOWN[name][0], **WEIGHTS).graph)
