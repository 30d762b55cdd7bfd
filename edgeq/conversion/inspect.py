"""What a model or a bundle holds, as plain data for `edgeq inspect`."""
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeq.backend import backend_named, backends, graph_backends
from edgeq.dimensions import Shape, dimensions, free_dimensions
from edgeq.errors import MissingExtra, Problem, UnsupportedModel, UsageError
from edgeq.scheme import PRESETS, QuantScheme
from edgeq_runtime.dimensions import Free
from edgeq_runtime.manifest import Manifest

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgeq.targets import Target


def describe(source: Any, inputs: Mapping[str, Shape], *, neural_engine: bool = False, example_inputs: Any = None,
             trust: bool = False,
             ) -> dict[str, Any]:
    """A folder is described as a bundle, anything else as a model. inputs: name -> shape, for free dimensions.

    neural_engine: with the advice of the bundle's backend about where it runs.

    Raises:
        EdgeqError: the source cannot be read.
    """
    if isinstance(source, str | Path) and Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        return _bundle(Path(source)) | (_advice(Path(source)) if neural_engine else {})
    if neural_engine:
        raise UsageError(f"--compute ane reads a written Core ML bundle; {source} is none: convert it first")
    from edgeq.conversion.metadata import said_path
    from edgeq.frontends import load_model
    from edgeq.passes import canonicalize

    model = load_model(source, inputs=inputs, example_inputs=example_inputs, open_sizes=True, trust=trust)
    canonicalize(model)
    return _model(said_path(source), model)


def _bundle(path: Path) -> dict[str, Any]:
    manifest = Manifest.read(path)
    return {"kind": "bundle", "path": str(path), "total_bytes": sum(file.bytes for file in manifest.files),
            **asdict(manifest)}


def _advice(path: Path) -> dict[str, Any]:
    manifest = Manifest.read(path)
    lint = backend_named(manifest.target).lint
    if lint is None:
        known = [backend.target.name for backend in backends() if backend.lint is not None]
        raise UsageError(f"--compute ane reads a bundle for {' or '.join(known)}; {path} is for {manifest.target}")
    return {"neural_engine": [asdict(finding) for finding in lint(path / manifest.entry)]}


# -- a model -----------------------------------------------------------------------------------------------------------

def _model(source: str, model: ir.Model) -> dict[str, Any]:
    from edgeq.graph import real_inputs
    from edgeq.passes.shapes import largest_run
    from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE
    from edgeq.state import state_pairs

    graph, free = model.graph, free_dimensions(model)
    quantized = any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in graph)
    tensors = [value.const_value for value in graph.initializers.values() if value.const_value is not None]
    return {
        "kind": "model", "path": source, "quantized": quantized,
        "inputs": [_value(value, free) for value in real_inputs(graph)],
        "outputs": [_value(value, free) for value in graph.outputs], "state": state_pairs(model),
        "ops": dict(Counter(node.op_type for node in graph).most_common()),
        "parameters": sum(tensor.size for tensor in tensors),
        "bytes": {"as it is": sum(tensor.nbytes for tensor in tensors)} if quantized else
                 {f"{bits} bits": weight_bytes(model, scheme) for bits, scheme in
                  ((32, PRESETS["float"]), (8, PRESETS["w8"]), (4, PRESETS["w4"]))},
        "peak_activation_bytes": peak_activation_bytes(largest_run(model).graph),
        "targets": _on_targets(model, [backend.target for backend in graph_backends()], quantized),
    }


def _value(value: ir.Value, free: Mapping[str, Free]) -> dict[str, Any]:
    return {"name": value.name, "dtype": value.dtype.numpy().name if value.dtype is not None else None,
            "shape": [d if isinstance(d, int) else str(d) for d in dimensions(value, free)]}


def weight_bytes(model: ir.Model, scheme: QuantScheme) -> int:
    """Bytes of all constants, the weights that `scheme` covers packed, with one float32 scale per channel."""
    from edgeq.quant.plan import make_plan
    from edgeq.scheme import PerChannel

    plan = make_plan(model, [backend.target for backend in graph_backends()], scheme)
    kinds = {weight.value: weight.type for weight in plan.weights}
    total = 0
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            continue
        kind = kinds.get(name)
        if kind is None:
            total += tensor.nbytes
        else:
            granularity = kind.granularity
            scales = tensor.shape.numpy()[granularity.axis] if isinstance(granularity, PerChannel) else 1
            total += math.ceil(tensor.size * kind.bits / 8) + 4 * scales
    return total


def peak_activation_bytes(graph: ir.Graph) -> int:
    """The largest sum of values that are alive at once when the nodes run in order, each freed after its last reader.

    What an engine needs that fuses nothing and computes nothing in place. A value whose size depends on the data counts
    as empty.
    """
    from edgeq.graph import value_bytes

    position = {node: index for index, node in enumerate(graph)}
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    change = [0] * (len(position) + 2)  # bytes that appear before, or vanish behind, each node
    for value in values:
        if value.name in graph.initializers:
            continue
        producer = value.producer()
        first = position[producer] if producer is not None else 0
        # A reader inside a control-flow body has no position here: its value is taken to live to the end.
        last = max((position.get(use.node, len(position)) for use in value.uses()), default=first)
        size = value_bytes(value) or 0
        change[first] += size
        change[(len(position) if value.is_graph_output() else last) + 1] -= size
    alive = peak = 0
    for delta in change:
        alive += delta
        peak = max(peak, alive)
    return peak


def _on_targets(model: ir.Model, targets: list[Target], quantized: bool) -> dict[str, dict[str, Any]]:
    """What stays float when everything else is quantized to w8a8, and which nodes a target cannot run at all."""
    from edgeq.conversion.dry_run import predicted_float_ops

    predicted = {} if quantized else predicted_float_ops(model, targets)
    found = {}
    for target in targets:
        missing, problems, floats = _attempt(model, target)
        found[target.name] = {
            "missing": missing, "cannot_run": problems,
            "stays_float": [] if quantized else _stays_float(model, target),
            "float_on_this_engine": floats if quantized else predicted[target.name],
        }
    return found


def _attempt(model: ir.Model, target: Target) -> tuple[str | None, list[dict[str, str]], list[dict[str, str]]]:
    """Write the model as it is for a target, into nowhere: only the backend itself knows what it refuses.

    -> (what is not installed, the nodes that it refuses, those of a quantized model that it runs in float).
    """
    from edgeq.backend import EmitOptions
    from edgeq.conversion.emission import emit_into_nowhere

    open_nodes = [] if target.open_sizes else _open_nodes(model)
    if open_nodes:
        return None, [asdict(problem) for problem in open_nodes], []
    try:
        emitted = emit_into_nowhere(target.name, model, EmitOptions()).artifact
        return None, [], [asdict(node) for node in emitted.float_nodes]
    except MissingExtra as error:
        return str(error), [], []
    except UnsupportedModel as error:
        return None, [asdict(problem) for problem in error.problems], []


def _open_nodes(model: ir.Model) -> list[Problem]:
    """The nodes where sizes begin to depend on the data."""
    from edgeq.graph import label

    def is_static(value: ir.Value | None) -> bool:
        return value is None or value.shape is None or value.shape.is_static()

    return [Problem(label(node), node.op_type, "how much it finds depends on the data") for node in model.graph
            if all(map(is_static, node.inputs)) and not all(map(is_static, node.outputs))]


def _stays_float(model: ir.Model, target: Target) -> list[dict[str, str]]:
    from edgeq.graph import label
    from edgeq.quant.plan import make_plan

    no_row = [{"node": label(node), "op": node.op_type, "reason": f"{target.name} has no integer kernel for it"}
              for node in model.graph if node.op_type not in target.rows and _computes_float(node)]
    return no_row + [asdict(kept) for kept in make_plan(model, [target], PRESETS["w8a8"]).kept]


def _computes_float(node: ir.Node) -> bool:
    dtypes = [value.dtype for value in node.outputs]
    return any(dtype is not None and dtype.is_floating_point() for dtype in dtypes)
