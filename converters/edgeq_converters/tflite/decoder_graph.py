"""A decoder as LiteRT-LM runs it: signatures for single tokens and for parts of a prompt, over one set of weights.

    tokens int32 [1,S], input_pos int32 [S], mask float32 [1,1,S,C], kv_cache_{k,v}_{i} float32 [1,C,kv heads,head size]
        -> the caches, with what S tokens add from input_pos[0] on; and logits [1,1,vocabulary] where S is 1

The mask is added to the scores of attention: 0 where a query may see a key, a large negative number elsewhere. Names
and shapes are those that the engine asks for:
https://github.com/google-ai-edge/LiteRT-LM/blob/main/runtime/executor/litert_compiled_model_executor_utils.cc
"""
from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from edgeq.frontends.decoder.builder import Decoder, Parts, graph_input, named
from edgeq.frontends.decoder.rotary import tables
from edgeq.frontends.decoder.spec import Layer, Rotary, Spec

OPSET: Final = 24  # TensorScatter
NEVER: Final = -1e9  # of a mask: float32 keeps scores beside it apart from it
_FLOAT: Final = ir.DataType.FLOAT


def build_static(spec: Spec, parts: Parts, tokens: int, cache: int) -> ir.Model:
    """The graph for so many tokens at a time and a cache of so many. Logits are those of a single token."""
    model = StaticDecoder(spec, parts, tokens, cache).build()
    model.graph.opset_imports[""] = OPSET
    return model


def cache_names(spec: Spec) -> list[str]:
    return [f"kv_cache_{kind}_{k}" for k in range(len(spec.layers)) for kind in "kv"]


class StaticDecoder(Decoder):
    """The graph in the making; every size in it is a number."""

    def __init__(self, spec: Spec, parts: Parts, tokens: int, cache: int):
        super().__init__(spec, parts, cache)
        self.tokens, self.rotations = tokens, dict[Rotary, tuple[ir.Value, ir.Value]]()

    def build(self) -> ir.Model:
        spec, w = self.spec, self.w
        tokens = graph_input("tokens", ir.DataType.INT32, [1, self.tokens])
        self.places = graph_input("input_pos", ir.DataType.INT32, [self.tokens])
        self.mask = graph_input("mask", _FLOAT, [1, 1, self.tokens, self.context])
        shape: list[int | str] = [1, self.context, spec.kv_heads, spec.head_size]
        past = [graph_input(name, _FLOAT, shape) for name in cache_names(spec)]
        self.first = w("Cast", w("Slice", self.places, w.ints(0), w.ints(1), w.ints(0)), to=ir.DataType.INT64)
        x, present = self.embedded(tokens), list[ir.Value]()
        for k, layer in enumerate(spec.layers):
            x = self._block(x, k, layer, past[2 * k], past[2 * k + 1], present)
        outputs = [named(value, f"{cache.name}.new", shape) for value, cache in zip(present, past, strict=True)]
        if self.tokens == 1:
            outputs.append(named(self.scores(x), "logits", [1, 1, spec.vocabulary]))
        return self.model([tokens, self.places, self.mask, *past], outputs)

    def attended(self, x: ir.Value, k: int, layer: Layer, past_key: ir.Value, past_value: ir.Value,
                 present: list[ir.Value]) -> ir.Value:
        spec, w = self.spec, self.w
        query, key, value = (w("Reshape", part, w.ints(1, self.tokens, heads, spec.head_size))
                             for part, heads in zip(self.projected(x, k), (spec.heads, spec.kv_heads, spec.kv_heads),
                                                    strict=True))
        if spec.qk_norm == "head":
            query, key = self.norm(query, "q_norm", k), self.norm(key, "k_norm", k)
        if layer.rotary is not None:
            query, key = self._rotated(query, layer.rotary), self._rotated(key, layer.rotary)
        keys, values = (w("TensorScatter", past, new, self.first, axis=1, mode="linear")
                        for past, new in ((past_key, key), (past_value, value)))
        present += [keys, values]
        return self._looked_up(query, keys, values, layer)

    def _looked_up(self, query: ir.Value, keys: ir.Value, values: ir.Value, layer: Layer) -> ir.Value:
        """Queries that share a key head are rows of one product."""
        spec, w = self.spec, self.w
        rows, group = self.tokens * (spec.heads // spec.kv_heads), w.ints(1, spec.heads, self.tokens, self.context)
        query = w("Reshape", w("Transpose", w("Mul", query, w.number(self._scale())), perm=[0, 2, 1, 3]),
                  w.ints(1, spec.kv_heads, rows, spec.head_size))
        scores = self._capped(w("MatMul", query, w("Transpose", keys, perm=[0, 2, 3, 1])), spec.attention_cap)
        chances = w("Softmax", w("Add", w("Reshape", scores, group), self._mask(layer.window)), axis=-1)
        chances = w("Reshape", chances, w.ints(1, spec.kv_heads, rows, self.context))
        y = w("MatMul", chances, w("Transpose", values, perm=[0, 2, 1, 3]))
        y = w("Reshape", y, w.ints(1, spec.heads, self.tokens, spec.head_size))
        return w("Reshape", w("Transpose", y, perm=[0, 2, 1, 3]), w.ints(1, self.tokens, spec.heads * spec.head_size))

    def _scale(self) -> float:
        scale = self.spec.attention_scale
        return float(self.spec.head_size ** -0.5 if scale is None else scale)

    def _mask(self, window: int | None) -> ir.Value:
        """Added to scores. The engine's mask knows no windows."""
        if window is None or window >= self.context:
            return self.mask
        if window not in self.masks:
            w = self.w
            keys = w.constant("keys", np.arange(self.context, dtype=np.int32)[None])
            reach = w("Add", keys, w.constant(f"window_{window}", np.asarray(window, np.int32)))
            seen = w("Greater", reach, w("Reshape", self.places, w.ints(self.tokens, 1)))
            self.masks[window] = w("Add", self.mask, w("Where", seen, w.number(0.0), w.number(NEVER)))
        return self.masks[window]

    def _rotated(self, x: ir.Value, rotary: Rotary) -> ir.Value:
        """x [1,S,heads,size]: the halves of what is rotated as the two numbers of a plane."""
        w, half, size = self.w, rotary.size // 2, self.spec.head_size
        cos, sin = self._turns(rotary)
        a, b = (self._cut(x, start, start + half) for start in (0, half))
        parts = [w("Sub", w("Mul", a, cos), w("Mul", b, sin)), w("Add", w("Mul", b, cos), w("Mul", a, sin))]
        return w("Concat", *parts, *([self._cut(x, rotary.size, size)] if rotary.size < size else []), axis=-1)

    def _cut(self, x: ir.Value, start: int, end: int) -> ir.Value:
        return self.w("Slice", x, self.w.ints(start), self.w.ints(end), self.w.ints(-1))

    def _turns(self, rotary: Rotary) -> tuple[ir.Value, ir.Value]:
        """cos, sin [1,S,1,size/2] of the tokens' places."""
        if rotary not in self.rotations:
            w, number, shape = self.w, len(self.rotations), (1, self.tokens, 1, rotary.size // 2)
            cos, sin = (w("Reshape", w("Gather", w.constant(f"rotary_{number}.{name}", table), self.places, axis=0),
                          w.ints(*shape)) for name, table in zip(("cos", "sin"), tables(rotary, self.context),
                                                                 strict=True))
            self.rotations[rotary] = cos, sin
        return self.rotations[rotary]
