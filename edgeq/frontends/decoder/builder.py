"""A decoder's graph, written from its spec: standard operators of opset 23, prefill and single steps in one graph.

    input_ids [batch, tokens] int64, past_key_values.{k}.key and .value [batch, kv heads, past, head size]
        -> logits [batch, tokens, vocabulary], present.{k}.key and .value [batch, kv heads, past + tokens, head size]

Attention, RotaryEmbedding and RMSNormalization: https://onnx.ai/onnx/operators/. Positions and masks follow from the
length of the past; what a query may see is written as a mask, since is_causal aligns at the upper left corner, which is
wrong behind a past.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.frontends.decoder.rotary import tables
from edgeq.frontends.decoder.spec import Layer, LayerNorm, RMSNorm, Rotary, Spec

OPSET: Final = 23
IR: Final = 11
Array: TypeAlias = NDArray[np.float32]
# role, layer -> weight [outputs, inputs]; role, part, layer -> vector
Matrix: TypeAlias = Callable[[str, int | None], Array]
Vector: TypeAlias = Callable[[str, str, int | None], Array]
_FLOAT: Final = ir.DataType.FLOAT


@dataclass(slots=True)
class Writer:
    """Nodes and constants of the graph in the making. Constants that come again are written once."""

    nodes: list[ir.Node] = field(default_factory=list)
    constants: dict[str, ir.Value] = field(default_factory=dict)
    count: int = 0

    def __call__(self, op: str, *inputs: ir.Value | None, name: str = "", domain: str = "", **attributes: Any,
                 ) -> ir.Value:
        return self.several(op, inputs, 1, name, domain, **attributes)[0]

    def several(self, op: str, inputs: tuple[ir.Value | None, ...], outputs: int, name: str = "", domain: str = "",
                **attributes: Any) -> tuple[ir.Value, ...]:
        self.count += 1
        name = name or f"{op.lower()}_{self.count}"
        node = ir.node(op, list(inputs), attributes={key: value for key, value in attributes.items()
                                                     if value is not None}, domain=domain, num_outputs=outputs,
                       name=name)
        for k, value in enumerate(node.outputs):
            value.name = name if outputs == 1 else f"{name}.{k}"
        self.nodes.append(node)
        return tuple(node.outputs)

    def constant(self, name: str, array: NDArray[Any]) -> ir.Value:
        if name not in self.constants:
            tensor = ir.Tensor(np.asarray(array, order="C"), name=name)  # ascontiguousarray makes vectors of scalars
            self.constants[name] = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype),
                                            const_value=tensor)
        return self.constants[name]

    def later(self, name: str, kind: ir.DataType, shape: tuple[int, ...], make: Callable[[], NDArray[Any]]) -> ir.Value:
        """A constant that is computed when it is written, and then forgotten."""
        if name not in self.constants:
            tensor = ir.LazyTensor(lambda: ir.Tensor(np.ascontiguousarray(make()), name=name), kind, ir.Shape(shape),
                                   name=name)
            self.constants[name] = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(kind),
                                            const_value=tensor)
        return self.constants[name]

    def number(self, value: float) -> ir.Value:
        return self.constant(f"number_{value!r}", np.asarray(value, np.float32))

    def ints(self, *values: int) -> ir.Value:
        return self.constant("ints_" + "_".join(map(str, values)), np.asarray(values, np.int64))


# What writes a linear layer: writer, x, role, layer -> y. The float one multiplies; quantized ones hold integers.
LinearLayer: TypeAlias = Callable[[Writer, ir.Value, str, "int | None"], ir.Value]
Embedding: TypeAlias = Callable[[Writer, ir.Value], ir.Value]


@dataclass(frozen=True, slots=True)
class Parts:
    """How the layers that hold weights are written; norms and biases are float in any case."""

    linear: LinearLayer
    embedding: Embedding
    vector: Vector


def float_parts(matrix: Matrix, vector: Vector, *, tied: bool) -> Parts:
    """All weights in float32. tied: the head multiplies with the embedding's table, which is stored once."""
    def linear(w: Writer, x: ir.Value, role: str, layer: int | None) -> ir.Value:
        name = weight_name(role, layer)
        if role == "head" and tied:
            table = w("Transpose", w.constant("embedding", matrix("embedding", None)), perm=[1, 0])
        else:
            table = w.constant(name, matrix(role, layer).T)
        return w("MatMul", x, table, name=f"{name}.product")

    def embedding(w: Writer, tokens: ir.Value) -> ir.Value:
        return w("Gather", w.constant("embedding", matrix("embedding", None)), tokens, name="embedding.rows")

    return Parts(linear, embedding, vector)


def weight_name(role: str, layer: int | None) -> str:
    return role if layer is None else f"layers.{layer}.{role}"


def build_decoder(spec: Spec, parts: Parts, *, context: int | None = None) -> ir.Model:
    """The graph of a decoder. context: positions that its rotary tables cover, the spec's by default."""
    return Decoder(spec, parts, context or spec.context).build()


class Decoder:
    """The graph in the making, step by step of a block; a step takes and gives values."""

    def __init__(self, spec: Spec, parts: Parts, context: int):
        self.spec, self.parts, self.context, self.w = spec, parts, context, Writer()
        self.masks: dict[int | None, ir.Value] = {}

    def build(self) -> ir.Model:
        spec = self.spec
        tokens = graph_input("input_ids", ir.DataType.INT64, ["batch", "tokens"])
        further = self.further_inputs()
        past = [graph_input(f"past_key_values.{k}.{kind}", _FLOAT, ["batch", spec.kv_heads, "past", spec.head_size])
                for k in range(len(spec.layers)) for kind in ("key", "value")]
        self.positions(tokens, past[0])
        x = self.embedded(tokens)
        present: list[ir.Value] = []
        for k, layer in enumerate(spec.layers):
            x = self._block(x, k, layer, past[2 * k], past[2 * k + 1], present)
        return self._whole([tokens, *further, *past], self.scores(self.wanted(x)), present)

    def scores(self, x: ir.Value) -> ir.Value:
        """The logits behind tokens that have left the last layer."""
        spec, w = self.spec, self.w
        logits = self.parts.linear(w, self.norm(x, "final_norm", None), "head", None)
        logits = logits if spec.logit_scale == 1.0 else w("Mul", logits, w.number(spec.logit_scale))
        return self._capped(logits, spec.logit_cap)

    def further_inputs(self) -> list[ir.Value]:
        """What another form of the cache needs beside the tokens and the past."""
        return []

    def wanted(self, x: ir.Value) -> ir.Value:
        """Of the tokens [batch, tokens, hidden] behind the last layer, those whose logits are asked for."""
        return x

    def embedded(self, tokens: ir.Value) -> ir.Value:
        spec, w = self.spec, self.w
        x = self.parts.embedding(w, tokens)
        if spec.embedding_scale != 1.0:
            x = w("Mul", x, w.number(spec.embedding_scale))
        if spec.learned_positions:
            table = w.constant("positions", self.parts.vector("positions", "weight", None))
            x = w("Add", x, w("Gather", table, self.places))
        return x

    def positions(self, tokens: ir.Value, past: ir.Value) -> None:
        """places [batch, tokens]: of the queries; rows and columns of every mask. tokens [batch, tokens, ...]"""
        w = self.w
        self.length = w("Shape", past, start=2, end=3)  # [1]
        size = w("Shape", tokens, start=1, end=2)
        zero, one = (w.constant(name, np.asarray(k, np.int64)) for k, name in enumerate(("zero", "one")))
        scalar = w.ints()
        total = w("Reshape", w("Add", self.length, size), scalar)
        first = w("Reshape", self.length, scalar)
        queries = w("Range", first, total, one)
        self.queries = w("Unsqueeze", queries, w.ints(1))  # [tokens, 1]
        self.keys = w("Unsqueeze", w("Range", zero, total, one), w.ints(0))  # [1, past + tokens]
        self.places = w("Expand", w("Unsqueeze", queries, w.ints(0)), w("Shape", tokens, start=0, end=2))

    def _mask(self, window: int | None) -> ir.Value:
        """[tokens, past + tokens] bool: whether a query may see a key."""
        if window not in self.masks:
            w = self.w
            mask = w("LessOrEqual", self.keys, self.queries)
            if window is not None:
                reach = w("Add", self.keys, w.constant(f"window_{window}", np.asarray(window, np.int64)))
                mask = w("And", mask, w("Greater", reach, self.queries))
            self.masks[window] = mask
        return self.masks[window]

    def _block(self, x: ir.Value, k: int, layer: Layer, past_key: ir.Value, past_value: ir.Value,
               present: list[ir.Value]) -> ir.Value:
        y = self.attended(self.attention_input(x, k), k, layer, past_key, past_value, present)
        x = self.attention_output(y, x, k)
        return self.mlp_output(self.inner(self.mlp_input(x, k), k), x, k)

    def attention_input(self, x: ir.Value, k: int) -> ir.Value:
        """What enters q, k and v."""
        return self.norm(x, "attention_norm", k) if self.spec.pre_norm else x

    def attention_output(self, y: ir.Value, x: ir.Value, k: int) -> ir.Value:
        """o, added to the block's input x."""
        y = self._linear(y, "o", k)
        return self._residual(x, self.norm(y, "attention_post_norm", k) if self.spec.post_norm else y)

    def mlp_input(self, x: ir.Value, k: int) -> ir.Value:
        """What enters gate and up."""
        return self.norm(x, "mlp_norm", k) if self.spec.pre_norm else x

    def mlp_output(self, y: ir.Value, x: ir.Value, k: int) -> ir.Value:
        """down, added to the residual stream x."""
        y = self._linear(y, "down", k)
        return self._residual(x, self.norm(y, "mlp_post_norm", k) if self.spec.post_norm else y)

    def _residual(self, x: ir.Value, y: ir.Value) -> ir.Value:
        scale = self.spec.residual_scale
        return self.w("Add", x, y if scale == 1.0 else self.w("Mul", y, self.w.number(scale)))

    def attended(self, x: ir.Value, k: int, layer: Layer, past_key: ir.Value, past_value: ir.Value,
                 present: list[ir.Value]) -> ir.Value:
        """q, k, v and attention: what enters o."""
        spec, w = self.spec, self.w
        query, key, value = self.projected(x, k)
        query, key, value = (self._heads(part, heads) for part, heads in (
            (query, spec.heads), (key, spec.kv_heads), (value, spec.kv_heads)))
        if spec.qk_norm == "head":
            query, key = self.norm(query, "q_norm", k), self.norm(key, "k_norm", k)
        if layer.rotary is not None:
            query, key = self._rotated(query, layer.rotary), self._rotated(key, layer.rotary)
        y, new_key, new_value = w.several(
            "Attention", (query, key, value, self._mask(layer.window), past_key, past_value), 3,
            f"layers.{k}.attention", scale=spec.attention_scale, softcap=spec.attention_cap)
        present += [new_key, new_value]
        return w("Reshape", w("Transpose", y, perm=[0, 2, 1, 3]), w.ints(0, 0, spec.heads * spec.head_size))

    def projected(self, x: ir.Value, k: int) -> tuple[ir.Value, ir.Value, ir.Value]:
        """q, k and v, each [batch, tokens, heads * size], normed where a norm goes over all heads."""
        query, key, value = (self._linear(x, role, k) for role in "qkv")
        if self.spec.qk_norm == "all":
            query, key = self.norm(query, "q_norm", k), self.norm(key, "k_norm", k)
        return query, key, value

    def _heads(self, x: ir.Value, heads: int) -> ir.Value:
        """[batch, tokens, heads * size] -> [batch, heads, tokens, size]"""
        w = self.w
        return w("Transpose", w("Reshape", x, w.ints(0, 0, heads, self.spec.head_size)), perm=[0, 2, 1, 3])

    def _rotated(self, x: ir.Value, rotary: Rotary) -> ir.Value:
        cos, sin = tables(rotary, self.context)
        name = f"rotary_{rotary.base:g}_{rotary.size}_{'plain' if rotary.scaling is None else 'scaled'}"
        part = rotary.size if rotary.size != self.spec.head_size else None
        return self.w("RotaryEmbedding", x, self.w.constant(f"{name}.cos", cos), self.w.constant(f"{name}.sin", sin),
                      self.places, rotary_embedding_dim=part)

    def inner(self, x: ir.Value, k: int) -> ir.Value:
        """What enters down."""
        inner = self._activation(self._linear(x, "gate" if self.spec.gated else "up", k))
        if self.spec.gated:
            inner = self.w("Mul", inner, self._linear(x, "up", k))
        return inner

    def _activation(self, x: ir.Value) -> ir.Value:
        w = self.w
        if self.spec.activation == "silu":
            return w("Mul", x, w("Sigmoid", x))
        return w("Gelu", x, approximate="tanh" if self.spec.activation == "gelu_tanh" else None)

    def _linear(self, x: ir.Value, role: str, k: int) -> ir.Value:
        y = self.parts.linear(self.w, x, role, k)
        if role in self.spec.biases:
            name = weight_name(role, k) + ".bias"
            y = self.w("Add", y, self.w.constant(name, self.parts.vector(role, "bias", k)))
        return y

    def norm(self, x: ir.Value, role: str, layer: int | None) -> ir.Value:
        spec, w, name = self.spec, self.w, weight_name(role, layer)
        weight = self.parts.vector(role, "weight", layer)
        if isinstance(spec.norm, LayerNorm):
            bias = w.constant(f"{name}.bias", self.parts.vector(role, "bias", layer))
            return w("LayerNormalization", x, w.constant(f"{name}.weight", weight), bias, name=name, axis=-1,
                     epsilon=spec.epsilon)
        assert isinstance(spec.norm, RMSNorm)
        return w("RMSNormalization", x, w.constant(f"{name}.weight", weight + np.float32(spec.norm.offset)), name=name,
                 axis=-1, epsilon=spec.epsilon)

    def _capped(self, x: ir.Value, cap: float | None) -> ir.Value:
        if cap is None:
            return x
        return self.w("Mul", self.w("Tanh", self.w("Div", x, self.w.number(cap))), self.w.number(cap))

    def _whole(self, inputs: list[ir.Value], logits: ir.Value, present: list[ir.Value]) -> ir.Model:
        spec = self.spec
        outputs = [named(logits, "logits", ["batch", "tokens", spec.vocabulary])]
        outputs += [named(value, f"present.{number // 2}.{'value' if number % 2 else 'key'}",
                           ["batch", spec.kv_heads, "total", spec.head_size]) for number, value in enumerate(present)]
        return self.model(inputs, outputs)

    def model(self, inputs: list[ir.Value], outputs: list[ir.Value]) -> ir.Model:
        graph = ir.Graph(inputs, outputs, nodes=self.w.nodes, initializers=list(self.w.constants.values()),
                         opset_imports={"": OPSET}, name="decoder")
        return ir.Model(graph, ir_version=IR, producer_name="edgeq")


def graph_input(name: str, kind: ir.DataType, shape: list[int | str]) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(shape))


def named(value: ir.Value, name: str, shape: list[int | str]) -> ir.Value:
    value.name, value.type, value.shape = name, ir.TensorType(_FLOAT), ir.Shape(shape)
    return value


