"""Embeddings: the table of a Gather as 8-bit rows, in the plan, in the QDQ graph and in what the backends write."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray
from opcases import run_onnxruntime
from opcases.engines import BACKENDS, run
from small_graphs import network, normal

from edgeq.backend import EmitOptions
from edgeq.conversion.inspect import weight_bytes
from edgeq.graph import constant
from edgeq.passes import canonicalize
from edgeq.quant.calibrate import CALIBRATORS, calibrate
from edgeq.quant.float16 import store_half
from edgeq.quant.plan import Precision, QuantPlan, make_plan
from edgeq.quant.qdq import DEQUANTIZE
from edgeq.quant.quantize import quantize
from edgeq.quant.sensitivity import sensitivity
from edgeq.scheme import PRESETS, PerChannel, PerTensor, QuantScheme, QuantType
from edgeq_converters.coreml.target import COREML
from edgeq_converters.onnxruntime.target import ONNXRUNTIME
from edgeq_converters.tensorrt.target import TENSORRT
from edgeq_converters.tflite.target import TFLITE

SHARED = [ONNXRUNTIME, TFLITE, COREML]
ROWS = QuantType(8, granularity=PerChannel(0))
TOLERANCE = {"onnxruntime": 1e-5, "tflite": 1e-5, "coreml": 2e-3, "coreai": 1e-5}  # of the largest number
W8, W4, W8A8 = PRESETS["w8"], PRESETS["w4"], PRESETS["w8a8"]


def table(rows: int, columns: int) -> NDArray[np.float32]:
    """Rows that differ by factors of up to a hundred, as those of rare and frequent words may."""
    return normal(rows, columns) * (10 ** np.linspace(-1, 1, rows, dtype=np.float32))[:, None]


def tagger(rows: int = 64, columns: int = 64) -> ir.Model:
    """ids [1,7] -> embedding -> normalized -> scores [1,7,24]. The table is square, so that a wrong axis is legal."""
    return network("""
        g (int64[1,7] ids) => (float[1,7,24] y) {
            e = Gather (table, ids)
            n = LayerNormalization (e, gain)
            h = MatMul (n, w)
            y = Tanh (h)
        }""", table=table(rows, columns), gain=np.ones(columns, np.float32), w=normal(columns, 24, scale=.1))


def tied(reader: str) -> ir.Model:
    """ids [9] -> embedding [9,64] -> scores, the table being the last layer's weight too."""
    return network(f"""
        g (int64[9] ids) => (float[9,64] y) {{
            e = Gather (table, ids)
            n = Tanh (e)
            y = {reader}
        }}""", table=table(64, 64))


IDS = {"ids": np.array([[0, 63, 7, 7, 1, -1, 30]])}


def quantized(model: ir.Model, plan: QuantPlan, *feeds: dict[str, Any]) -> ir.Model:
    statistics = calibrate(model, plan.sources, feeds) if plan.sources else {}
    return quantize(model, plan, statistics, CALIBRATORS["mse"])


def sqnr_db(model: ir.Model, rounded: ir.Model, feeds: dict[str, Any], value: str = "y") -> float:
    return decibels(*(run_onnxruntime(each, feeds)[value] for each in (model, rounded)))


def decibels(exact: NDArray[Any], found: NDArray[Any]) -> float:
    noise = np.square(exact.astype(np.float64) - found).sum()
    return float(10 * np.log10(np.square(exact.astype(np.float64)).sum() / max(noise, 1e-30)))


def kinds(plan: QuantPlan) -> dict[str, QuantType]:
    return {weight.node: weight.type for weight in plan.weights}


# -- the plan ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("scheme", [W8, W4, W8A8])
def test_a_table_is_a_weight_of_8_bits_and_a_scale_for_each_row(scheme: Any) -> None:
    plan = make_plan(tagger(), SHARED, scheme)
    assert kinds(plan)["Gather_0"] == ROWS
    assert "table" not in plan.groups
    assert "Gather_0" not in {kept.node for kept in plan.kept}


BARE = {
    "a table of which nothing is saved": ("Gather (small, ids)", "float[1,7,8]"),
    "rows of one number": ("Gather (column, ids)", "float[1,7,1]"),
    "numbers": ("Gather (numbers, ids)", "float[1,7]"),
    "another axis": ("Gather <axis = 1> (table, ids)", "float[64,1,7]"),
    "known indices": ("Gather (table, known)", "float[2,64]"),
    "a table that is no constant": ("Gather (made, ids)", "float[1,7,64]"),
}


@pytest.mark.parametrize("name", BARE)
def test_what_is_no_embedding_stays_as_it_is(name: str) -> None:
    body, output = BARE[name]
    model = network(f"g (int64[1,7] ids, float[64,64] made) => ({output} y) {{ y = {body} }}", table=normal(64, 64),
                    small=normal(40, 8), column=normal(4000, 1), numbers=normal(4000), known=np.array([3, 1]))
    assert not make_plan(model, SHARED, W8).weights


def test_it_can_be_kept_in_float_by_its_name() -> None:
    assert set(kinds(make_plan(tagger(), SHARED, W8, keep_float=["^Gather_0$"]))) == {"MatMul_2"}


def test_it_can_be_given_other_bits() -> None:
    assert make_plan(tagger(), SHARED, W8, layers={"Gather_0": Precision(weight_bits=16)}).half == ("table",)


def test_one_scale_for_all_where_that_is_asked_for() -> None:
    per_tensor = QuantScheme(QuantType(8, granularity=PerTensor()), None)
    assert kinds(make_plan(tagger(), SHARED, per_tensor))["Gather_0"].granularity == PerTensor()


@pytest.mark.parametrize("scheme", [W8, W8A8])
def test_an_engine_that_wants_it_in_float_says_so(scheme: Any) -> None:
    plan = make_plan(tagger(), [TENSORRT], scheme)
    assert set(kinds(plan)) == {"MatMul_2"}
    (reason,) = [kept.reason for kept in plan.kept if kept.node == "Gather_0"]
    assert "TensorRT documents integer constants for layers that multiply" in reason


@pytest.mark.parametrize("scheme", [W8, W4])
def test_a_head_that_shares_the_table_shares_its_integers(scheme: Any) -> None:
    model = tied("Gemm <transB = 1> (n, table)")
    plan = make_plan(model, SHARED, scheme)
    assert kinds(plan) == {"Gather_0": ROWS, "Gemm_2": ROWS}
    made = quantized(model, plan)
    assert [node.op_type for node in made.graph].count(DEQUANTIZE) == 1
    assert "table" not in made.graph.initializers


def test_a_layer_that_needs_scales_along_the_other_axis_keeps_them() -> None:
    plan = make_plan(tied("MatMul (n, table)"), SHARED, W8)
    assert kinds(plan) == {"MatMul_2": QuantType(8, granularity=PerChannel(1))}


def head(**changed: float) -> ir.Model:
    """ids [1,9] -> embedding [1,9,40] -> scores [1,9,200] by the table's transpose, but for the entries `changed`."""
    words = table(200, 40)
    turned = words.T.copy()
    turned[3, 5] += changed.get("by", 0)
    return network("""
        g (int64[1,9] ids) => (float[1,9,200] y) {
            e = Gather (table, ids)
            m = LayerNormalization (e, gain)
            h = MatMul (m, square)
            n = LayerNormalization (h, gain)
            y = MatMul (n, turned)
        }""", table=words, square=normal(40, 40, scale=.1), gain=np.ones(40, np.float32), turned=turned)


WORDS = {"ids": np.array([[0, 199, 7, 7, 1, 100, 30, 31, 150]])}
COLUMNS = QuantType(8, granularity=PerChannel(1))


@pytest.mark.parametrize(("scheme", "bits"), [(W8, 8), (W8A8, 8), (PRESETS["w4a8"], 8), (W4, 4)])
def test_a_head_of_the_transposed_table(scheme: Any, bits: int) -> None:
    """In 8 bits it is the same integers; alone in 4 it is several times faster, which is why one asks for 4."""
    weights = {weight.node: weight for weight in make_plan(head(), SHARED, scheme).weights}
    assert weights["MatMul_4"].type.bits == bits
    assert weights["MatMul_4"].shares_embedding == (bits == 8)
    assert weights["Gather_0"].shares_embedding
    if bits == 8:
        assert weights["MatMul_4"].type == COLUMNS


def test_a_head_that_differs_in_one_number_is_another_weight() -> None:
    weights = {weight.node: weight for weight in make_plan(head(by=1.0), SHARED, W8).weights}
    assert not weights["MatMul_4"].shares_embedding


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scheme", [W8, W8A8])
def test_a_tied_head_is_stored_once(scheme: Any, backend: str, tmp_path: Path) -> None:
    sizes = {}
    for name, model in (("tied", head()), ("apart", head(by=9.0))):
        made = quantized(model, make_plan(model, SHARED, scheme), WORDS)
        (tmp_path / name).mkdir()
        found, expected = run(backend, made, WORDS, tmp_path / name)["y"], run_onnxruntime(made, WORDS)["y"]
        assert decibels(expected, found) > sqnr_db(model, made, WORDS), "float16 adds less than 8 bits"
        sizes[name] = sum(file.stat().st_size for file in (tmp_path / name).rglob("*") if file.is_file())
    assert sizes["apart"] - sizes["tied"] > 200 * 40 - 300


def test_its_size_is_predicted() -> None:
    model = tagger(500, 32)
    made = quantized(model, make_plan(model, SHARED, W8))
    stored = {name: value.const_value.nbytes for name, value in made.graph.initializers.items()
              if value.const_value is not None and not name.endswith("_zero_point")}
    assert weight_bytes(model, W8) == sum(stored.values())


# -- the graph, and what is made of it ---------------------------------------------------------------------------------

def test_the_graph_is_standard_and_near_the_float_one() -> None:
    model = tagger()
    made = quantized(model, make_plan(model, SHARED, W8, keep_float=["MatMul"]))
    stored = constant(made.graph.initializers["table_q"])
    assert stored is not None
    assert stored.dtype == np.int8
    assert sqnr_db(model, made, IDS) > 38


def test_scales_of_the_wrong_axis_would_be_noticed() -> None:
    model = tagger()
    made = quantized(model, make_plan(model, SHARED, W8, keep_float=["MatMul"]))
    next(node for node in made.graph if node.op_type == DEQUANTIZE).attributes["axis"] = ir.AttrInt64("axis", 1)
    assert sqnr_db(model, made, IDS) < 10


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scheme", [W8, W4, W8A8])
def test_engines_compute_what_the_graph_says(scheme: Any, backend: str, tmp_path: Path) -> None:
    model = tagger(300, 40)
    feeds = {"ids": np.array([[0, 299, 7, 7, 1, -1, 30]])}
    made = quantized(model, make_plan(model, SHARED, scheme, keep_float=["MatMul"]), feeds)
    expected = run_onnxruntime(made, feeds)["y"]
    assert np.abs(run(backend, made, feeds, tmp_path)["y"] - expected).max() < TOLERANCE[backend]
    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert size < 4 * 40 * 24 + 300 * 44 + 9000, "the table is not stored in float"


@pytest.mark.parametrize("backend", BACKENDS)
def test_at_16_bits_it_is_stored_in_half_precision(backend: str, tmp_path: Path) -> None:
    model = tagger(300, 40)
    made = store_half(model)
    expected = run_onnxruntime(made, IDS)["y"]
    bound = TOLERANCE["coreml" if backend == "coreai" else backend]  # Core AI computes in half precision here too
    assert np.abs(run(backend, made, IDS, tmp_path, EmitOptions())["y"] - expected).max() < bound
    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert size < 2 * (40 * 24 + 300 * 40) + 9000


@pytest.mark.parametrize("backend", BACKENDS)
def test_integers_all_the_way_where_a_convolution_reads_them(backend: str, tmp_path: Path) -> None:
    model = network("""
        g (int64[1,9] ids) => (float[1,5,7] y) {
            e = Gather (table, ids)
            t = Transpose <perm = [0,2,1]> (e)
            c = Conv (t, w)
            r = Relu (c)
            y = Conv (r, v)
        }""", table=normal(70, 24), w=normal(6, 24, 3, scale=.2), v=normal(5, 6, 1))
    feeds = {"ids": np.array([[0, 69, 7, 7, 1, 3, 30, 12, 65]])}
    plan = make_plan(model, SHARED, W8A8)
    assert plan.groups["table"] == plan.groups["e"]
    assert "Gather_0" not in kinds(plan)
    made = quantized(model, plan, feeds)
    expected = run_onnxruntime(made, feeds)["y"]
    step = 1.01 * np.ptp(expected) / 255 if backend == "coreml" else TOLERANCE[backend] * np.abs(expected).max()
    assert np.abs(run(backend, made, feeds, tmp_path)["y"] - expected).max() < step


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_table_in_a_body(backend: str, tmp_path: Path) -> None:
    model = network("""
        g (int64[3,2] ids, float[2,40] x) => (float[2,40] y) {
            y = Loop (n, go, x) <body = b (int64 i, bool k, float[2,40] s) => (bool d, float[2,40] z) {
                d = Identity (k)  at = Gather (ids, i)  e = Gather (table, at)  z = Add (s, e) }>
        }""", table=table(50, 40), n=np.array(3), go=np.array(True))
    canonicalize(model)
    made = quantized(model, make_plan(model, SHARED, W8))
    assert DEQUANTIZE in [node.op_type for node in made.graph]
    feeds = {"ids": np.array([[49, 0], [3, 7], [7, 20]]), "x": normal(2, 40)}
    expected = run_onnxruntime(made, feeds)["y"]
    assert sqnr_db(model, made, feeds) > 38
    bound = TOLERANCE[backend] * np.abs(expected).max()
    assert np.abs(run(backend, made, feeds, tmp_path)["y"] - expected).max() < bound


def test_its_damage_is_measured() -> None:
    model = tagger()
    plan = make_plan(model, SHARED, W8)
    found = {damage.node: damage for damage in sensitivity(model, quantized(model, plan), plan, [IDS])}
    assert found["Gather_0"].bits == 8
    assert found["Gather_0"].weight_bytes == 4 * 64 * 64
    assert 35 < found["Gather_0"].sqnr_db < 60
