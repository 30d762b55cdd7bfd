"""A block's graph in steps: what lies between the inputs of its linear layers, each a small graph of its own.

So hidden states go through a network one layer at a time, while its weights are quantized.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import onnx_ir as ir

from edgeq.frontends.decoder.builder import Decoder, Parts, graph_input, named
from edgeq.frontends.decoder.spec import Spec

Step: TypeAlias = Literal["embedding", "attention_input", "attention", "attention_output", "mlp_input", "mlp",
                          "mlp_output", "head_input"]
Values: TypeAlias = list[ir.Value]


def _attention(decoder: Decoder, inputs: Values, k: int) -> ir.Value:
    x, past_key, past_value = inputs
    decoder.positions(x, past_key)
    return decoder.attended(x, k, decoder.spec.layers[k], past_key, past_value, [])


def _embedding(decoder: Decoder, inputs: Values, k: int) -> ir.Value:
    tokens, past_key, _ = inputs
    decoder.positions(tokens, past_key)
    return decoder.embedded(tokens)


# step -> what it writes from its inputs, each [batch, tokens, width], and how many of these there are. "attention" and
# "embedding" take a past of length 0 besides, from which positions are counted.
_STEPS: Final[Mapping[Step, tuple[Callable[[Decoder, Values, int], ir.Value], int]]] = MappingProxyType({
    "embedding": (_embedding, 1),
    "attention_input": (lambda decoder, inputs, k: decoder.attention_input(inputs[0], k), 1),
    "attention": (_attention, 1),
    "attention_output": (lambda decoder, inputs, k: decoder.attention_output(inputs[0], inputs[1], k), 2),
    "mlp_input": (lambda decoder, inputs, k: decoder.mlp_input(inputs[0], k), 1),
    "mlp": (lambda decoder, inputs, k: decoder.inner(inputs[0], k), 1),
    "mlp_output": (lambda decoder, inputs, k: decoder.mlp_output(inputs[0], inputs[1], k), 2),
    "head_input": (lambda decoder, inputs, k: decoder.norm(inputs[0], "final_norm", None), 1),
})
PAST: Final = ("past_key", "past_value")


def build_step(spec: Spec, parts: Parts, step: Step, layer: int = 0) -> ir.Model:
    """The graph of one step of a layer: x0 [batch, tokens, width], x1 (the residual stream, of the two outputs), and
    past_key and past_value [batch, kv heads, 0, head size] where positions count -> y.
    """
    write, count = _STEPS[step]
    kind = ir.DataType.INT64 if step == "embedding" else ir.DataType.FLOAT
    shape: list[int | str] = ["batch", "tokens"]
    inputs = [graph_input(f"x{number}", kind, shape if step == "embedding" else [*shape, f"width{number}"])
              for number in range(count)]
    if takes_past(step):
        inputs += [graph_input(name, ir.DataType.FLOAT, ["batch", spec.kv_heads, "past", spec.head_size])
                   for name in PAST]
    decoder = Decoder(spec, parts, spec.context)
    y = decoder.w("Identity", write(decoder, inputs, layer))
    return decoder.model(inputs, [named(y, "y", ["batch", "tokens", "width"])])


def takes_past(step: Step) -> bool:
    return step in ("embedding", "attention")
