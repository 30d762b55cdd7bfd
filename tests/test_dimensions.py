"""How free sizes are written, and which sizes stand for them."""
from __future__ import annotations

import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.dimensions import extremes, free_dimensions, keep_free, parse_dimension, parse_shape, witnesses
from edgeq.errors import UsageError
from edgeq_runtime.dimensions import Choice, Free, Range, fits


@pytest.mark.parametrize(("text", "shape"), [
    ("", ()),
    ("1x3x224x224", (1, 3, 224, 224)),
    ("1x1..128", (1, Range("", 1, 128))),
    ("2..x3", (Range("", 2), 3)),
    ("1x3x320/224x224/224", (1, 3, Choice("", (224, 320)), 224)),
    ("NxT=1..128", (Range("N"), Range("T", 1, 128))),
    ("1,max_len,S=8/16,4..4", (1, Range("max_len"), Choice("S", (8, 16)), 4)),
])
def test_a_shape_is_read(text: str, shape: tuple[object, ...]) -> None:
    assert parse_shape(text) == shape


@pytest.mark.parametrize("text", ["0", "1x", "x3", "1x-1", "8..4", "0..4", "..4", "4/", "4/0", "T=", "=4", "1 x3",
                                  "1x2.5", "T=S", "?"])
def test_what_is_no_shape(text: str) -> None:
    with pytest.raises(UsageError, match="is no size of an axis"):
        parse_shape(text)


SIZES = st.integers(1, 300)
FREE = st.one_of(st.builds(lambda a, b: Range("", min(a, b), max(a, b) + 1), SIZES, SIZES),
                 SIZES.map(lambda low: Range("", low)),
                 st.sets(SIZES, min_size=1).map(lambda sizes: Choice("", tuple(sorted(sizes)))))


@given(st.lists(FREE, min_size=1, max_size=4))
def test_witnesses_are_allowed_and_tell_the_dimensions_apart(limits: list[Free]) -> None:
    free = {f"d{k}": limit for k, limit in enumerate(limits)}
    seen = witnesses(free)
    assert all(free[name].allows(size) for sizes in seen for name, size in sizes.items())
    columns = {name: tuple(sizes[name] for sizes in seen) for name in free}
    for name, column in columns.items():
        assert len(set(column)) > 1 or isinstance(free[name], Choice)
        alike = [other for other in free if other != name and columns[other] == column]
        assert all(isinstance(free[other], Choice) and len(free[other].sizes) == 1 for other in alike)  # type: ignore[union-attr]


@given(FREE)
def test_extremes_are_allowed_and_reach_the_limits(limit: Free) -> None:
    sizes = [found["d"] for found in extremes({"d": limit})]
    assert all(map(limit.allows, sizes))
    if isinstance(limit, Choice):
        assert sizes == list(limit.sizes)
    else:
        assert sizes[0] == limit.low
        assert limit.high in (None, sizes[-1])


@given(st.lists(FREE, max_size=3))
def test_a_model_remembers_its_limits(limits: list[Free]) -> None:
    free = {f"past + {k}": type(limit)(**{**_fields(limit), "name": f"past + {k}"}) for k, limit in enumerate(limits)}
    model = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
    keep_free(model, free)
    assert free_dimensions(model.clone()) == free
    keep_free(model, {})
    assert free_dimensions(model) == {}


def _fields(limit: Free) -> dict[str, object]:
    return {"sizes": limit.sizes} if isinstance(limit, Choice) else {"low": limit.low, "high": limit.high}


@given(FREE)
def test_what_a_message_says_can_be_typed(limit: Free) -> None:
    named = type(limit)(**{**_fields(limit), "name": "T"})  # type: ignore[arg-type]
    assert parse_dimension(str(named)) == named


def test_one_name_has_one_size() -> None:
    batch, length = Range("N", 1, 4), Choice("T", (8, 16))
    assert fits((3, 8, 3), (batch, length, "N"), {})
    assert not fits((3, 8, 2), (batch, length, "N"), {})
    assert not fits((3, 9, 3), (batch, length, "N"), {})
    assert not fits((3, 8), (batch, length, "N"), {})
    sizes: dict[str, int] = {}
    assert fits((2,), (batch,), sizes)
    assert not fits((3,), (batch,), sizes)
