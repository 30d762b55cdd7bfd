"""The number formats of Core ML files, and the interpreter's table of ops against coremltools' registry."""
from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edgeq.errors import BundleError
from edgeq.verification.mlpackage.functions import erf
from edgeq.verification.mlpackage.ops import REFUSED, all_ops
from edgeq.verification.mlpackage.storage import BlobFile
from edgeq.verification.mlpackage.types import BY_NAME, TensorType, round_to_float16, unpack_bits

RANDOM = np.random.default_rng(5)


def test_rounding_to_float16_is_exact() -> None:
    """Every float16, every midpoint between two, and the float32 values next to these, of both signs."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = ((halves[1:].astype(np.float64) + halves[:-1]) / 2).astype(np.float32)
    values = np.concatenate(
        [halves, middles, np.nextafter(middles, np.float32(0)), np.nextafter(middles, np.float32(1e9))]
    )
    values = np.concatenate([values, -values])
    assert np.array_equal(round_to_float16(values), values.astype(np.float16).astype(np.float32))
    extreme = np.array([65519, 65520, -1e30, np.inf, -np.inf, np.nan], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.array_equal(round_to_float16(extreme), extreme.astype(np.float16).astype(np.float32), equal_nan=True)
    assert round_to_float16(np.float32(0.1)).shape == ()


def test_erf() -> None:
    x = np.linspace(-6, 6, 20001).astype(np.float32)
    assert np.abs(erf(x) - np.array([math.erf(value) for value in x])).max() < 1.3e-7


def test_the_handlers_are_mils_ops_with_mils_inputs() -> None:
    """Every op of coremltools has a handler with exactly its inputs over all versions, or a reason why it has none."""
    pytest.importorskip("coremltools")
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    registry = SSAOpRegistry.core_ops
    table = all_ops()
    loader = {"const", "_const_symbolic"}
    assert set(registry) - set(table) - loader == set(REFUSED)
    assert set(table) - set(registry) == {"write_state"}  # coreml_update_state is written as write_state and read_state
    for name in set(table) & set(registry):
        versions = [cls.input_spec.input_types for cls in registry[name].values()]
        handler = table.get(name)
        assert handler is not None
        assert handler.inputs == {key for spec in versions for key in spec if not key.startswith("_")}, name
        required = [
            {key for key, kind in spec.items() if not kind.optional and not key.startswith("_")} for spec in versions
        ]
        assert all(handler.required <= keys for keys in required), name


@pytest.mark.parametrize(
    ("kind", "signed"),
    [("uint1", False), ("uint2", False), ("uint3", False), ("uint4", False), ("int4", True), ("uint6", False)],
)
def test_packed_values_are_read_as_coremltools_packs_them(kind: str, signed: bool) -> None:
    pytest.importorskip("coremltools")
    from coremltools.optimize._utils import pack_elements_into_bits

    bits = BY_NAME[kind].bits
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
    values = RANDOM.integers(low, high, 37).astype(np.int8 if signed else np.uint8)
    packed = np.asarray(pack_elements_into_bits(values, bits)).view(np.uint8)
    assert np.array_equal(unpack_bits(packed, values.size, bits, signed), values)


_BLOBS = [
    ("fp16", "float16"),
    ("float", "float32"),
    ("uint8", "uint8"),
    ("int8", "int8"),
    ("int16", "int16"),
    ("uint16", "uint16"),
    ("int4", "int4"),
    ("uint1", "uint1"),
    ("uint2", "uint2"),
    ("uint3", "uint3"),
    ("uint4", "uint4"),
    ("uint6", "uint6"),
    ("int32", "int32"),
    ("uint32", "uint32"),
]


@pytest.mark.parametrize(("writer", "name"), _BLOBS, ids=[row[0] for row in _BLOBS])
def test_weight_files_by_apples_writer(writer: str, name: str, tmp_path: Any) -> None:
    pytest.importorskip("coremltools")
    from coremltools.libmilstoragepython import _BlobStorageWriter

    element = BY_NAME[name]
    values = RANDOM.integers(0, min(2, 1 << element.bits), 13).astype(element.carrier)
    raw = values.astype(np.float16).view(np.uint16) if writer == "fp16" else values
    storage = _BlobStorageWriter(str(tmp_path / "weight.bin"))
    getattr(storage, f"write_{writer}_data")(np.ones(5, np.float32) if writer == "float" else raw[:5])
    offset = getattr(storage, f"write_{writer}_data")(raw)
    del storage
    blobs = BlobFile(tmp_path / "weight.bin")
    assert np.array_equal(blobs.read(offset, TensorType(element, (13,))), values)
    other = BY_NAME["float32" if name != "float32" else "int32"]
    for wrong, type in (
        (offset + 1, TensorType(element, (13,))),
        (offset, TensorType(other, (13,))),
        (offset, TensorType(element, (99,))),
        (10**6, TensorType(element, (13,))),
    ):
        with pytest.raises(BundleError, match=r"weight\.bin at"):
            blobs.read(wrong, type)
