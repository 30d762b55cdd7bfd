"""The structural check at the door: is a protobuf message a network at all? Before any pass looks at it.

onnx.checker is not used: it refuses what engines run (nodes in another order), passes what they refuse (cycles between
functions, weights whose bytes do not fit), and copies models through messages of 2 GB at most.
"""
from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto

from edgeq.errors import ModelError
from edgeq.frontends.tensors import sparse_problems, tensor_problems, value_problems

MAX_NODES: Final = 1_000_000  # with every call of a function in place: ten functions of ten calls each are 10**10 nodes
DEFAULT_DOMAINS: Final = ("", "ai.onnx")
_BODIES: Final[Mapping[str, tuple[str, ...]]] = {
    "If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",), "SequenceMap": ("body",)}
_INDEX: Final = "tensor(int64), has unsupported type: tensor(int32)"  # torch writes such indices; a Cast mends them
# Attributes that count or measure something: engines hold them in 32 bits.
_COUNTS: Final = frozenset({
    "group", "num_groups", "strides", "dilations", "kernel_shape", "hidden_size", "blocksize", "num_scan_inputs",
    "output_height", "output_width", "num_outputs", "q_num_heads", "kv_num_heads",
})
# Attributes that say yes or no: engines, and onnx's inference, disagree about what any third number means.
_SWITCHES: Final = frozenset({
    "keepdims", "noop_with_empty_axes", "transA", "transB", "exclusive", "reverse", "largest", "sorted", "ceil_mode",
    "count_include_pad", "select_last_index", "linear_before_reset", "input_forget", "upper", "fmod",
})
# Which field of an attribute holds a value of its type.
_KINDS: Final = {
    AttributeProto.FLOAT: "f", AttributeProto.INT: "i", AttributeProto.STRING: "s", AttributeProto.TENSOR: "t",
    AttributeProto.GRAPH: "g", AttributeProto.SPARSE_TENSOR: "sparse_tensor", AttributeProto.TYPE_PROTO: "tp",
    AttributeProto.FLOATS: "floats", AttributeProto.INTS: "ints", AttributeProto.STRINGS: "strings",
    AttributeProto.TENSORS: "tensors", AttributeProto.GRAPHS: "graphs", AttributeProto.TYPE_PROTOS: "type_protos",
    AttributeProto.SPARSE_TENSORS: "sparse_tensors",
}


def check_structure(model: ModelProto, source: str) -> None:
    """Refuse what is no network: names the node or value that is wrong and how. ``source`` names the model in messages.

    Graphs, the bodies of control flow and functions are looked at alike. External tensors are not read.

    Raises:
        ModelError: a name is no text; an opset or a name is given twice; a value is produced by nobody or by itself; a
            node has too few or too many inputs, outputs or attributes, or ones of the wrong type; If, Loop or Scan have
            no fitting body; an attribute refers to a function that is not around it; the bytes of a tensor do not fit
            its shape; a tensor, a loop or the calls of functions are larger than any engine runs.
    """
    problem = next(_problems(model), None)
    if problem is not None:
        raise ModelError(f"{source} is not a valid ONNX model: {problem}")


def _problems(model: ModelProto) -> Iterator[str]:
    yield from _texts(model, "the model")
    yield from _opsets(model.opset_import, [*_default_nodes(model.graph)])
    versions = _versions(model.opset_import)
    yield from _Graph(model.graph, versions, _calls(model)).problems()
    name = _twice([f"{function.domain}.{function.name}:{function.overload}" for function in model.functions])
    if name is not None:
        yield f"function '{name.removesuffix(':')}' is there twice"
    for function in model.functions:
        yield from _function(function, versions, _calls(model))
    yield from _expanded(model)
    if not model.graph.node:
        yield "it computes nothing: it has no nodes, not even an Identity in front of an output"
    for value in model.graph.input:
        if value.type.WhichOneof("value") is None or (value.type.HasField("tensor_type")
                                                      and not value.type.tensor_type.elem_type):
            yield f"input '{value.name}' has no type"
    yield from _types(model)


def _types(model: ModelProto) -> Iterator[str]:
    """Do the types of values fit their operators? onnx infers them from types alone, without shapes or weights."""
    shell = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    shell.graph.CopyFrom(GraphProto(name="types", node=model.graph.node))
    given = {value.name: value.type.tensor_type.elem_type for value in model.graph.input
             if value.type.HasField("tensor_type")}
    given |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    given |= {sparse.values.name: sparse.values.data_type for sparse in model.graph.sparse_initializer}
    for value in model.graph.input:
        if value.name not in given:
            shell.graph.input.add().CopyFrom(value)
    shell.graph.input.extend(onnx.helper.make_tensor_value_info(name, kind, None) for name, kind in given.items())
    try:
        onnx.shape_inference.infer_shapes(shell, check_type=True, strict_mode=True)
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
        reason = _reason(error)  # one about shapes is not final: none is known here
        if "type" in reason.lower() and _INDEX not in reason:
            yield reason


def _reason(error: Exception) -> str:
    """"[ShapeInferenceError] (op_type:Gather, node name: g): text" -> "Gather 'g': text"."""
    text = str(error).strip().splitlines()[0]
    found = re.search(r"\(op_type:(\w+)(?:, node name: (.*?))?\): (?:\[\w+\] )?(.*)", text)
    return f"{found[1]} '{found[2] or ''}': {found[3]}" if found else text


# -- names and versions ------------------------------------------------------------------------------------------------

def _texts(message: Any, where: str) -> Iterator[str]:
    """protobuf hands out a text that is no UTF-8 as bytes."""
    name = getattr(message, "name", "") or getattr(message, "op_type", "")
    kind = type(message).__name__.removesuffix("Proto").lower()
    here = f"{kind} '{name}'" if isinstance(name, str) and name else where
    for descriptor, value in message.ListFields():
        items = value if descriptor.is_repeated else (value,)
        if descriptor.type == descriptor.TYPE_MESSAGE:
            yield from chain.from_iterable(_texts(item, here) for item in items)
        elif descriptor.type == descriptor.TYPE_STRING and not all(isinstance(item, str) for item in items):
            yield f"a {descriptor.name.replace('_', ' ')} in {here} is no UTF-8"


def _default_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        if node.domain in DEFAULT_DOMAINS:
            yield node
        for body in _graphs_of(node):
            yield from _default_nodes(body)


def _opsets(imports: Sequence[Any], nodes: Sequence[NodeProto]) -> Iterator[str]:
    """One domain may be there twice where that makes no difference, or under both its names: writers do that."""
    found: dict[str, set[int]] = {}
    for entry in imports:
        found.setdefault(entry.domain, set()).add(entry.version)
    for domain, versions in found.items():
        odd = [version for version in versions if not 0 < version < 2**31]
        if odd:
            yield f"it imports version {odd[0]} of the domain '{domain}'"
        elif len(versions) > 1 and (domain not in DEFAULT_DOMAINS or any(
                len({_since(node.op_type, version) for version in versions}) > 1 for node in nodes)):
            yield f"it imports two versions of the domain '{domain}': {' and '.join(map(str, sorted(versions)))}"


def _since(op: str, version: int) -> int | None:
    """The version that defined the form of an operator that a version uses."""
    return int(onnx.defs.get_schema(op, version, "").since_version) if onnx.defs.has(op, version, "") else None


def _versions(imports: Sequence[Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in imports:
        domain = "" if entry.domain in DEFAULT_DOMAINS else entry.domain
        found[domain] = max(entry.version, found.get(domain, 0))
    return found


def _twice(names: Sequence[str]) -> str | None:
    """The first name that comes a second time."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


# -- functions ---------------------------------------------------------------------------------------------------------

Key = tuple[str, str, str]  # domain, name and overload of a function


def _calls(model: ModelProto) -> dict[Key, FunctionProto]:
    return {(function.domain, function.name, function.overload): function for function in model.functions}


def _function(function: FunctionProto, versions: Mapping[str, int], functions: Mapping[Key, FunctionProto],
              ) -> Iterator[str]:
    where = f"function '{function.domain}.{function.name}'"
    if not function.name or not function.output:
        yield f"{where} has no name or no outputs"
    yield from (f"{where}: {text}" for text in _opsets(function.opset_import, [
        node for node in function.node if node.domain in DEFAULT_DOMAINS]))
    attributes = [*function.attribute, *(attribute.name for attribute in function.attribute_proto)]
    for kind, names in (("input", function.input), ("output", function.output), ("attribute", attributes)):
        name = _twice(names)
        if name is not None:
            yield f"{where} has two {kind}s of the name '{name}'"
    body = GraphProto(name=where, node=function.node)
    for name in function.input:
        body.input.add(name=name)
    for name in function.output:
        body.output.add(name=name)
    inner = _versions(function.opset_import) or dict(versions)
    yield from (f"{where}: {text}" for text in _Graph(body, inner, functions, frozenset(attributes)).problems())


def _expanded(model: ModelProto) -> Iterator[str]:
    """Functions that call themselves, or each other so often that nothing could hold the network."""
    functions = _calls(model)
    sizes: dict[Key, int] = {}
    calling: list[Key] = []

    def size(nodes: Iterator[NodeProto] | Sequence[NodeProto]) -> int:
        return sum(1 + _called(node) + sum(size(body.node) for body in _graphs_of(node)) for node in nodes)

    def _called(node: NodeProto) -> int:
        key = (node.domain, node.op_type, node.overload)
        if key not in functions:
            return 0
        if key in calling:
            raise ModelError(f"function '{node.domain}.{node.op_type}' calls itself")
        if key not in sizes:
            calling.append(key)
            sizes[key] = size(functions[key].node)
            calling.pop()
        return sizes[key]

    try:
        total = size(model.graph.node)
    except ModelError as error:
        yield str(error)
        return
    if total > MAX_NODES:
        yield f"with its functions in place it has {total} nodes, more than {MAX_NODES}"


# -- graphs ------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True)
class _Graph:
    """One graph with what is around it.

    versions: of the opsets, by domain. attributes: names that nodes may refer to: those of the function. outer: values
    of the graphs around it.
    """

    graph: GraphProto
    versions: Mapping[str, int]
    functions: Mapping[Key, FunctionProto]
    attributes: frozenset[str] | None = None
    outer: frozenset[str] = field(default_factory=frozenset)

    def problems(self) -> Iterator[str]:
        graph = self.graph
        for tensor in graph.initializer:
            yield from tensor_problems(tensor, f"weights '{tensor.name}'")
        for sparse in graph.sparse_initializer:
            yield from sparse_problems(sparse, f"weights '{sparse.values.name}'")
        types = {tensor.name: tensor.data_type for tensor in graph.initializer}
        for value in chain(graph.input, graph.output, graph.value_info):
            yield from value_problems(value)
            held, declared = types.get(value.name), value.type.tensor_type.elem_type
            if held and declared and held != declared:
                yield f"weights '{value.name}' are {_type_name(held)}, and declared as {_type_name(declared)}"
        yield from self._names()
        known = self._known() | self.outer
        for node in graph.node:
            yield from self._node(node, known)
        missing = [value.name for value in graph.output if value.name not in known]
        if missing:
            yield f"output '{missing[0]}' is computed by no node"
        yield from self._cycle()

    def _known(self) -> frozenset[str]:
        return frozenset(chain(self._given(), (name for node in self.graph.node for name in node.output if name)))

    def _given(self) -> list[str]:
        return [*(value.name for value in self.graph.input), *(tensor.name for tensor in self.graph.initializer),
                *(sparse.values.name for sparse in self.graph.sparse_initializer)]

    def _names(self) -> Iterator[str]:
        """A value has one name and one source; a default of an input has the input's."""
        graph = self.graph
        weights = [*(tensor.name for tensor in graph.initializer), *(s.values.name for s in graph.sparse_initializer)]
        computed = [name for node in graph.node for name in node.output if name]
        for kind, names in (("input", [value.name for value in graph.input]), ("weights", weights),
                            ("output", [value.name for value in graph.output])):
            if "" in names:
                yield f"one of its {kind}{'s' * (kind != 'weights')} has no name"
            name = _twice(names)
            if name is not None:
                yield f"{kind} '{name}' is there twice"
        name = _twice([*dict.fromkeys(self._given()), *computed])
        if name is not None:
            yield f"value '{name}' is computed twice, or was given before a node computes it"

    def _cycle(self) -> Iterator[str]:
        """Kahn: a node is done when all that it reads is; what is never done reads itself."""
        nodes = list(self.graph.node)
        source = {name: index for index, node in enumerate(nodes) for name in node.output if name}
        needs = [{source[name] for name in _reads(node) if name in source} for node in nodes]
        readers: dict[int, list[int]] = {}
        for index, found in enumerate(needs):
            for need in found:
                readers.setdefault(need, []).append(index)
        ready, done = [index for index, found in enumerate(needs) if not found], 0
        while ready:
            index, done = ready.pop(), done + 1
            for reader in readers.get(index, ()):
                needs[reader].discard(index)
                if not needs[reader]:
                    ready.append(reader)
        if done < len(nodes):
            yield f"{_called_node(next(node for node, need in zip(nodes, needs, strict=True) if need))} waits for " \
                  "its own result: the graph has a cycle"

    def _node(self, node: NodeProto, known: frozenset[str]) -> Iterator[str]:
        where = _called_node(node)
        if not node.op_type:
            yield f"{where} has no operator"
        for name in node.input:
            if name and name not in known:
                yield f"{where} reads '{name}', which nobody produces"
        name = _twice([attribute.name for attribute in node.attribute])
        if name is not None:
            yield f"{where} has the attribute '{name}' twice"
        for attribute in node.attribute:
            yield from (f"{where}: {text}" for text in self._attribute(attribute, known))
        domain = "" if node.domain in DEFAULT_DOMAINS else node.domain
        version = self.versions.get(domain)
        function = self.functions.get((node.domain, node.op_type, node.overload))
        if function is not None:
            if len(node.input) > len(function.input) or len(node.output) > len(function.output):
                yield f"{where} has {len(node.input)} inputs and {len(node.output)} outputs; its function has " \
                      f"{len(function.input)} and {len(function.output)}"
        elif version is not None and onnx.defs.has(node.op_type, version, domain):
            yield from (f"{where}: {text}" for text in _against(
                node, onnx.defs.get_schema(node.op_type, version, domain), version if domain == "" else 0))

    def _attribute(self, attribute: AttributeProto, known: frozenset[str]) -> Iterator[str]:
        name = attribute.name
        if attribute.ref_attr_name:
            if self.attributes is None:
                yield f"attribute '{name}' refers to '{attribute.ref_attr_name}' of a function, and there is none " \
                      "around it"
            elif attribute.ref_attr_name not in self.attributes:
                yield f"attribute '{name}' refers to '{attribute.ref_attr_name}', which its function does not have"
            return
        kind = _KINDS.get(attribute.type)
        if kind is None or not name:
            yield f"attribute '{name}' has no name or no type"
            return
        others = [other for other in _KINDS.values() if other != kind and (
            len(getattr(attribute, other)) if other.endswith("s") and other != "s" else attribute.HasField(other))]
        single = kind == "s" or not kind.endswith("s")
        if others or (single and not attribute.HasField(kind)):
            yield f"attribute '{name}' does not hold what its type says"
            return
        for tensor in [attribute.t] if kind == "t" else attribute.tensors:
            yield from tensor_problems(tensor, f"attribute '{name}'")
        for sparse in [attribute.sparse_tensor] if kind == "sparse_tensor" else attribute.sparse_tensors:
            yield from sparse_problems(sparse, f"attribute '{name}'")
        for body in [attribute.g] if kind == "g" else attribute.graphs:
            inner = _Graph(body, self.versions, self.functions, self.attributes, known)
            yield from (f"in its {name}: {text}" for text in inner.problems())


def _type_name(kind: int) -> str:
    return str(onnx.TensorProto.DataType.Name(kind)).lower()


def _called_node(node: NodeProto) -> str:
    name = node.name or next((name for name in node.output if name), "")
    return f"{node.op_type or 'node'} '{name}'"


def _graphs_of(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _reads(node: NodeProto) -> Iterator[str]:
    """What a node reads of the graph around it, through its bodies too."""
    yield from (name for name in node.input if name)
    for body in _graphs_of(node):
        inside = {*(value.name for value in body.input), *(tensor.name for tensor in body.initializer),
                  *(sparse.values.name for sparse in body.sparse_initializer),
                  *(name for inner in body.node for name in inner.output)}
        read = chain(chain.from_iterable(map(_reads, body.node)), (value.name for value in body.output))
        yield from (name for name in read if name not in inside)


# -- nodes -------------------------------------------------------------------------------------------------------------

def _against(node: NodeProto, schema: Any, version: int) -> Iterator[str]:
    """A node against the definition of its operator."""
    for kind, given, formals, least, most in (
            ("inputs", node.input, schema.inputs, schema.min_input, schema.max_input),
            ("outputs", node.output, schema.outputs, schema.min_output, schema.max_output)):
        if not least <= len(given) <= most:
            limits = str(least) if least == most else f"{least} to {most}" if most < 2**31 - 1 else f"{least} or more"
            yield f"it has {len(given)} {kind} instead of {limits}"
        for name, formal in zip(given, formals, strict=False):
            if not name and formal.option != onnx.defs.OpSchema.FormalParameterOption.Optional and kind == "inputs":
                yield f"its input {formal.name} is missing"
    held = {attribute.name: attribute for attribute in node.attribute}
    for name, attribute in held.items():
        known = schema.attributes.get(name)
        if known is None:
            yield f"the operator has no attribute '{name}'"
        elif not attribute.ref_attr_name and known.type.value != attribute.type:
            given_type = AttributeProto.AttributeType.Name(attribute.type)
            yield f"attribute '{name}' is {given_type} instead of {known.type.name}"
        elif name in _SWITCHES and not attribute.ref_attr_name and attribute.i not in (0, 1):
            yield f"attribute '{name}' is {attribute.i}, and only 0 and 1 have a meaning"
        elif name in _COUNTS and not all(0 < count < 2**31 for count in (
                attribute.ints if attribute.ints else [attribute.i] if attribute.HasField("i") else [])):
            yield f"attribute '{name}' is {list(attribute.ints) or attribute.i}; each must be 1 to 2**31 - 1"
    missing = [name for name, known in schema.attributes.items() if known.required and name not in held]
    if missing:
        words = "body" if missing[0] in chain.from_iterable(_BODIES.values()) else "attribute"
        yield f"its {words} '{missing[0]}' is missing"
    elif version and not any(attribute.ref_attr_name for attribute in node.attribute):
        yield from {"If": _if, "Loop": _loop, "Scan": _scan}.get(node.op_type, _nothing)(node, held, version)


Held = Mapping[str, AttributeProto]


def _hands_on(body: GraphProto) -> Iterator[str]:
    """Outputs of a body are its own: onnxruntime refuses one that lies outside, and asks for an Identity."""
    inside = {*(value.name for value in body.input), *(tensor.name for tensor in body.initializer),
              *(sparse.values.name for sparse in body.sparse_initializer),
              *(name for node in body.node for name in node.output)}
    for value in body.output:
        if value.name not in inside:
            yield f"its body gives '{value.name}', which lies outside of it"


def _nothing(node: NodeProto, held: Held, version: int) -> Iterator[str]:
    return iter(())


def _if(node: NodeProto, held: Held, version: int) -> Iterator[str]:
    for name in _BODIES["If"]:
        body = held[name].g
        if len(body.input) or len(body.output) != len(node.output):
            yield f"its {name} takes {len(body.input)} values and gives {len(body.output)}, instead of 0 and " \
                  f"{len(node.output)}"
        yield from _hands_on(body)


def _loop(node: NodeProto, held: Held, version: int) -> Iterator[str]:
    body, states = held["body"].g, max(len(node.input) - 2, 0)
    if len(body.input) != 2 + states or len(body.output) < 1 + states or len(body.output) - 1 != len(node.output):
        yield f"its body takes {len(body.input)} values and gives {len(body.output)}; the node carries {states} and " \
              f"gives {len(node.output)}"
    elif "" in list(node.input)[2:]:
        yield "one of the values that it carries is missing"
    yield from _hands_on(body)


def _scan(node: NodeProto, held: Held, version: int) -> Iterator[str]:
    body, scanned, inputs = held["body"].g, held["num_scan_inputs"].i, len(node.input) - (version < 9)
    if not 0 < scanned <= inputs or len(body.input) != inputs or not inputs - scanned <= len(body.output) == len(
            node.output):
        yield f"it scans {scanned} of {inputs} inputs and gives {len(node.output)}; its body takes {len(body.input)} " \
              f"and gives {len(body.output)}"
        return
    counts = {"scan_input_axes": scanned, "scan_input_directions": scanned, "directions": scanned,
              "scan_output_axes": len(node.output) - inputs + scanned,
              "scan_output_directions": len(node.output) - inputs + scanned}
    for name, count in counts.items():
        if name in held and len(held[name].ints) != count:
            yield f"attribute '{name}' has {len(held[name].ints)} entries instead of {count}"
    if "" in list(node.input)[version < 9:]:
        yield "one of its inputs is missing"
    yield from _hands_on(body)
