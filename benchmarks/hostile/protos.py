"""Mutations of a protobuf message that know its types, and of the bytes of its file, which do not."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper

Rng = np.random.Generator

INTEGERS: Final = (-(2**63), -(2**31), -100, -2, -1, 0, 1, 2, 3, 7, 100, 65536, 2**31 - 1, 2**31, 2**40, 2**63 - 1)
FLOATS: Final = (0.0, -1.0, 1e-45, 1e30, 3.4e38, float("inf"), float("-inf"), float("nan"))
TEXTS: Final = (
    "", "x", "y", "$x_1$", "$\\frac{", "a\\b", "\x1b[31mred\x1b[0m", "../secret", "/etc/passwd", "tensor name", "名前",
    "a" * 300, "%s%n", "If", "Loop", "Relu", "Conv", "ai.onnx", "com.microsoft", "a:b", "axis", "body",
)
LOCATIONS: Final = ("../secret", "/etc/passwd", "nothing", "", ".", "a/../../secret", "link", "/dev/zero", "w.bin")


def mutated(model: ModelProto, rng: Rng) -> bytes:
    """One to three mutations of a model -> the bytes of its file."""
    found = ModelProto()
    found.CopyFrom(model)
    for _ in range(rng.integers(1, 4)):
        _pick(rng, PROTO_MUTATIONS)(found, rng)
    data = found.SerializeToString()
    return _pick(rng, BYTE_MUTATIONS)(data, rng) if rng.random() < 0.15 else data


def _pick(rng: Rng, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


# -- any message ---------------------------------------------------------------------------------------------------

def messages(message: Any) -> Iterator[Any]:
    """A message and everything inside it."""
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.type == descriptor.TYPE_MESSAGE:
            for inner in value if _repeated(descriptor) else [value]:
                yield from messages(inner)


def _repeated(descriptor: Any) -> bool:
    return bool(descriptor.is_repeated)


def _any_field(model: ModelProto, rng: Rng) -> tuple[Any, Any] | None:
    """A message and one of its fields that is there; every kind of message equally likely."""
    by_kind: dict[str, list[Any]] = {}
    for message in messages(model):
        by_kind.setdefault(message.DESCRIPTOR.name, []).append(message)
    message = _pick(rng, by_kind[_pick(rng, sorted(by_kind))])
    there = message.ListFields()
    return (message, _pick(rng, there)[0]) if there else None


def drop_field(model: ModelProto, rng: Rng) -> None:
    if (found := _any_field(model, rng)) is not None:
        found[0].ClearField(found[1].name)


def drop_element(model: ModelProto, rng: Rng) -> None:
    if (found := _any_field(model, rng)) is not None and _repeated(found[1]):
        items = getattr(found[0], found[1].name)
        del items[int(rng.integers(len(items)))]


def double_element(model: ModelProto, rng: Rng) -> None:
    if (found := _any_field(model, rng)) is not None and _repeated(found[1]):
        items = getattr(found[0], found[1].name)
        items.append(_pick(rng, items))


def swap_elements(model: ModelProto, rng: Rng) -> None:
    if (found := _any_field(model, rng)) is not None and _repeated(found[1]):
        items = getattr(found[0], found[1].name)
        copies = list(items)
        rng.shuffle(copies)
        made = [_copy(item) for item in copies]
        del items[:]
        items.extend(made)


def change_value(model: ModelProto, rng: Rng) -> None:
    """Another number, another text, another enum."""
    found = _any_field(model, rng)
    if found is None or found[1].type == found[1].TYPE_MESSAGE:
        return
    message, descriptor = found
    current = getattr(message, descriptor.name)
    if _repeated(descriptor):
        current[int(rng.integers(len(current)))] = _other(current[0], descriptor, rng, model)
    else:
        setattr(message, descriptor.name, _other(current, descriptor, rng, model))


def _other(current: Any, descriptor: Any, rng: Rng, model: ModelProto) -> Any:
    if isinstance(current, str):
        names = [name for node in model.graph.node for name in (*node.input, *node.output)]
        return _pick(rng, names) if names and rng.random() < 0.5 else _pick(rng, TEXTS)
    if isinstance(current, bytes):
        return _pick(rng, (b"", current[:-1], current[:len(current) // 2], current + b"\0", b"\xff\xfe",
                           rng.bytes(len(current))))
    if isinstance(current, float):
        return _pick(rng, FLOATS)
    if descriptor.enum_type is not None:
        return _pick(rng, descriptor.enum_type.values).number
    value = int(_pick(rng, (*INTEGERS, current + 1, current - 1, -current, 2 * current)))
    low, high = (-(2**31), 2**31 - 1) if descriptor.cpp_type == descriptor.CPPTYPE_INT32 else (-(2**63), 2**63 - 1)
    if descriptor.cpp_type == descriptor.CPPTYPE_UINT64:
        low, high = 0, 2**64 - 1
    return min(max(value, low), high)


def copy_over(model: ModelProto, rng: Rng) -> None:
    """One message becomes a copy of another of its kind."""
    by_kind: dict[str, list[Any]] = {}
    for message in messages(model):
        by_kind.setdefault(message.DESCRIPTOR.name, []).append(message)
    several = [name for name, found in sorted(by_kind.items()) if len(found) > 1]
    if several:
        found = by_kind[_pick(rng, several)]
        source = _copy(_pick(rng, found))
        _pick(rng, found).CopyFrom(source)


def _copy(item: Any) -> Any:
    if not hasattr(item, "CopyFrom"):
        return item
    made = type(item)()
    made.CopyFrom(item)
    return made


# -- what only ONNX has --------------------------------------------------------------------------------------------

def _graphs(model: ModelProto) -> list[GraphProto]:
    return [message for message in messages(model) if isinstance(message, GraphProto)]


def _nodes(model: ModelProto) -> list[NodeProto]:
    return [message for message in messages(model) if isinstance(message, NodeProto)]


def _tensors(model: ModelProto) -> list[TensorProto]:
    return [message for message in messages(model) if isinstance(message, TensorProto)]


def external(model: ModelProto, rng: Rng) -> None:
    """Weights in a file, of the host or not there, at an offset that may be none."""
    tensors = _tensors(model)
    if not tensors:
        return
    tensor = _pick(rng, tensors)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    location = _pick(rng, LOCATIONS)
    tensor.external_data.add(key="location", value=location)
    for key in ("offset", "length"):
        if rng.random() < 0.5:
            tensor.external_data.add(key=key, value=str(_pick(rng, (*INTEGERS, "x", "0x10", "1e3"))))


def rewire(model: ModelProto, rng: Rng) -> None:
    """An input of a node becomes another value: of later, of earlier, of another graph, of its own output."""
    nodes = [node for node in _nodes(model) if node.input]
    names = [name for node in nodes for name in (*node.input, *node.output)]
    if nodes:
        node = _pick(rng, nodes)
        node.input[int(rng.integers(len(node.input)))] = _pick(rng, names)


def other_op(model: ModelProto, rng: Rng) -> None:
    nodes = _nodes(model)
    if nodes:
        schema = _pick(rng, _SCHEMAS)
        node = _pick(rng, nodes)
        node.op_type, node.domain = schema.name, schema.domain


def foreign_attribute(model: ModelProto, rng: Rng) -> None:
    """An attribute of its operator with a value of any kind, or one by reference."""
    nodes = _nodes(model)
    if not nodes:
        return
    node = _pick(rng, nodes)
    known = [name for schema in _SCHEMAS if schema.name == node.op_type for name in schema.attributes] or ["axis"]
    value = _pick(rng, (0, -1, 7, 2**40, 1.5, float("nan"), "text", [0, 1], [-5, 0, 2**33], [1.5], ["a"], []))
    made = (helper.make_attribute(_pick(rng, known), value, attr_type=AttributeProto.INTS) if value == [] else
            helper.make_attribute(_pick(rng, known), value))
    if rng.random() < 0.2:
        made = AttributeProto(name=_pick(rng, known), ref_attr_name="alpha", type=AttributeProto.FLOAT)
    for number, attribute in enumerate(node.attribute):
        if attribute.name == made.name:
            del node.attribute[number]
            break
    node.attribute.append(made)


def shape_of_input(model: ModelProto, rng: Rng) -> None:
    """Another size, another rank, another type of an input or output."""
    graphs = _graphs(model)
    graph = _pick(rng, graphs) if graphs else GraphProto()
    values = [*graph.input, *graph.output, *graph.value_info]
    if not values:
        return
    tensor = _pick(rng, values).type.tensor_type
    kind = int(rng.integers(4))
    if kind == 0:
        tensor.elem_type = int(_pick(rng, list(TensorProto.DataType.values())))
    elif kind == 1 and tensor.shape.dim:
        tensor.shape.dim[int(rng.integers(len(tensor.shape.dim)))].dim_value = int(_pick(rng, INTEGERS))
    elif kind == 2 and tensor.shape.dim:
        del tensor.shape.dim[int(rng.integers(len(tensor.shape.dim)))]
    else:
        tensor.shape.dim.add(dim_value=int(_pick(rng, (1, 2, 5, 2**31))))


def other_tensor(model: ModelProto, rng: Rng) -> None:
    """A constant of another type, shape or content."""
    tensors = _tensors(model)
    if not tensors:
        return
    tensor = _pick(rng, tensors)
    kind = int(rng.integers(4))
    if kind == 0:
        tensor.data_type = int(_pick(rng, list(TensorProto.DataType.values())))
    elif kind == 1:
        tensor.dims.append(int(_pick(rng, INTEGERS)))
    elif kind == 2:
        shape = [int(d) for d in rng.integers(0, 5, int(rng.integers(0, 4)))]
        dtype = _pick(rng, (np.float32, np.int64, np.int32, np.bool_, np.float16, np.uint8, np.float64))
        made = onnx.numpy_helper.from_array((rng.normal(size=shape) * 3).astype(dtype), tensor.name)
        tensor.CopyFrom(made)
    elif tensor.raw_data:
        item = max(1, len(tensor.raw_data) // max(1, int(np.prod(tensor.dims, dtype=np.float64))))
        values = (np.array([_pick(rng, INTEGERS)], np.int64).tobytes() if item == 8 else
                  np.array([_pick(rng, FLOATS)], np.float32).tobytes() if item == 4 else rng.bytes(item))
        place = item * int(rng.integers(len(tensor.raw_data) // item + 1))
        tensor.raw_data = (tensor.raw_data[:place] + values + tensor.raw_data[place + item:])[:len(tensor.raw_data)]


def deep_nesting(model: ModelProto, rng: Rng) -> None:
    """An If within an If within an If."""
    if not model.graph.node or not model.graph.output:
        return
    inner = helper.make_graph([helper.make_node("Identity", [model.graph.node[0].output[0]], ["deep"])
                               if model.graph.node[0].output else helper.make_node("Identity", ["x"], ["deep"])],
                              "g", [], [helper.make_tensor_value_info("deep", TensorProto.FLOAT, None)])
    for level in range(int(_pick(rng, (1, 3, 10, 25)))):
        node = helper.make_node("If", ["condition"], [f"deep{level}"], then_branch=inner, else_branch=inner)
        if level >= 3:  # twice the branches at every level would be 2**25
            del node.attribute[1:]
            node.attribute.append(helper.make_attribute("else_branch", helper.make_graph(
                [helper.make_node("Constant", [], [f"c{level}"], value_float=1.0)], "e", [],
                [helper.make_tensor_value_info(f"c{level}", TensorProto.FLOAT, None)])))
        inner = helper.make_graph([node], f"g{level}", [],
                                  [helper.make_tensor_value_info(f"deep{level}", TensorProto.FLOAT, None)])
    model.graph.node.extend(inner.node)
    model.graph.input.append(helper.make_tensor_value_info("condition", TensorProto.BOOL, []))
    model.graph.output.append(helper.make_tensor_value_info(inner.output[0].name, TensorProto.FLOAT, None))


def sparse(model: ModelProto, rng: Rng) -> None:
    """An initializer becomes a sparse one, whose indices may lie outside."""
    graph = model.graph
    if not graph.initializer:
        return
    place = int(rng.integers(len(graph.initializer)))
    tensor = graph.initializer[place]
    made = onnx.SparseTensorProto(dims=tensor.dims)
    made.values.CopyFrom(helper.make_tensor(tensor.name, TensorProto.FLOAT, [2], [1.0, 2.0]))
    made.indices.CopyFrom(helper.make_tensor("", TensorProto.INT64, [2], [0, int(_pick(rng, (1, -1, 2**40)))]))
    del graph.initializer[place]
    graph.sparse_initializer.append(made)


def output_of_anything(model: ModelProto, rng: Rng) -> None:
    """An input, a constant or any value becomes an output too."""
    graph = model.graph
    names = [value.name for value in (*graph.input, *graph.initializer)]
    names += [name for node in graph.node for name in node.output]
    if names:
        graph.output.append(helper.make_tensor_value_info(_pick(rng, names), TensorProto.FLOAT, None))


def no_inputs(model: ModelProto, rng: Rng) -> None:
    """Every input becomes a constant."""
    for value in model.graph.input:
        tensor = value.type.tensor_type
        dims = [max(1, min(int(d.dim_value), 8)) for d in tensor.shape.dim]
        if tensor.elem_type == TensorProto.FLOAT:
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(dims, np.float32), value.name))
    del model.graph.input[:]


def control_flow(model: ModelProto, rng: Rng) -> None:
    """A node becomes an If, Loop or Scan whose body is another graph of the model, or nothing."""
    nodes = _nodes(model)
    if not nodes:
        return
    node = _pick(rng, nodes)
    node.op_type, node.domain = _pick(rng, ("If", "Loop", "Scan")), ""
    del node.attribute[:]
    graph = _copy(_pick(rng, [*_graphs(model), GraphProto()]))
    if rng.random() < 0.5:
        for name in ("body",) if node.op_type != "If" else ("then_branch", "else_branch"):
            node.attribute.append(helper.make_attribute(name, graph))
    if node.op_type == "Scan":
        node.attribute.append(helper.make_attribute("num_scan_inputs", int(_pick(rng, INTEGERS))))


_SCHEMAS: Final = tuple(schema for schema in onnx.defs.get_all_schemas() if schema.domain == "")
PROTO_MUTATIONS: Final[tuple[Callable[[ModelProto, Rng], None], ...]] = (
    drop_field, drop_element, double_element, swap_elements, change_value, change_value, change_value, copy_over,
    external, rewire, other_op, foreign_attribute, shape_of_input, other_tensor, deep_nesting, sparse,
    output_of_anything, no_inputs, control_flow,
)


# -- bytes ---------------------------------------------------------------------------------------------------------

def flip(data: bytes, rng: Rng) -> bytes:
    made = bytearray(data)
    for _ in range(int(_pick(rng, (1, 1, 3, 20)))):
        if made:
            made[int(rng.integers(len(made)))] ^= 1 << int(rng.integers(8))
    return bytes(made)


def cut(data: bytes, rng: Rng) -> bytes:
    return data[:int(rng.integers(len(data) + 1))]


def cut_out(data: bytes, rng: Rng) -> bytes:
    first, last = sorted(int(place) for place in rng.integers(len(data) + 1, size=2))
    return data[:first] + data[last:]


def repeat(data: bytes, rng: Rng) -> bytes:
    first, last = sorted(int(place) for place in rng.integers(len(data) + 1, size=2))
    return data[:last] + data[first:]


BYTE_MUTATIONS: Final[tuple[Callable[[bytes, Rng], bytes], ...]] = (flip, flip, cut, cut_out, repeat)
