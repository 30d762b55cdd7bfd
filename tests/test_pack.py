"""Packing against the two libraries that read these bytes: onnx writes INT4 initializers in the same order."""
from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgeq.pack import pack4, unpack4


@pytest.mark.parametrize("shape", [(), (1,), (2,), (3, 5), (4, 6), (1, 3, 3, 3)])
@pytest.mark.parametrize(("onnx_type", "low", "high"), [
    (onnx.TensorProto.INT4, -8, 8), (onnx.TensorProto.UINT4, 0, 16)])
def test_onnx_reads_what_we_pack_and_we_read_what_onnx_packs(
    shape: tuple[int, ...], onnx_type: int, low: int, high: int,
) -> None:
    values = np.random.default_rng(0).integers(low, high, shape)
    packed = pack4(values)
    assert packed.nbytes == -(-values.size // 2)
    ours = onnx.TensorProto(data_type=onnx_type, dims=shape, raw_data=packed.tobytes())
    np.testing.assert_array_equal(numpy_helper.to_array(ours).astype(int), values)
    theirs = onnx.helper.make_tensor("w", onnx_type, shape, values.ravel().tolist())
    stored = theirs.raw_data or bytes(theirs.int32_data)
    np.testing.assert_array_equal(
        unpack4(np.frombuffer(stored, np.uint8), shape, signed=low < 0).view(np.int8), values)


def test_low_nibble_first() -> None:
    assert pack4(np.array([1, -2, 7])).tolist() == [0xE1, 0x07]


def test_every_pair_comes_back() -> None:
    pairs = np.stack(np.meshgrid(np.arange(-8, 8), np.arange(-8, 8)), -1)
    np.testing.assert_array_equal(unpack4(pack4(pairs), pairs.shape), pairs)
