"""The small models that are broken: rows of the operator table, the digits, bodies, functions, kinds of weights."""
from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import onnx
import onnx_ir as ir
from onnx import ModelProto, TensorProto, helper, numpy_helper
from opcases import CASES, build

ROOT: Final = Path(__file__).resolve().parents[2]
_EVERY: Final = 5  # of the rows of the operator table

TEXTS: Final = {
    "perceptron": """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2,6] x) => (float[2,3] y) <float[6,4] w, float[4] b, float[4,3] v> {
            h = Gemm (x, w, b)  r = Relu (h)  m = MatMul (r, v)  y = Softmax <axis = -1> (m) }""",
    "convolutions": """<ir_version: 8, opset_import: ["" : 13]>
        g (float[1,3,9,7] x) => (float[1,5] y) <float[4,3,3,3] w, float[4] b, float[5,4] v, float[5] c> {
            a = Conv <pads = [1,1,1,1], strides = [2,1]> (x, w, b)  r = Relu (a)  s = Sigmoid (r)  t = Mul (r, s)
            p = GlobalAveragePool (t)  f = Flatten (p)  y = Gemm <transB = 1> (f, v, c) }""",
    "shapes": """<ir_version: 8, opset_import: ["" : 17]>
        g (float[N,4,6] x) => (float[N,6,4] y) {
            s = Shape (x)  zero = Constant <value_ints = [0]> ()  n = Gather (s, zero)
            rest = Constant <value_ints = [6, 4]> ()  target = Concat <axis = 0> (n, rest)
            t = Reshape (x, target)  y = Relu (t) }""",
    "branches": """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2,3] x, bool c) => (float[2,3] y) <float[3] w> {
            h = Add (x, w)
            z = If (c) <then_branch = t () => (float[2,3] a) { a = Relu (h) },
                        else_branch = e () => (float[2,3] b) { s = Sigmoid (h)  b = Mul (s, w) }>
            y = Neg (z) }""",
    "loop": """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2,3] x) => (float[2,3] y, float[4,2,3] all) <int64 count = {4}, bool go = {1}, float[3] w> {
            y, all = Loop <body = b (int64 i, bool on, float[2,3] s) => (bool next, float[2,3] t, float[2,3] o) {
                next = Identity (on)  t = Mul (s, w)  o = Tanh (t) }> (count, go, x) }""",
    "scan": """<ir_version: 10, opset_import: ["" : 21]>
        g (float[3] h, float[5,3] x) => (float[3] last, float[5,3] y) {
            last, y = Scan <num_scan_inputs = 1, body = b (float[3] s, float[3] e) => (float[3] t, float[3] o) {
                t = Add (s, e)  o = Relu (t) }> (h, x) }""",
    "functions": """<ir_version: 10, opset_import: ["" : 21, "mine" : 1]>
        g (float[2,3] x) => (float[2,3] y) { a = mine.scaled <alpha = 0.5> (x)  y = mine.twice (a) }
        <domain: "mine", opset_import: ["" : 21, "mine" : 1]> twice (x) => (z) { s = Add (x, x)  z = Identity (s) }
        <domain: "mine", opset_import: ["" : 21]> scaled <alpha> (x) => (z) {
            c = Constant <value_float: float = @alpha> ()  z = Mul (x, c) }""",
    "quantized": """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2,6] x) => (float[2,4] y) <float s = {0.1}, uint8 z = {128}, int8[6,4] w, float[4] ws, int8[4] wz> {
            q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)
            e = DequantizeLinear <axis = 1> (w, ws, wz)  m = MatMul (d, e)  y = Relu (m) }""",
    "recurrent": """<ir_version: 10, opset_import: ["" : 21]>
        g (float[5,1,3] x) => (float[5,1,1,4] y, float[1,1,4] h) <float[1,16,3] w, float[1,16,4] r, float[1,32] b> {
            y, h, c = LSTM <hidden_size = 4> (x, w, r, b) }""",
    "attention": """<ir_version: 10, opset_import: ["" : 21]>
        g (float[1,5,8] x) => (float[1,5,8] y) <float[8,8] q, float[8,8] k, float[8,8] v, float[8] g1, float[8] b1> {
            n = LayerNormalization <axis = -1> (x, g1, b1)  a = MatMul (n, q)  b = MatMul (n, k)
            c = MatMul (n, v)  t = Transpose <perm = [0,2,1]> (b)  s = MatMul (a, t)  p = Softmax (s)  o = MatMul (p, c)
            y = Add (o, x) }""",
    "picking": """<ir_version: 10, opset_import: ["" : 21]>
        g (float[1,20] x, int64[1,3] i) => (float[1,4] v, int64[1,4] k, float[1,3,6] e)
        <int64[1] n = {4}, float[9,6] table> {
            v, k = TopK (x, n)  e = Gather (table, i) }""",
}


def sources() -> list[tuple[str, ModelProto]]:
    """Name and model, always in one order."""
    found = [("digits", onnx.load(ROOT / "samples" / "digits" / "digits.onnx"))]
    found += [(name, _filled(text)) for name, text in TEXTS.items()]
    found += [("sparse weights", _sparse())]
    found += [(case.id, ir.to_proto(build(case))) for case in CASES[::_EVERY]]
    return found


def _filled(text: str) -> ModelProto:
    """A model whose weights, which the text declares, get values."""
    model, rng = onnx.parser.parse_model(text), np.random.default_rng(0)
    for value in model.graph.value_info:
        tensor = value.type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        data = rng.normal(size=[dim.dim_value for dim in tensor.shape.dim]) * (20 if dtype == np.int8 else 0.3)
        data = np.abs(data) + 0.01 if value.name == "ws" else np.zeros_like(data) if value.name == "wz" else data
        model.graph.initializer.append(numpy_helper.from_array(data.astype(dtype), value.name))
    del model.graph.value_info[:]
    return model


def _sparse() -> ModelProto:
    values = helper.make_tensor("w", TensorProto.FLOAT, [3], [1.0, -2.0, 0.5])
    indices = helper.make_tensor("", TensorProto.INT64, [3], [1, 7, 20])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")], "sparse",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        sparse_initializer=[helper.make_sparse_tensor(values, indices, [6, 4])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
