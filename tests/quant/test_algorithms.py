"""The algorithms on arrays: against brute force, against what they must beat, and at the edges."""
from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeq.quant.formats.grid import Whole
from edgeq.quant.solve.adaround import adaround
from edgeq.quant.solve.descent import descend
from edgeq.quant.solve.geometry import Product, Window
from edgeq.quant.solve.gptq import gptq
from edgeq.quant.solve.layer import DEFAULT, Layer, Settings, Solution, solve
from edgeq.quant.solve.moments import Moments, mean_error, objective, output_error
from edgeq.quant.solve.scales import Blocks, clipped_scales, refitted_scales

Array = NDArray[np.float32]
LIMIT = 7
LEVELS = Whole(-LIMIT, LIMIT)


def correlated(size: int, count: int = 4000, *, groups: int = 1, seed: int = 0, mean: float = 0.0) -> Array:
    """Columns [G,n,N] that a few common causes make."""
    random = np.random.default_rng(seed)
    few = max(size // 4, 1)
    mixed = random.normal(size=(groups, size, few)) @ random.normal(size=(groups, few, count))
    return (mixed + 0.3 * random.normal(size=mixed.shape) + mean).astype(np.float32)


def moments_of(seen: Array, true: Array | None = None) -> Moments:
    moments = Moments.empty(*seen.shape[:2])
    moments.add(seen, seen if true is None else true)
    return moments


def weights(groups: int, rows: int, size: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(size=(groups, rows, size)).astype(np.float32)


def nearest(weight: Array, step: Array) -> Array:
    return np.clip(np.rint(weight / step), -LIMIT, LIMIT)


def decibels(better: float, worse: float) -> float:
    return float(10 * np.log10(worse / better))


# -- rounding ----------------------------------------------------------------------------------------------------------

def test_gptq_and_descent_come_near_the_best_of_all_roundings_and_never_below_it() -> None:
    ratios = []
    for seed in range(20):
        weight, moments = weights(1, 1, 5, seed), moments_of(correlated(5, seed=seed))
        problem = objective(weight, moments, free_bias=False)
        step = np.full(weight.shape, np.abs(weight).max() / 3, np.float32)
        every = np.array(list(product(range(-3, 4), repeat=5)), np.float32)[None]
        best = (objective(weight, moments, free_bias=False).error(every * step[0, 0, 0])).min()
        levels = Whole(-3, 3)
        codes = gptq(problem.target, problem.hessian, step, levels)
        codes = descend(codes, problem.target, problem.hessian, step, levels)
        ratios.append(float(problem.error(codes * step).sum() / best))
    assert min(ratios) > 0.999
    assert np.median(ratios) < 1.1


@pytest.mark.parametrize("groups", [1, 3])
def test_gptq_then_descent_beat_nearest_rounding_by_far_where_inputs_go_together(groups: int) -> None:
    weight, moments = weights(groups, 16, 200), moments_of(correlated(200, groups=groups))
    problem = objective(weight, moments, free_bias=False)
    blocks = Blocks(rows=True, size=200)
    steps = clipped_scales(weight, problem.hessian, blocks, LIMIT, np.full(groups * 16, 1e-6, np.float32))
    step = blocks.spread(steps, weight.shape)
    error = {"nearest": nearest(weight, step), "gptq": gptq(weight, problem.hessian, step, LEVELS)}
    error["both"] = descend(error["gptq"], weight, problem.hessian, step, LEVELS)
    error["descent"] = descend(error["nearest"], weight, problem.hessian, step, LEVELS)
    found = {name: float(problem.error(codes * step).sum()) for name, codes in error.items()}
    assert decibels(found["gptq"], found["nearest"]) > 6
    assert decibels(found["descent"], found["nearest"]) > 5
    assert decibels(found["both"], found["gptq"]) > 0.3


def test_gptq_is_the_textbook_algorithm() -> None:
    """Against the inverse that is downdated column by column, as Optimal Brain Quantization states it."""
    weight = weights(1, 3, 150)
    square = objective(weight, moments_of(correlated(150)), free_bias=False).hessian
    step = np.full(weight.shape, 0.3, np.float32)
    order = np.argsort(-np.diagonal(square[0]))
    rows, inverse = weight[0].astype(np.float64), np.linalg.inv(square[0].astype(np.float64))
    expected = np.zeros_like(rows)
    for j in order:
        expected[:, j] = np.clip(np.rint(rows[:, j] / 0.3), -LIMIT, LIMIT)
        off = (rows[:, j] - expected[:, j] * 0.3) / inverse[j, j]
        rows = rows - off[:, None] * inverse[j]
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    got = gptq(weight, square, step, LEVELS)[0]
    assert (got == expected).mean() > 0.99


def test_adaround_comes_near_the_best_choice_of_up_and_down() -> None:
    ratios = []
    for seed in range(12):
        weight, moments = weights(1, 1, 8, seed), moments_of(correlated(8, seed=seed))
        problem = objective(weight, moments, free_bias=False)
        step = np.full(weight.shape, np.abs(weight).max() / 3, np.float32)
        ways = np.array(list(product((0, 1), repeat=8)), np.float32)[None]
        every = np.clip(np.floor(weight / step) + ways, -3, 3)
        best = problem.error(every * step[0, 0, 0]).min()
        codes = adaround(weight, problem.hessian, step, 3)
        assert set(np.unique(codes - np.floor(weight / step))) <= {0, 1}
        ratios.append(float(problem.error(codes * step).sum() / best))
    assert min(ratios) > 0.999
    assert np.median(ratios) < 1.3


@pytest.mark.parametrize("groups", [1, 3])
def test_adaround_beats_nearest_rounding_and_never_loses_to_it(groups: int) -> None:
    weight, moments = weights(groups, 8, 72), moments_of(correlated(72, groups=groups))
    problem = objective(weight, moments, free_bias=False)
    step = np.full(weight.shape, 0.45, np.float32)
    plain, found = (problem.error(codes * step) for codes in (
        nearest(weight, step), adaround(weight, problem.hessian, step, LIMIT)))
    assert (found <= plain * 1.0001).all()
    assert decibels(float(found.sum()), float(plain.sum())) > 3


@given(seed=st.integers(0, 1000), rows=st.integers(1, 4), size=st.integers(1, 70),
       scale=st.sampled_from([1e-6, 1.0, 1e4]))
def test_descent_stays_on_the_grid_and_never_raises_the_error(seed: int, rows: int, size: int, scale: float) -> None:
    weight = weights(2, rows, size, seed) * np.float32(scale)
    problem = objective(weight, moments_of(correlated(size, 50, groups=2, seed=seed)), free_bias=False)
    step = np.full(weight.shape, 0.35 * scale, np.float32)
    before = nearest(weight, step)
    after = descend(before, weight, problem.hessian, step, LEVELS)
    assert np.abs(after).max() <= LIMIT
    assert (after == np.rint(after)).all()
    assert (problem.error(after * step) <= problem.error(before * step) * 1.0001 + 1e-12).all()
    assert np.abs(gptq(weight, problem.hessian, step, LEVELS)).max() <= LIMIT


# -- steps -------------------------------------------------------------------------------------------------------------

def test_a_clip_costs_less_than_the_full_range_where_an_outlier_meets_a_silent_input() -> None:
    weight = weights(1, 4, 64)
    weight[:, :, 5] = 40
    data = correlated(64)
    data[:, 5] *= 1e-3
    square = objective(weight, moments_of(data), free_bias=False).hessian
    blocks = Blocks(rows=True, size=64)
    full = np.abs(weight).max(axis=2).reshape(-1) / LIMIT
    found = clipped_scales(weight, square, blocks, LIMIT, full * 0.01)
    assert (found < 0.5 * full).all()


@pytest.mark.parametrize("blocks", [Blocks(rows=True, size=24), Blocks(rows=True, size=8), Blocks(rows=False, size=24)])
def test_refitted_steps_never_raise_the_error_and_find_planted_ones(blocks: Blocks) -> None:
    random = np.random.default_rng(3)
    codes = random.integers(-7, 8, (1, 5, 24)).astype(np.float32)
    planted = (random.uniform(0.5, 2, 1 if not blocks.rows else 5 * 24 // blocks.size)).astype(np.float32)
    target = codes * blocks.spread(planted, codes.shape)
    problem = objective(target, moments_of(correlated(24)), free_bias=False)
    steps, errors = planted * 1.3, []
    for _ in range(60):
        errors.append(float(problem.error(codes * blocks.spread(steps, codes.shape)).sum()))
        steps = refitted_scales(codes, target, problem.hessian, steps, blocks, planted * 0.01)
    assert (np.diff(errors) <= 1e-4 * errors[0]).all()
    np.testing.assert_allclose(steps, planted, rtol=0.02)


# -- the target and the bias -------------------------------------------------------------------------------------------

def test_the_target_undoes_a_linear_error_of_the_layers_before() -> None:
    true = correlated(12)
    mixing = np.eye(12, dtype=np.float32) + 0.2 * np.random.default_rng(4).normal(size=(12, 12)).astype(np.float32)
    seen = mixing @ true
    weight = weights(1, 4, 12)
    target = objective(weight, moments_of(seen, true), free_bias=False, correction=1e-6).target
    np.testing.assert_allclose(target, weight @ np.linalg.inv(mixing)[None], atol=0.01)
    unmoved = objective(weight, moments_of(seen, true), free_bias=False).target
    np.testing.assert_array_equal(unmoved, weight)


def test_output_error_and_mean_error_are_what_running_the_layer_gives() -> None:
    true, seen = correlated(6, groups=2, mean=1), correlated(6, groups=2, seed=9, mean=2)
    weight, other, shift = weights(2, 3, 6), weights(2, 3, 6, 5), weights(2, 3, 1, 6)[:, :, 0]
    moments = moments_of(seen, true)
    wanted = weight @ true
    np.testing.assert_allclose(mean_error(weight, other, moments), (wanted - other @ seen).mean(2), atol=1e-3)

    def loss(quantized: Array, moved: Array) -> Array:
        return np.asarray(((wanted - quantized @ seen - moved[:, :, None])**2).mean(2))

    constant = loss(weight, np.zeros((2, 3), np.float32))
    np.testing.assert_allclose(output_error(weight, other, shift, moments) + constant, loss(other, shift), rtol=1e-3)


# -- a layer -----------------------------------------------------------------------------------------------------------

def layer_of(weight: Array, *, bias: bool = True) -> tuple[Layer, list[Solution]]:
    blocks = Blocks(rows=True, size=weight.shape[2])
    steps = np.maximum(np.abs(weight).max(2).reshape(-1), 1e-9) / LIMIT
    plain = Solution(nearest(weight, blocks.spread(steps, weight.shape)), steps)
    return Layer(weight, blocks, LIMIT, steps * 0.1, bias), [plain]


def test_a_layer_is_fitted_far_better_than_rounded() -> None:
    weight, data = weights(1, 8, 64), correlated(64, mean=1)
    layer, rounded = layer_of(weight)
    held = moments_of(data[:, :, 3000:])
    found = solve(layer, moments_of(data[:, :, :3000]), held, rounded, DEFAULT)

    def error(solution: Solution) -> float:
        return float(output_error(weight, solution.weight(layer.blocks), solution.shift, held).sum())

    assert decibels(error(found), error(rounded[0])) > 10


def test_misleading_samples_lose_to_rounding_without_data() -> None:
    weight = weights(1, 8, 64)
    layer, rounded = layer_of(weight)
    found = solve(layer, moments_of(correlated(64, 3, seed=1)), moments_of(weights(1, 64, 4000, 7)), rounded, DEFAULT)
    assert found is rounded[0]


@pytest.mark.parametrize("settings", [DEFAULT, Settings(gptq=False), Settings(passes=0, clip=False)])
@pytest.mark.parametrize("data", [
    np.zeros((2, 6, 50)), np.ones((2, 6, 50)), np.zeros((2, 6, 1)), correlated(6, 2, groups=2),
    1e8 * correlated(6, groups=2), correlated(6, groups=2) * np.array([1, 0, 1, 0, 1, 0])[:, None],
    1e-12 * correlated(6, groups=2),
], ids=["silent", "constant", "one sample", "two samples", "huge", "dead inputs", "tiny"])
def test_singular_moments_and_dead_rows_give_finite_steps(data: Array, settings: Settings) -> None:
    weight = weights(2, 3, 6)
    weight[0, 1] = 0
    layer, rounded = layer_of(weight)
    moments = moments_of(data.astype(np.float32))
    found = solve(layer, moments, moments, rounded, settings)
    assert np.isfinite(found.scales).all()
    assert (found.scales > 0).all()
    assert np.abs(found.integers).max() <= LIMIT
    assert found.shift is None or np.isfinite(found.shift).all()
    assert not found.integers[0, 1].any() or settings is not DEFAULT


# -- geometry ----------------------------------------------------------------------------------------------------------

WINDOWS = {
    "plain": ("Conv", {"pads": [0, 0, 0, 0]}, (1, 4, 7, 6), (6, 4, 3, 2)),
    "strided, padded, grouped": ("Conv", {"strides": [2, 3], "pads": [1, 0, 2, 1], "group": 2}, (2, 4, 9, 8),
                                 (6, 2, 3, 3)),
    "dilated depthwise": ("Conv", {"dilations": [2, 1], "group": 4, "pads": [2, 1, 2, 1]}, (1, 4, 9, 8), (4, 1, 3, 3)),
    "one axis": ("Conv", {"pads": [2, 0]}, (2, 3, 11), (5, 3, 3)),
    "transposed": ("ConvTranspose", {"strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 0]}, (2, 4, 5, 4),
                   (4, 3, 3, 4)),
    "transposed, grouped, dilated": ("ConvTranspose", {"group": 2, "dilations": [2, 1]}, (1, 4, 5, 4), (4, 3, 2, 3)),
    "Gemm": ("Gemm", {}, (5, 6), (6, 3)),
    "Gemm, transposed": ("Gemm", {"transB": 1}, (5, 6), (3, 6)),
    "MatMul": ("MatMul", {}, (2, 5, 6), (6, 3)),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_rows_times_columns_is_what_onnxruntime_computes(name: str) -> None:
    import onnx_ir as ir

    from edgeq.inference.reference import run_onnx
    from edgeq.quant.fit import geometry_of

    op, attributes, shape, stored = WINDOWS[name]
    random = np.random.default_rng(8)
    data, weight = (random.normal(size=size).astype(np.float32) for size in (shape, stored))
    x = ir.Value(name="x", shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    w = ir.Value(name="w", shape=ir.Shape(stored), const_value=ir.tensor(weight, name="w"),
                 type=ir.TensorType(ir.DataType.FLOAT))
    node = ir.node(op, [x, w], attributes)
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph([x], [node.outputs[0]], nodes=[node], initializers=[w], opset_imports={"": 21}, name="g")
    (run,) = run_onnx(ir.Model(graph, ir_version=10), [{"x": data}])
    geometry = geometry_of(node)
    assert isinstance(geometry, Product | Window)
    rows = geometry.rows(weight)
    np.testing.assert_array_equal(geometry.weight(rows, stored), weight)
    count = geometry.positions(shape)
    chosen = np.arange(count)[::2]
    got = rows @ geometry.columns(data, chosen)
    y = run["y"]
    flat = y.reshape(-1, y.shape[-1]).T if op in ("Gemm", "MatMul") else np.moveaxis(y, 1, 0).reshape(y.shape[1], -1)
    assert flat.shape[1] == count
    np.testing.assert_allclose(got.reshape(flat.shape[0], -1), flat[:, chosen], atol=1e-4)
