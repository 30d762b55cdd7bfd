"""GGUF's types, read back by the gguf package, whose code shares nothing with ours."""
from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeq.quant.formats import FORMATS, BlockFormat
from edgeq.quant.formats.fit import fit_codes
from edgeq.quant.formats.grid import Array
from edgeq.quant.formats.layout import Minimum, Scale, Signed, size_of

# SQNR in dB, weighted, of what ggml's own ggml_quantize_chunk writes of `weights()` with the same importance (llama.cpp
# b11549): what codes by the nearest level should come near to.
GGML_DB = {"Q4_0": 20.00, "Q4_1": 22.43, "Q5_0": 26.04, "Q5_1": 28.70, "Q8_0": 43.43, "Q2_K": 11.48, "Q3_K": 15.85,
           "Q4_K": 22.25, "Q5_K": 28.07, "Q6_K": 33.94, "IQ4_NL": 21.57}
SHORT_DB = 0.35


def weights() -> tuple[Array, Array]:
    generator = np.random.default_rng(0)
    return ((generator.standard_t(5, size=(64, 1024)) * 0.02).astype(np.float32),
            generator.gamma(1, 1, 1024).astype(np.float32))


def read_by_gguf(data: NDArray[np.uint8], row: BlockFormat) -> Array:
    kind = gguf.GGMLQuantizationType(row.type)
    assert kind.name == row.name
    assert gguf.GGML_QUANT_SIZES[kind] == (row.unit, row.unit_bytes)
    return np.asarray(gguf.dequantize(data, kind), np.float32)


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_gguf_reads_what_we_write(row: BlockFormat) -> None:
    weight, importance = weights()
    data = row.quantize(weight, importance)
    expected = read_by_gguf(data, row)
    np.testing.assert_array_equal(row.dequantize(data), expected)
    error = (importance * (expected - weight) ** 2).sum()
    assert 10 * np.log10((importance * weight ** 2).sum() / error) > GGML_DB[row.name] - SHORT_DB
    np.testing.assert_array_equal(row.pack(*row.unpack(data)), data)


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_any_bytes_are_read_alike(row: BlockFormat) -> None:
    """Every bit of every part has its place: random bytes, but for scales that are numbers."""
    units = np.random.default_rng(1).integers(0, 256, (8, row.unit_bytes), np.uint8)
    start = 0
    for part in row.layout:
        size = size_of(part, row.unit, row.unit // row.block)
        if isinstance(part, Scale | Minimum):
            units[:, start:start + 2] = np.array([0.37], np.float16).view(np.uint8)
        if isinstance(part, Signed):
            units[:, start:start + size][units[:, start:start + size] == 128] = 7  # -128 is never written
        start += size
    np.testing.assert_array_equal(row.dequantize(units), read_by_gguf(units, row))


EXTREMES: dict[str, Any] = {
    "zeros": np.zeros((1, 256)), "one number": np.full((1, 256), 0.03), "tiny": np.full((1, 256), 1e-30),
    "below 0": -np.abs(np.random.default_rng(2).normal(size=(1, 256))),
    "an outlier": np.r_[np.full(255, 0.01), 90][None], "beyond half": np.full((1, 256), 1e9),
}


@pytest.mark.parametrize("kind", EXTREMES)
@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_extremes_stay_numbers(row: BlockFormat, kind: str) -> None:
    weight = np.asarray(EXTREMES[kind], np.float32)
    found = read_by_gguf(row.quantize(weight), row)
    assert np.isfinite(found).all()
    if kind in ("zeros", "tiny"):
        assert not found.any()
    if kind == "one number":
        np.testing.assert_allclose(found, weight, rtol=0.02)


def test_a_row_must_hold_whole_units() -> None:
    assert FORMATS["Q4_0"].fits(96)
    assert not FORMATS["Q4_K"].fits(96)


@pytest.mark.parametrize("row", FORMATS.values(), ids=FORMATS)
def test_the_fit_lowers_the_error_of_every_row_and_is_read_by_gguf(row: BlockFormat) -> None:
    generator = np.random.default_rng(0)
    weight = weights()[0][:16, :512]
    weight[3, :256] = 0  # blocks whose scale is 0
    inputs = (generator.normal(size=(2000, 64)) @ generator.normal(size=(64, 512))).astype(np.float32)
    gram = inputs.T @ inputs / 2000 + np.eye(512, dtype=np.float32)
    grid, levels = fit_codes(row, weight, gram)
    got = read_by_gguf(row.pack(grid, levels), row)

    def errors(of: Array) -> Array:
        return np.asarray((((of - weight) @ gram) * (of - weight)).sum(1))

    ratio = errors(got) / errors(grid.real(grid.nearest(weight)))
    assert ratio.max() <= 1
    assert ratio.mean() < 0.5, ratio.mean()
