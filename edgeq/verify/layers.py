"""Layer by layer: where a bundle, or the quantized graph, leaves its float model.

    float model  ── every value ──────────────┐
                                              ├── per value: SQNR, share of the grid in use, saturation
    bundle ── probe: the values of its engine ┘

A probe knows how one engine names its values. What it cannot match by name is listed, never guessed.
"""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq import policy
from edgeq.errors import MissingExtra
from edgeq.graph import consumers, is_constant, label
from edgeq.inference.reference import run_onnx
from edgeq.inference.session import Arrays, exposing, open_session
from edgeq.metrics import CEILING_DB, ErrorPower
from edgeq.ops import KEEPING_ALL, LIMITING
from edgeq.passes.shapes import largest_run
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE, grid_of
from edgeq.scheme import PerTensor, QuantParams, QuantType, dequantize
from edgeq_runtime.manifest import Manifest, TensorSpec

KEPT_NUMBERS: Final = 2048  # of every value and feed, for a histogram


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One value of both networks, over all feeds.

    value: its name in the float model. op, node: what computes it there ("input" for an input). drop_db: how far its
    SQNR is below that of the worst value that it is computed from. range_used: share of the grid's steps between the
    smallest and the largest integer seen; saturated: share of elements on the first or last step; both None where the
    value is on no grid. sample: some of the float model's numbers. grid: what they are rounded to.
    """

    value: str
    op: str
    node: str
    sqnr_db: float
    drop_db: float
    range_used: float | None
    saturated: float | None
    sample: NDArray[np.float32]
    grid: QuantParams | None

    def to_json(self) -> dict[str, Any]:
        """Without the numbers themselves."""
        return {name: getattr(self, name) for name in ("value", "op", "node", "sqnr_db", "drop_db", "range_used",
                                                       "saturated")}


@dataclass(frozen=True, slots=True)
class LayerComparison:
    """layers: in the order of computation. unmatched: values of the float model that the other side does not show.

    outputs: names of the network's outputs.
    """

    layers: tuple[Layer, ...]
    unmatched: tuple[str, ...]
    outputs: frozenset[str]

    @property
    def first_broken(self) -> Layer | None:
        """The first layer below BROKEN_DB, where an output is: everything behind it only inherits the damage.

        Where the outputs are sound, no layer is broken: noise on values that nobody depends on is no damage.
        """
        if all(layer.sqnr_db >= policy.BROKEN_DB.value for layer in self.layers if layer.value in self.outputs):
            return None
        return next((layer for layer in self.layers if layer.sqnr_db < policy.BROKEN_DB.value), None)

    def worst(self, count: int) -> list[Layer]:
        """The layers that add the most noise relative to their signal, the worst first.

        Those whose inputs are still sound come first: behind a break, every layer only passes on, and often amplifies,
        what it was given.
        """
        def added(layer: Layer) -> tuple[bool, float]:
            before = layer.sqnr_db + layer.drop_db
            return before >= policy.BROKEN_DB.value, _ratio(layer.sqnr_db) - _ratio(before)
        return sorted((layer for layer in self.layers if layer.node), key=added, reverse=True)[:count]

    def to_json(self) -> dict[str, Any]:
        broken = self.first_broken
        return {"layers": [layer.to_json() for layer in self.layers], "unmatched": list(self.unmatched),
                "first_broken": None if broken is None else broken.value}


def _ratio(decibel: float) -> float:
    """Noise over signal, in power."""
    return float(10.0 ** (-min(max(decibel, -CEILING_DB), CEILING_DB) / 10))


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What an engine holds of one value: the real numbers, and the integers where it is on a grid."""

    real: NDArray[Any]
    stored: NDArray[Any] | None = None
    grid: QuantParams | None = None


class Probe(Protocol):
    """One side of a comparison. names: values of the float model that it can show."""

    @property
    def names(self) -> Sequence[str]: ...

    def run(self, feed: Arrays) -> Mapping[str, Seen]: ...


def compare_layers(bundle: Path, network: ir.Model, feeds: Iterable[Arrays]) -> LayerComparison:
    """A bundle, run by its engine, against its float model. network: canonical, as the bundle was made from.

    Raises:
        MissingExtra: the engine is not installed. BundleError: the bundle cannot be read.
    """
    manifest = Manifest.read(bundle)
    path = bundle / manifest.entry
    match manifest.target:
        case "tflite":
            probe: Probe = TFLiteProbe(path, network, manifest.inputs)
        case "coreml":
            probe = CoreMLProbe(path, network, manifest)
        case _:
            probe = OnnxProbe(ir.load(path), network, manifest.options.get("session_options", {}))
    return compare_values(network, probe, feeds)


def compare_graphs(network: ir.Model, graph: ir.Model, feeds: Iterable[Arrays]) -> LayerComparison:
    """The quantized graph, run op by op, against the float one."""
    return compare_values(network, OnnxProbe(graph, network, None), feeds)


def compare_values(network: ir.Model, probe: Probe, feeds: Iterable[Arrays]) -> LayerComparison:
    """Run both sides feed by feed; only one feed's values are held at once."""
    shown = set(probe.names)
    wanted = [value for value in _float_values(network.graph) if value.name in shown]
    sums = {value.name or "": _Sums() for value in wanted}
    feeds = list(feeds)
    for feed, expected in zip(feeds, run_onnx(exposing(network, list(sums)), feeds), strict=True):
        for name, seen in probe.run(feed).items():
            if name in sums:
                sums[name].add(np.asarray(feed[name] if name in feed else expected[name]), seen)
    return LayerComparison(_layers(network.graph, sums), tuple(_unmatched(network.graph, shown)),
                           frozenset(value.name or "" for value in network.graph.outputs))


class _Sums:
    """What is remembered of one value while the feeds go by."""

    def __init__(self) -> None:
        self.noise = self.signal = 0.0
        self.low: int | None = None
        self.high: int | None = None
        self.at_end = self.count = 0
        self.grid: QuantParams | None = None
        self.samples: list[NDArray[np.float32]] = []

    def add(self, reference: NDArray[Any], seen: Seen) -> None:
        r, g = (array.astype(np.float32, copy=False).ravel() for array in (reference, seen.real))
        if r.size != g.size:
            self.noise = float("nan")
            return
        finite = np.isfinite(r)
        if not finite.all():  # a mask's infinities are the same on both sides, or the rest shows it
            r, g = r[finite], g[finite]
        self.noise += _energy(g - r)
        self.signal += _energy(r)
        self.samples.append(r[::max(1, r.size // KEPT_NUMBERS)])
        if seen.stored is not None and seen.grid is not None and seen.stored.size:
            self._add_stored(seen.stored.astype(np.int32), seen.grid)

    def _add_stored(self, stored: NDArray[np.int32], grid: QuantParams) -> None:
        low, high = grid.type.range
        smallest, largest = int(stored.min()), int(stored.max())
        self.low = smallest if self.low is None else min(self.low, smallest)
        self.high = largest if self.high is None else max(self.high, largest)
        # The end that stands for zero is no saturation: a ReLU ends there.
        ends = [end for end in (low, high) if end != int(grid.zero_point)]
        self.at_end += sum(int(np.count_nonzero(stored == end)) for end in ends)
        self.count += stored.size
        self.grid = grid

    def layer(self, value: ir.Value, before_db: float) -> Layer:
        producer = value.producer()
        found = ErrorPower(self.noise, self.signal).sqnr_db
        used = saturated = None
        if self.grid is not None and self.low is not None and self.high is not None:
            first, last = self.grid.type.range
            used, saturated = (self.high - self.low) / (last - first), self.at_end / self.count
        sample = np.concatenate(self.samples) if self.samples else np.zeros(0, np.float32)
        return Layer(value.name or "", "input" if producer is None else producer.op_type,
                     "" if producer is None else label(producer), found, before_db - found, used, saturated, sample,
                     self.grid)


def _energy(numbers: NDArray[np.float32]) -> float:
    exact = numbers.astype(np.float64)
    return float(exact @ exact)


def _layers(graph: ir.Graph, sums: Mapping[str, _Sums]) -> tuple[Layer, ...]:
    """In graph order; each is set off against the values before it, through those that were not measured."""
    before: dict[ir.Value, float] = {}
    layers = []

    def note(value: ir.Value, worst_input: float) -> None:
        before[value] = worst_input
        if value.name in sums:
            layer = sums[value.name or ""].layer(value, worst_input)
            layers.append(layer)
            before[value] = layer.sqnr_db

    for value in graph.inputs:
        note(value, CEILING_DB)
    for node in graph:
        worst = min((before[value] for value in node.inputs if value in before), default=CEILING_DB)
        for value in node.outputs:
            note(value, worst)
    return tuple(layers)


def _float_values(graph: ir.Graph) -> list[ir.Value]:
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    return [value for value in values if value.name and value.dtype == ir.DataType.FLOAT and not is_constant(value)]


def _is_inner(value: ir.Value) -> bool:
    """Whether only the bias, the activation or the rounding that its kernel performs reads it: no engine has it."""
    readers = consumers(value)
    if len(readers) != 1 or value.is_graph_output():
        return False
    producer, reader = value.producer(), readers[0]
    if producer is not None and producer.op_type == "MatMul" and reader.op_type == "Add":
        return any(_is_stored(other) for other in reader.inputs if other is not value)
    return reader.op_type in LIMITING or reader.op_type == QUANTIZE


def _is_stored(value: ir.Value | None) -> bool:
    """A constant, or one behind a DequantizeLinear."""
    producer = None if value is None else value.producer()
    return is_constant(value) or (producer is not None and producer.op_type == DEQUANTIZE
                                  and is_constant(producer.inputs[0]))


def _unmatched(graph: ir.Graph, shown: set[str]) -> list[str]:
    """Computed values that the other side does not show; moving numbers about is no layer."""
    return [value.name or "" for value in _float_values(graph) if value.name not in shown and not _is_inner(value)
            and (producer := value.producer()) is not None and producer.op_type not in KEEPING_ALL]


# -- onnxruntime -------------------------------------------------------------------------------------------------------

class OnnxProbe:
    """A QDQ graph. Values on a grid are read as the integers behind their QuantizeLinear, so kernels still fuse.

    session_options: run it fused, as a bundle; None runs op by op, as the reference.
    """

    def __init__(self, model: ir.Model, network: ir.Model, session_options: Mapping[str, str] | None):
        known = {value.name for value in _float_values(network.graph)}
        self._grids: dict[str, tuple[str, QuantParams]] = {}
        for node in model.graph:
            data = node.inputs[0] if node.inputs else None
            grid = grid_of(node) if node.op_type == QUANTIZE else None
            name = None if data is None or grid is None else _float_name(data, node.outputs[0], known)
            if name is not None and grid is not None and isinstance(grid.type.granularity, PerTensor):
                self._grids[name] = node.outputs[0].name or "", grid
        # A bundle leaves out the types of inner values; what has the name of a float value is one, or says otherwise.
        self._plain = [value.name or "" for node in model.graph for value in node.outputs
                       if value.name in known and value.name not in self._grids and not _is_inner(value)
                       and value.dtype in (None, ir.DataType.FLOAT)]
        exposed = exposing(model, [*(stored for stored, _ in self._grids.values()), *self._plain])
        self._session = open_session(exposed, fused=session_options is not None, entries=session_options or {})

    @property
    def names(self) -> Sequence[str]:
        return [*self._grids, *self._plain]

    def run(self, feed: Arrays) -> Mapping[str, Seen]:
        wanted = [*(stored for stored, _ in self._grids.values()), *self._plain]
        found = dict(zip(wanted, self._session.run(wanted, dict(feed)), strict=True)) if wanted else {}
        seen = {name: Seen(found[name]) for name in self._plain}
        for name, (stored, grid) in self._grids.items():
            seen[name] = Seen(dequantize(found[stored], grid), found[stored], grid)
        return seen


def _float_name(value: ir.Value, stored: ir.Value, known: set[str | None]) -> str | None:
    """The name in the float model of a value that is rounded: its own; that of its integers, which are called
    `<value>_q` also where the backend computes the value in another shape; or, for an output, the rounded value's.
    """
    rounded = [out.name for reader in consumers(stored) if reader.op_type == DEQUANTIZE for out in reader.outputs]
    names = [value.name, (stored.name or "").removesuffix("_q"), *rounded]
    return next((name for name in names if name in known), None)


# -- TFLite ------------------------------------------------------------------------------------------------------------

class TFLiteProbe:
    """Every tensor kept; a tensor has the name of the value that it holds, in one of two layouts.

    An int8 kernel that performs the ReLU behind it writes the ReLU's output, under the name of its own.
    """

    def __init__(self, path: Path, network: ir.Model, inputs: Sequence[TensorSpec]):
        try:
            from ai_edge_litert.interpreter import Interpreter, OpResolverType
        except ImportError:
            raise MissingExtra("TFLite models", "tflite") from None
        self._interpreter = Interpreter(
            str(path), experimental_preserve_all_tensors=True, num_threads=1,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
        self._interpreter.allocate_tensors()
        self._inputs = {detail["name"]: detail for detail in self._interpreter.get_input_details()}
        self._names = {spec.name: spec.engine_name or spec.name for spec in inputs}
        self._given = {engine: name for name, engine in self._names.items()}
        values = {value.name: value for value in _float_values(network.graph)}
        details = {detail["name"]: detail for detail in self._interpreter.get_tensor_details()}
        largest = _float_values(largest_run(network).graph)  # the sizes that the file declares
        shapes = {value.name or "": tuple(int(d) for d in value.shape.numpy()) for value in largest
                  if value.shape is not None and value.shape.is_static()}
        self._tensors: dict[str, tuple[int, tuple[int, ...], QuantParams | None]] = {}
        for name in details.keys() & shapes.keys() - self._inputs.keys():
            held = tuple(int(d) for d in details[name]["shape"])
            order, grid = _order(shapes[name], held), _tflite_grid(details[name])
            rounded = name if grid is None else _rounded_name(values[name])
            if order is not None and (rounded == name or rounded not in details):
                self._tensors[rounded] = details[name]["index"], order, grid

    @property
    def names(self) -> Sequence[str]:
        return list(self._tensors)

    def run(self, feed: Arrays) -> Mapping[str, Seen]:
        resized = [(detail["index"], size) for detail in self._interpreter.get_input_details()
                   if (size := feed[self._given[detail["name"]]].shape) != tuple(detail["shape"])]
        for index, size in resized:
            self._interpreter.resize_tensor_input(index, size)
        if resized:
            self._interpreter.allocate_tensors()
        for name, array in feed.items():
            detail = self._inputs[self._names[name]]
            self._interpreter.set_tensor(detail["index"], array.astype(detail["dtype"]))
        self._interpreter.invoke()
        seen = {}
        for name, (index, order, grid) in self._tensors.items():
            held = np.transpose(self._interpreter.get_tensor(index), order)
            seen[name] = Seen(held) if grid is None else Seen(dequantize(held, grid), held, grid)
        return seen


def _order(shape: tuple[int, ...], held: tuple[int, ...]) -> tuple[int, ...] | None:
    """The transposition from a stored tensor to ONNX order, or None where the shapes leave two, or none."""
    plain = tuple(range(len(shape)))
    channels_last = (0, *plain[2:], 1) if len(shape) > 2 else plain
    fits = [layout for layout in dict.fromkeys((plain, channels_last)) if tuple(shape[d] for d in layout) == held]
    if not fits:
        return None
    same = len(fits) == 1 or sum(size > 1 for size in shape) <= 1  # with one long axis, both hold the same order
    return tuple(int(d) for d in np.argsort(fits[0])) if same else None


def _tflite_grid(detail: Mapping[str, Any]) -> QuantParams | None:
    parameters = detail["quantization_parameters"]
    if detail["dtype"] is not np.int8 or len(parameters["scales"]) != 1:
        return None
    return QuantParams(QuantType(8, symmetric=False), np.array(parameters["scales"][0], np.float32),
                       np.array(parameters["zero_points"][0], np.int32))


# -- Core ML -----------------------------------------------------------------------------------------------------------

class CoreMLProbe:
    """The interpreter's values. An op is named `<value>_<op>`; the last of a value makes it. Outputs keep their names.

    A ReLU that the grid behind it performs is no op: what is rounded there is the ReLU's output.
    """

    def __init__(self, path: Path, network: ir.Model, manifest: Manifest):
        from edgeq.verify.mlpackage import open_package

        self._program = open_package(path)
        self._inputs = {spec.name: spec.engine_name or spec.name for spec in manifest.inputs}
        outputs = {spec.engine_name or spec.name: spec.name for spec in manifest.outputs}
        known = {_letters(value.name or ""): value for value in _float_values(network.graph)}
        keepable = set(self._program.value_names)
        steps = [step for step in self._program.steps if step.outputs and step.outputs[0].name in keepable]
        rounding = {source: (held, grid) for held, source, grid in map(_rounding, steps) if grid is not None}
        self._values: dict[str, tuple[str, QuantParams | None]] = {}
        for step in steps:
            held = step.outputs[0].name
            name = re.sub(r"_\d+$", "", step.name)
            value = known.get(name.removesuffix(f"_{step.op}")) if name.endswith(f"_{step.op}") else None
            if held in outputs:
                self._values[outputs[held]] = held, None
            elif held in rounding and value is not None:
                self._values[_rounded_name(value)] = rounding[held]
            elif value is not None and value.producer() is not None and step.op not in ("quantize", "dequantize"):
                self._values[value.name or ""] = held, None

    @property
    def names(self) -> Sequence[str]:
        return list(self._values)

    def run(self, feed: Arrays) -> Mapping[str, Seen]:
        inputs = {self._inputs[name]: array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
                  for name, array in feed.items()}
        found = self._program.run(inputs, keep=[held for held, _ in self._values.values()])
        return {name: Seen(found[held]) if grid is None else Seen(dequantize(found[held], grid), found[held], grid)
                for name, (held, grid) in self._values.items()}


def _rounding(step: Any) -> tuple[str, str, QuantParams | None]:
    """(the integers' name, the rounded value's name, the grid) of a quantize op; no grid for any other."""
    source = step.inputs.get("input")
    if step.op != "quantize" or not hasattr(source, "name") or np.size(step.inputs["scale"]) != 1:
        return "", "", None
    zero_point = step.inputs.get("zero_point")
    offset = np.array(0 if zero_point is None else zero_point, np.int32).reshape(())
    scale = np.array(step.inputs["scale"], np.float32).reshape(())
    return step.outputs[0].name, source.name, QuantParams(QuantType(8, symmetric=False), scale, offset)


def _rounded_name(value: ir.Value) -> str:
    readers = consumers(value)
    if len(readers) == 1 and readers[0].op_type in LIMITING and not value.is_graph_output():
        return readers[0].outputs[0].name or ""
    return value.name or ""


def _letters(name: str) -> str:
    """As edgeq_converters.coreml writes names: letters, digits and underscores, a letter first."""
    safe = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in name)
    return safe if safe[:1].isalpha() else f"v{safe}"
