"""A model run piece by piece over all samples at once, so that those behind a layer see what it became."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.graph import all_nodes, bodies, is_constant

Arrays: TypeAlias = Mapping[str, NDArray[Any]]


class Prefix:
    """The first nodes of a graph, as far as they have been run. Holds only the values that later nodes still read.

    """

    def __init__(self, model: ir.Model, wanted: Iterable[ir.Node], feeds: Sequence[Arrays],
                 replaced: Arrays | None = None):
        """wanted: the nodes whose inputs will be asked for; only what these need is computed. replaced: initializers
        that are other than the model has them; whatever is in it when a node's turn comes holds.
        """
        self._model, self._replaced = model, replaced if replaced is not None else {}
        wanted = set(wanted)
        needed = _needed(wanted)
        self._nodes = [node for node in model.graph if node in needed]
        self._position = {node: number for number, node in enumerate(self._nodes)}
        self._last: dict[ir.Value, int] = {}
        for number, node in enumerate(self._nodes):
            self._last.update(dict.fromkeys(reads(node), number))
        inputs = [value for value in model.graph.inputs if value in self._last]
        self._values = {value: [feed[value.name or ""] for feed in feeds] for value in inputs if value.name in feeds[0]}
        self._done = 0

    def run_until(self, node: ir.Node) -> None:
        """Run everything in front of `node`, and forget what only nodes in front of it read."""
        stop = self._position[node]
        if self._done < stop:
            self._run(self._nodes[self._done:stop], stop)
        self._done = stop
        self._values = {value: arrays for value, arrays in self._values.items() if self._last[value] >= stop}

    def inputs(self, node: ir.Node, index: int) -> list[NDArray[Any]]:
        """One input of the node that was last run until, for every sample."""
        value = node.inputs[index]
        assert value is not None
        return self._values[value]

    def _run(self, nodes: list[ir.Node], stop: int) -> None:
        made = {value for node in nodes for value in node.outputs}
        needed = list(dict.fromkeys(value for node in nodes for value in reads(node) if value not in made))
        given = [value for value in needed if value in self._values]
        outputs = [value for node in nodes for value in node.outputs if self._last.get(value, -1) >= stop]
        constants = [value for value in needed if is_constant(value) or value not in self._values]
        if not outputs:
            return
        session = part_session(self._model, nodes, {value: self._values[value][0] for value in given},
                           {value.name or "": self._constant(value) for value in constants}, outputs)
        names = [value.name for value in outputs]
        results = [session.run(names, {value.name: self._values[value][sample] for value in given})
                   for sample in range(len(next(iter(self._values.values()))))]
        self._values.update({value: [result[k] for result in results] for k, value in enumerate(outputs)})

    def _constant(self, value: ir.Value) -> NDArray[Any]:
        name = value.name or ""
        assert value.const_value is not None, f"'{name}' has not been computed"
        return self._replaced[name] if name in self._replaced else value.const_value.numpy()


def reads(node: ir.Node) -> list[ir.Value]:
    """What a node reads of its own graph, in the bodies of its attributes too."""
    values = [value for value in node.inputs if value is not None]
    for body in bodies(node):
        inner = list(all_nodes(body))
        read = [value for deep in inner for value in deep.inputs] + list(body.outputs)
        values += [value for value in read if value is not None and value.graph is node.graph]
    return list(dict.fromkeys(values))


def _needed(wanted: set[ir.Node]) -> set[ir.Node]:
    """The nodes themselves and all that their inputs depend on."""
    found, open_ = set(wanted), list(wanted)
    while open_:
        for value in reads(open_.pop()):
            producer = value.producer()
            if producer is not None and producer not in found:
                found.add(producer)
                open_.append(producer)
    return found


def part_session(model: ir.Model, nodes: Sequence[ir.Node], given: Mapping[ir.Value, NDArray[Any]],
             constants: Arrays, outputs: Iterable[ir.Value]) -> Any:
    """onnxruntime with a piece of the model."""
    import onnx
    import onnxruntime

    graph = onnx.GraphProto(name="prefix", node=[ir.to_proto(node) for node in nodes])
    for value, example in given.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(example.dtype)
        graph.input.append(onnx.helper.make_tensor_value_info(value.name or "", kind, None))
    for name, data in constants.items():
        graph.initializer.append(onnx.numpy_helper.from_array(data, name))
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(value.name or "") for value in outputs)
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    proto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Symmetric activations stay int8: the pass that makes them uint8 on x86-64 breaks graphs of opset 21
    # (https://github.com/microsoft/onnxruntime/issues/25526).
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    try:
        return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class
        raise ModelError(f"onnxruntime cannot run a part of the model: {error}") from error
