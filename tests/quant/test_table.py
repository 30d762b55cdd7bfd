"""Weights as entries of tables: on arrays against brute force, and in Core ML packages by the interpreter."""
from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from small_graphs import network, normal

from edgeq import convert
from edgeq.errors import UsageError
from edgeq.quant.solve.layer import DEFAULT
from edgeq.quant.solve.moments import Moments, objective
from edgeq.quant.solve.table import choose_tables, fit_to_tables, nearest_entry, round_to_tables, solve_tables

Array = NDArray[np.float32]


def best_partition(row: Array, importance: Array, entries: int) -> float:
    """Least weighted squared error over all ways to cut a sorted row into runs, each with its mean."""
    order = np.argsort(row)
    row, importance = row[order].astype(np.float64), importance[order].astype(np.float64)
    best = np.inf
    for cuts in combinations(range(1, len(row)), entries - 1):
        error = 0.0
        for start, stop in zip((0, *cuts), (*cuts, len(row)), strict=True):
            part, weight = row[start:stop], importance[start:stop]
            error += float((weight * (part - (weight * part).sum() / weight.sum()) ** 2).sum())
        best = min(best, error)
    return best


def test_k_means_comes_near_the_best_of_all_partitions() -> None:
    random, ratios = np.random.default_rng(0), []
    for _ in range(20):
        row, importance = random.normal(size=(1, 11)).astype(np.float32), random.uniform(0.2, 3, (1, 11))
        tables = choose_tables(row, importance.astype(np.float32), 4)
        off = row - np.take_along_axis(tables, nearest_entry(row, tables), 1)
        ratios.append(float((importance * off**2).sum()) / best_partition(row[0], importance[0], 4))
    assert min(ratios) > 0.999
    assert np.median(ratios) < 1.1


def moments_of(size: int, groups: int = 1, seed: int = 0) -> Moments:
    random = np.random.default_rng(seed)
    columns = random.normal(size=(groups, size, 6)) @ random.normal(size=(groups, 6, 600))
    columns = (columns + 0.3 * random.normal(size=columns.shape)).astype(np.float32)
    moments = Moments.empty(groups, size)
    moments.add(columns, columns)
    return moments


@pytest.mark.parametrize("groups", [1, 3])
def test_descent_over_entries_stays_in_the_table_and_lowers_the_error(groups: int) -> None:
    weight = normal(groups, 5, 36, seed=1)
    problem = objective(weight, moments_of(36, groups), free_bias=False)
    tables = choose_tables(weight.reshape(-1, 36), np.ones((groups * 5, 36), np.float32)).reshape(groups, 5, 16)
    flat = tables.reshape(-1, 16)
    nearest = np.take_along_axis(flat, nearest_entry(weight.reshape(-1, 36), flat), 1).reshape(weight.shape)
    found = fit_to_tables(weight, problem.hessian, tables)
    assert all(set(row) <= set(table) for row, table in zip(found.reshape(-1, 36), flat, strict=True))
    assert problem.error(found).sum() < problem.error(nearest).sum() / 3


@pytest.mark.parametrize(("channels", "tables"), [(1, 12), (4, 3), (5, 3), (100, 1)])
def test_channels_share_tables_of_sixteen_codes(channels: int, tables: int) -> None:
    """5 does not divide 12; the next smaller that does is 4."""
    weight = normal(1, 12, 50, seed=3)
    for found in (round_to_tables(weight, channels),
                  solve_tables(weight, channels, moments_of(50), moments_of(50, seed=1), True, DEFAULT)):
        groups = found.integers.reshape(tables, -1)
        assert np.abs(groups).max() <= 127
        assert max(len(np.unique(group)) for group in groups) <= 16
        assert all(len(np.unique(part)) == 1 for part in found.scale.reshape(tables, -1))


def test_all_zero_and_constant_rows_are_no_trouble() -> None:
    weight = np.stack([np.zeros(9), np.full(9, -2.5), np.linspace(-1, 1, 9)])[None].astype(np.float32)
    found = round_to_tables(weight, 1)
    assert np.isfinite(found.scale).all()
    assert (found.scale > 0).all()
    assert found.weight == pytest.approx(weight, abs=0.01)


# -- in packages -------------------------------------------------------------------------------------------------------

def heavy(*shape: int, seed: int) -> Array:
    """Weights with long tails, for which evenly spaced levels are a poor choice."""
    return (np.random.default_rng(seed).standard_t(3, size=shape) / 8).astype(np.float32)


def mixed() -> ir.Model:
    return network("""
        g (float[1,8,10,9] x) => (float[1,20] y) {
            a = Conv <pads = [1,1,1,1]> (x, w1, b1)
            r = Relu (a)
            c = Conv <group = 4> (r, w2, b2)
            s = Relu (c)
            t = Conv (s, w3)
            p = GlobalAveragePool (t)
            f = Flatten (p)
            y = MatMul (f, w4)
        }""", w1=heavy(32, 8, 3, 3, seed=1), b1=normal(32, seed=2), w2=heavy(24, 8, 3, 3, seed=3),
        b2=normal(24, seed=4), w3=heavy(40, 24, 1, 1, seed=5), w4=heavy(40, 20, seed=6))


def samples(count: int, seed: int) -> list[dict[str, Array]]:
    random = np.random.default_rng(seed)
    return [{"x": random.normal(size=(1, 8, 10, 9)).cumsum(3).astype(np.float32)} for _ in range(count)]


def converted(folder: Path, weights: str, *, bits: int = 4, fitted: bool) -> tuple[int, float]:
    """(bytes, dB to float)."""
    bundle = convert(mixed(), target="coreml", bits=bits, weights=weights, activations="float",
                     calibration=samples(60, 0) if fitted else None, output=folder / f"{weights}{bits}{fitted}")
    return bundle.artifact_bytes, bundle.report["verification"]["against_float"][0]["sqnr_db"]


@pytest.mark.parametrize("fitted", [False, True])
def test_tables_beat_even_levels_at_the_bytes_of_four_bits(fitted: bool, tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    size, decibel = converted(tmp_path, "table", fitted=fitted)
    even_size, even = converted(tmp_path, "per-channel", fitted=fitted)
    wide_size, _ = converted(tmp_path, "per-channel", bits=8, fitted=False)
    assert decibel > even + 1
    assert size < even_size * 1.1  # short channels share one table of even levels
    assert size < wide_size


def test_channels_that_share_a_table_make_the_package_smaller(tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    assert converted(tmp_path, "table:8", fitted=False)[0] < converted(tmp_path, "table", fitted=False)[0]


@pytest.mark.parametrize(("words", "options"), [
    ("onnxruntime and tflite multiply 4-bit integers", {}), ("goes with --bits 4", {"bits": 8}),
    ("needs --min-os 18", {"min_os": 17}), ("use table, or table:CHANNELS", {"weights": "table:x"}),
    ("use table, or table:CHANNELS", {"weights": "table:0"})])
def test_what_has_no_tables_is_told(words: str, options: dict[str, object], tmp_path: Path) -> None:
    from edgeq.conversion.options import Options
    from edgeq.conversion.pipeline import convert_all

    chosen = Options(**({"bits": 4, "weights": "table"} | options))
    with pytest.raises(UsageError, match=words):
        convert_all(mixed(), ["onnxruntime", "tflite"], chosen, tmp_path)
    assert list(tmp_path.iterdir()) == []
