"""How large a model becomes, told before any work: plain data for `edgeq estimate`."""
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from edgeq.conversion.inspect import peak_activation_bytes, weight_bytes
from edgeq.dimensions import Shape
from edgeq.errors import UsageError
from edgeq.scheme import PRESETS

if TYPE_CHECKING:
    import onnx_ir as ir

# Bytes of an activation by bits of the weights: 4-bit weights are multiplied by 8-bit activations.
ACTIVATION_BYTES: Final[Mapping[int, int]] = {32: 4, 16: 2, 8: 1, 4: 1}


def estimate_sizes(source: Any, inputs: Mapping[str, Shape], *, example_inputs: Any = None, trust: bool = False,
                   ) -> dict[str, Any]:
    """Bytes of the weights, of the graph around them, and of the activations at their peak, at 32, 16, 8 and 4 bits.

    inputs: name -> shape, for free dimensions. What stays float in a quantized model counts as such among the weights;
    among the activations everything counts as quantized, so their number is the least that an engine needs.

    Raises:
        UsageError: the model is quantized already. EdgeqError: it cannot be read.
    """
    from edgeq.conversion.metadata import said_path
    from edgeq.frontends import load_model
    from edgeq.graph import constant_bytes
    from edgeq.passes import canonicalize
    from edgeq.passes.shapes import largest_run
    from edgeq.quant.float16 import store_half
    from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE

    model = load_model(source, inputs=inputs, example_inputs=example_inputs, open_sizes=True, trust=trust)
    canonicalize(model)
    if any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in model.graph):
        raise UsageError(f"{said_path(source)} is quantized already; `edgeq inspect` tells its size")
    structure = _structure_bytes(model)
    largest = largest_run(model).graph
    peak = peak_activation_bytes(largest)
    weights = {32: weight_bytes(model, PRESETS["float"]), 16: constant_bytes(store_half(model).graph),
               8: weight_bytes(model, PRESETS["w8"]), 4: weight_bytes(model, PRESETS["w4"])}
    rows = [{"bits": bits, "disk_bytes": count + structure, "weight_bytes": count,
             "activation_bytes": peak * ACTIVATION_BYTES[bits] // 4,
             "memory_bytes": count + peak * ACTIVATION_BYTES[bits] // 4} for bits, count in weights.items()]
    return {"path": said_path(source), "bits": rows, "unknown": _unknown(largest)}


def _structure_bytes(model: ir.Model) -> int:
    """Bytes of the nodes and names, as ONNX writes them; the other formats are near."""
    import onnx_ir as ir

    return sum(len(ir.serde.serialize_node(node).SerializeToString()) for node in model.graph)


def _unknown(graph: ir.Graph) -> list[str]:
    from edgeq.graph import static

    return [value.name or "" for node in graph for value in node.outputs
            if static(value) is None]
