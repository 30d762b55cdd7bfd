"""The graphs of encoders and decoders, written from what they are. Batches have one member, so that nothing is padded.

    encoder   input_ids int64 [1, tokens], or input_features float32 [1, mels, frames]
              -> last_hidden_state [1, tokens, hidden]; or sentence_embedding [1, hidden];
                 or, in front of a decoder, cross.{k}.key [1, heads, size, tokens] and .value [1, heads, tokens, size]
    decoder   input_ids int64 [1, 1], position int64 [1], cross.* as above,
              past.{k}.key and past.{k}.value [1, heads, context, size]
              -> logits [1, vocabulary], new.{k}.key and new.{k}.value [1, heads, 1, size]

A decoder reads one token. Of the past it sees what stands in front of `position`, so the caller writes `new` there. All
sizes of it are known, but for the tokens that an encoder of text has read: engines that compile want it so.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.frontends.decoder.builder import IR, OPSET, Writer, graph_input, named
from edgeq.frontends.transformer.spec import Learned, Relative, Sinusoidal, Stack

Array: TypeAlias = NDArray[np.float32]
# role, "weight" or "bias", layer -> what the checkpoint holds
Read: TypeAlias = Callable[[str, str, "int | None"], Array]
Pooling: TypeAlias = Literal["mean", "cls", "max", "mean_sqrt_len"]
_FLOAT: Final = ir.DataType.FLOAT
_INT: Final = ir.DataType.INT64
_UNSEEN: Final = -3e4  # added to a score: nothing is left of it, and half precision holds it
TOKENS: Final = "tokens"


class Blocks:
    """What encoders and decoders share. A step takes and gives values; x is [1, tokens, hidden]."""

    def __init__(self, stack: Stack, read: Read):
        self.stack, self.read, self.w = stack, read, Writer()

    def linear(self, x: ir.Value, role: str, k: int | None) -> ir.Value:
        name = role if k is None else f"layers.{k}.{role}"
        y = self.w("MatMul", x, self.w.constant(f"{name}.weight", self.read(role, "weight", k).T), name=name)
        if role in self.stack.biases:
            y = self.w("Add", y, self.w.constant(f"{name}.bias", self.read(role, "bias", k)), name=f"{name}.biased")
        return y

    def norm(self, x: ir.Value, role: str, k: int | None) -> ir.Value:
        name = role if k is None else f"layers.{k}.{role}"
        weight = self.w.constant(f"{name}.weight", self.read(role, "weight", k))
        if self.stack.rms:
            return self.w("RMSNormalization", x, weight, name=name, axis=-1, epsilon=self.stack.epsilon)
        bias = self.w.constant(f"{name}.bias", self.read(role, "bias", k))
        return self.w("LayerNormalization", x, weight, bias, name=name, axis=-1, epsilon=self.stack.epsilon)

    def residual(self, x: ir.Value, role: str, k: int, make: Callable[[ir.Value], ir.Value]) -> ir.Value:
        """x + make(x), with the norm where this stack has it."""
        if self.stack.pre_norm:
            return self.w("Add", x, make(self.norm(x, role, k)))
        return self.norm(self.w("Add", x, make(x)), role, k)

    def heads(self, x: ir.Value, order: tuple[int, int, int, int] = (0, 2, 1, 3)) -> ir.Value:
        """[1, tokens, heads * size] -> [1, heads, tokens, size]; with (0, 2, 3, 1) [1, heads, size, tokens]."""
        shape = self.w.ints(0, 0, self.stack.heads, self.stack.head_size)
        return self.w("Transpose", self.w("Reshape", x, shape), perm=list(order))

    def queries(self, x: ir.Value, role: str, k: int) -> ir.Value:
        query = self.heads(self.linear(x, role, k))
        return query if self.stack.scale == 1.0 else self.w("Mul", query, self.w.number(self.stack.scale))

    def mixed(self, query: ir.Value, key: ir.Value, value: ir.Value, bias: ir.Value | None, role: str, k: int,
              ) -> ir.Value:
        """key: [1, heads, size, keys]. bias: added to the scores [1, heads, queries, keys]."""
        scores = self.w("MatMul", query, key)
        scores = scores if bias is None else self.w("Add", scores, bias)
        y = self.w("MatMul", self.w("Softmax", scores, axis=-1), value)
        y = self.w("Reshape", self.w("Transpose", y, perm=[0, 2, 1, 3]),
                   self.w.ints(0, 0, self.stack.heads * self.stack.head_size))
        return self.linear(y, role, k)

    def mlp(self, x: ir.Value, k: int) -> ir.Value:
        inner = self._activation(self.linear(x, "gate" if self.stack.gated else "up", k))
        if self.stack.gated:
            inner = self.w("Mul", inner, self.linear(x, "up", k))
        return self.linear(inner, "down", k)

    def _activation(self, x: ir.Value) -> ir.Value:
        match self.stack.activation:
            case "silu":
                return self.w("Mul", x, self.w("Sigmoid", x))
            case "relu":
                return self.w("Relu", x)
            case name:
                return self.gelu(x, tanh=name == "gelu_tanh")

    def gelu(self, x: ir.Value, *, tanh: bool = False) -> ir.Value:
        return self.w("Gelu", x, approximate="tanh" if tanh else None)

    def embedded(self, tokens: ir.Value, places: ir.Value) -> ir.Value:
        """places [tokens]: of the tokens in their text."""
        stack, w = self.stack, self.w
        x = w("Gather", w.constant("embedding", self.read("embedding", "weight", None)), tokens, name="embedding.rows")
        x = x if stack.embedding_scale == 1.0 else w("Mul", x, w.number(stack.embedding_scale))
        table = self.position_table()
        if table is not None:
            x = w("Add", x, w("Gather", w.constant("positions", table), places, name="positions.rows"))
        return self.norm(x, "embedding_norm", None) if stack.embedding_norm else x

    def position_table(self) -> Array | None:
        """[context, hidden], with the kind of token that all are."""
        match self.stack.positions:
            case Learned(_, skipped):
                table = self.read("positions", "weight", None)[skipped:skipped + self.stack.context]
            case Sinusoidal(rows):
                table = sinusoids(rows, self.stack.hidden)
            case None:
                return None
        return table + self.read("kinds", "weight", None)[0] if self.stack.kinds else table

    def model(self, inputs: list[ir.Value], outputs: list[ir.Value], name: str) -> ir.Model:
        graph = ir.Graph(inputs, outputs, nodes=self.w.nodes, initializers=list(self.w.constants.values()),
                         opset_imports={"": OPSET}, name=name)
        return ir.Model(graph, ir_version=IR, producer_name="edgeq")


class Encoder(Blocks):
    """One that reads a text or a sound of one piece."""

    def sentence(self, pooling: Pooling | None, *, normalized: bool = False) -> ir.Model:
        """pooling: of all tokens to one vector; None leaves a vector to each."""
        tokens, x = self._text()
        if pooling is None:
            return self.model([tokens], [named(x, "last_hidden_state", [1, TOKENS, self.stack.hidden])], "encoder")
        y = self._pooled(x, pooling)
        if normalized:
            square = self.w("ReduceSum", self.w("Mul", y, y), self.w.ints(1), keepdims=1)
            # A floor under the norm, as of torch.nn.functional.normalize.
            y = self.w("Div", y, self.w("Max", self.w("Sqrt", square), self.w.number(1e-12)))
        return self.model([tokens], [named(y, "sentence_embedding", [1, self.stack.hidden])], "encoder")

    def crossed(self, decoder: Blocks) -> ir.Model:
        """With the keys and values that the attention of a decoder's layers reads."""
        given, x = self._sound() if self.stack.mels else self._text()
        other = decoder.stack
        count: int | str = self.stack.context if self.stack.mels else TOKENS
        outputs = []
        writer = Blocks(other, decoder.read)
        writer.w = self.w
        for k in range(other.layers):
            key = writer.heads(writer.linear(x, "cross_k", k), (0, 2, 3, 1))
            value = writer.heads(writer.linear(x, "cross_v", k))
            outputs += [named(key, f"cross.{k}.key", [1, other.heads, other.head_size, count]),
                        named(value, f"cross.{k}.value", [1, other.heads, count, other.head_size])]
        return self.model([given], outputs, "encoder")

    def _text(self) -> tuple[ir.Value, ir.Value]:
        w = self.w
        tokens = graph_input("input_ids", _INT, [1, TOKENS])
        count = w("Reshape", w("Shape", tokens, start=1, end=2), w.ints())
        zero, one = (w.constant(name, np.asarray(k, np.int64)) for k, name in enumerate(("zero", "one")))
        places = w("Range", zero, count, one)
        return tokens, self._blocks(self.embedded(tokens, places), self._bias(places))

    def _sound(self) -> tuple[ir.Value, ir.Value]:
        w, frames = self.w, 2 * self.stack.context
        sound = graph_input("input_features", _FLOAT, [1, self.stack.mels, frames])
        x = sound
        for name, stride in (("conv1", 1), ("conv2", 2)):
            x = self.gelu(w("Conv", x, w.constant(f"{name}.weight", self.read(name, "weight", None)),
                            w.constant(f"{name}.bias", self.read(name, "bias", None)), name=name, pads=[1, 1],
                            strides=[stride]))
        table = self.position_table()
        assert table is not None
        x = w("Add", w("Transpose", x, perm=[0, 2, 1]), w.constant("positions", table))
        return sound, self._blocks(x, None)

    def _blocks(self, x: ir.Value, bias: ir.Value | None) -> ir.Value:
        for k in range(self.stack.layers):
            def attended(y: ir.Value, k: int = k) -> ir.Value:
                key, value = self.heads(self.linear(y, "k", k), (0, 2, 3, 1)), self.heads(self.linear(y, "v", k))
                return self.mixed(self.queries(y, "q", k), key, value, bias, "o", k)

            x = self.residual(x, "attention_norm", k, attended)
            x = self.residual(x, "mlp_norm", k, lambda y, k=k: self.mlp(y, k))  # type: ignore[misc]
        return self.norm(x, "final_norm", None) if self.stack.pre_norm else x

    def _bias(self, places: ir.Value) -> ir.Value | None:
        """[1, heads, tokens, tokens] from the distances of keys from queries."""
        if self.stack.relative is None:
            return None
        w, most = self.w, self.stack.context - 1
        rows = buckets(np.arange(-most, most + 1), self.stack.relative, both_ways=True)
        table = w.constant("distances", self.read("relative", "weight", None)[rows])  # [2 * context - 1, heads]
        apart = w("Sub", w("Unsqueeze", places, w.ints(0)), w("Unsqueeze", places, w.ints(1)))  # [queries, keys]
        found = w("Gather", table, w("Add", apart, w.constant("furthest", np.asarray(most, np.int64))))
        return w("Unsqueeze", w("Transpose", found, perm=[2, 0, 1]), w.ints(0))

    def _pooled(self, x: ir.Value, pooling: Pooling) -> ir.Value:
        w = self.w
        match pooling:
            case "cls":
                return w("Squeeze", w("Slice", x, w.ints(0), w.ints(1), w.ints(1)), w.ints(1))
            case "max":
                return w("ReduceMax", x, w.ints(1), keepdims=0)
            case "mean":
                return w("ReduceMean", x, w.ints(1), keepdims=0)
            case "mean_sqrt_len":
                count = w("Cast", w("Shape", x, start=1, end=2), to=_FLOAT)
                return w("Div", w("ReduceSum", x, w.ints(1), keepdims=0), w("Sqrt", count))


class Decoder(Blocks):
    """One that reads a token, its past, and what an encoder has read."""

    def step(self, source: int | str) -> ir.Model:
        """source: how many tokens or frames the encoder has read."""
        stack = self.stack
        token, position = graph_input("input_ids", _INT, [1, 1]), graph_input("position", _INT, [1])
        sizes: dict[str, list[int | str]] = {
            "cross.{}.key": [1, stack.heads, stack.head_size, source],
            "cross.{}.value": [1, stack.heads, source, stack.head_size],
            "past.{}.key": [1, stack.heads, stack.context, stack.head_size],
            "past.{}.value": [1, stack.heads, stack.context, stack.head_size]}
        caches = [{name: graph_input(name.format(k), _FLOAT, shape) for name, shape in sizes.items()}
                  for k in range(stack.layers)]
        bias = self._bias(position)
        x, new = self.embedded(token, position), []
        for k, cache in enumerate(caches):
            x, key, value = self._block(x, k, cache, bias)
            new += [named(one, f"new.{k}.{kind}", [1, stack.heads, 1, stack.head_size])
                    for one, kind in ((key, "key"), (value, "value"))]
        logits = named(self._logits(x), "logits", [1, stack.vocabulary])
        return self.model([token, position, *(value for cache in caches for value in cache.values())], [logits, *new],
                          "decoder")

    def _block(self, x: ir.Value, k: int, cache: dict[str, ir.Value], bias: ir.Value,
               ) -> tuple[ir.Value, ir.Value, ir.Value]:
        new: list[ir.Value] = []

        def attended(y: ir.Value) -> ir.Value:
            new.extend(self.heads(self.linear(y, role, k)) for role in "kv")
            key, value = (self.w("Concat", cache[f"past.{{}}.{kind}"], one, axis=2)
                          for kind, one in zip(("key", "value"), new, strict=True))
            return self.mixed(self.queries(y, "q", k), self.w("Transpose", key, perm=[0, 1, 3, 2]), value, bias, "o", k)

        def crossed(y: ir.Value) -> ir.Value:
            return self.mixed(self.queries(y, "cross_q", k), cache["cross.{}.key"], cache["cross.{}.value"], None,
                              "cross_o", k)

        x = self.residual(x, "attention_norm", k, attended)
        x = self.residual(x, "cross_norm", k, crossed)
        return self.residual(x, "mlp_norm", k, lambda y: self.mlp(y, k)), new[0], new[1]

    def _bias(self, position: ir.Value) -> ir.Value:
        """[1, heads or 1, 1, context + 1]: of the past what lies in front of `position` counts; the token itself."""
        w, stack = self.w, self.stack
        keys = np.arange(stack.context + 1)
        keys[-1] = -1  # the token itself lies in front of any place
        seen = w("Less", w.constant("keys", keys), position)
        bias = w("Unsqueeze", w("Where", seen, w.number(0.0), w.number(_UNSEEN)), w.ints(0, 1, 2))
        if stack.relative is None:
            return bias
        rows = buckets(-np.arange(stack.context + 1), stack.relative, both_ways=False)
        table = w.constant("distances", self.read("relative", "weight", None)[rows])  # [context + 1, heads]
        behind = w("Max", w("Sub", position, w.constant("keys", keys)), w.ints(0))
        is_self = w.constant("is_past", (keys >= 0).astype(np.int64))
        found = w("Gather", table, w("Mul", behind, is_self))  # [context + 1, heads]
        found = w("Unsqueeze", w("Transpose", found, perm=[1, 0]), w.ints(0, 2))
        return w("Add", bias, found)

    def _logits(self, x: ir.Value) -> ir.Value:
        stack, w = self.stack, self.w
        if stack.pre_norm:
            x = self.norm(x, "final_norm", None)
        x = x if stack.logit_scale == 1.0 else w("Mul", x, w.number(stack.logit_scale))
        head, words = (self.read(role, "weight", None) for role in ("head", "embedding"))
        # Where it is the table of words it is that very constant, so that both are stored once, at any number of bits.
        table = w.constant("embedding" if np.array_equal(head, words) else "head.weight", head)
        y = w("Gemm", w("Reshape", x, w.ints(1, stack.hidden)), table, name="head", transB=1)
        return w("Add", y, w.constant("head_bias", self.read("head_bias", "", None))) if stack.head_bias else y


def sinusoids(rows: int, width: int) -> Array:
    """Vaswani et al. 2017, arXiv:1706.03762, with the sines in front as Marian has them."""
    angles = np.arange(rows)[:, None] / 10000 ** (2 * np.arange((width + 1) // 2) / width)
    found: Array = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)[:, :width].astype(np.float32)
    return found


def buckets(distance: NDArray[Any], relative: Relative, *, both_ways: bool) -> NDArray[np.int64]:
    """Of each distance of a key from its query, negative behind it; as T5 has them (see `Relative`)."""
    count = relative.buckets // 2 if both_ways else relative.buckets
    ahead = np.where(distance > 0, count, 0) if both_ways else np.zeros_like(distance)
    apart = np.abs(distance) if both_ways else np.maximum(-distance, 0)
    exact = count // 2
    with np.errstate(divide="ignore"):
        grown = np.log(apart.astype(np.float32) / exact) / np.log(relative.furthest / exact) * (count - exact)
    far = np.minimum(exact + np.maximum(grown, 0).astype(np.int64), count - 1)
    found: NDArray[np.int64] = (ahead + np.where(apart < exact, apart, far)).astype(np.int64)
    return found
