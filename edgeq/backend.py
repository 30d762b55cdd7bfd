"""A backend: everything that edgeq knows of one target, in one object.

A package offers it by an entry point of the group `edgeq.backends`, under the name of the target; nothing else in edgeq
names an engine::

    [project.entry-points."edgeq.backends"]
    tflite = "edgeq_converters.tflite:BACKEND"

The module that holds the object is imported whenever targets are listed, so it imports nothing heavy; its functions do.
The names of targets and devices are read from the packages' metadata, without importing any.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    import onnx_ir as ir
    from numpy.typing import NDArray

    from edgeq.errors import Problem
    from edgeq.frontends.decoder.checkpoint import Checkpoint
    from edgeq.frontends.decoder.spec import Spec
    from edgeq.graph import NodeNote
    from edgeq.quant.decoder import QuantizedDecoder, Stored
    from edgeq.scheme import FloatType, QuantParams
    from edgeq.targets import Target
    from edgeq_runtime.manifest import Manifest, TensorSpec

BACKENDS: Final = "edgeq.backends"  # groups of entry points
DEVICES: Final = "edgeq.devices"
ComputeUnits = Literal["ane", "gpu", "cpu", "all"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class About:
    """What a file says of itself to the tools of its engine; '' and () say nothing.

    scores: the output that holds one number for each label. softmax: they become probabilities by it.
    """

    author: str = ""
    licence: str = ""
    description: str = ""
    version: str = ""
    labels: tuple[str, ...] = ()
    scores: str = ""
    softmax: bool = False


@dataclass(frozen=True, slots=True)
class Normalization:
    """What an image is to an input: (pixel - mean) / std, of one number or one for each channel. order: "RGB", "BGR" or
    "GRAY".
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: str


@dataclass(frozen=True, slots=True)
class EmitOptions:
    """What the user says to backends; each reads the words that its `Backend.options` names.

    min_os: the oldest iOS. compute: where the model should run. precision: what floats are computed in: float32 keeps
    an ML program off the Neural Engine (https://apple.github.io/coremltools/docs-guides/source/typed-execution.html),
    so it is for those who ask for 32 bits. largest: asked where floats are computed in half precision: name of a value
    -> the largest absolute value to expect of it (`edgeq.inference.magnitudes`), for those of which anything is known.
    images: inputs [1,C,H,W] that are pixels from 0 to 255 -> "RGB", "BGR" or "GRAY". normalized: inputs that
    hold images. about: for the file.
    """

    min_os: int = 18
    compute: ComputeUnits = "ane"
    precision: FloatType = "float16"
    largest: Callable[[], Mapping[str, float]] = dict
    images: Mapping[str, str] = field(default_factory=dict)
    normalized: Mapping[str, Normalization] = field(default_factory=dict)
    about: About = About()


@dataclass(frozen=True, slots=True)
class Artifact:
    """What `emit` wrote.

    entry: file or folder, relative to the bundle, that the engine opens.
    engine, engine_version: who runs it, and a version specifier such as ">=1.23".
    names: graph input or output name -> the engine's name for it, where they differ.
    options: what the engine must be told at load (session options, compute units); goes into the manifest as it is.
    float_nodes: nodes that a quantized graph nevertheless runs in float on this engine. notes: what the artifact does
    otherwise than the graph says: it costs bytes or time, and no number.
    activation_bits: that planned activations really have, where that is not what the plan says.
    """

    entry: str
    engine: str
    engine_version: str
    names: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    float_nodes: tuple[NodeNote, ...] = ()
    notes: tuple[NodeNote, ...] = ()
    activation_bits: int | None = None

    def unplanned_float(self, kept: Iterable[str]) -> list[NodeNote]:
        """The float nodes but for those that the plan keeps float, which have a reason of their own."""
        planned = set(kept)
        return [node for node in self.float_nodes if node.node not in planned]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What an engine holds of one value: the real numbers, and the integers where it is on a grid."""

    real: NDArray[Any]
    stored: NDArray[Any] | None = None
    grid: QuantParams | None = None


class Probe(Protocol):
    """The inner values of an artifact. names: values of the float model that it can show; feed: inputs by name."""

    @property
    def names(self) -> Sequence[str]: ...

    def run(self, feed: Mapping[str, NDArray[Any]]) -> Mapping[str, Seen]: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """Advice about a written artifact. rule: its name. op: the first that it is about, or an input or output. source:
    who says so.
    """

    rule: str
    op: str
    message: str
    source: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Trial:
    """What a device's own engine, or its compiler, made of a bundle. said: a sentence. facts: for the report. left:
    what its processor does not run, so that another one must.
    """

    said: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    left: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class Available:
    """An engine as it can be had for a device.

    newest: the last release of `package` there, or "" where that is everybody's. excluded: releases that do not run
    there, as a specifier. least_bits: of the weights that its kernels read. source, bits_source: who says so.
    preferred: what the device takes where no target is named. refuse: (entry) raises UnsupportedModel for what the
    device cannot run of a written file, all of it. tried: (bundle in the making, manifest) -> what the device's engine
    or compiler made of it here; raises the same.
    """

    package: str = ""
    newest: str = ""
    excluded: str = ""
    source: str = ""
    least_bits: int = 4
    bits_source: str = ""
    preferred: bool = False
    refuse: Callable[[Path], None] = lambda entry: None
    tried: Callable[[Path, Manifest], Trial] | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the backend's engine gets onto a kind of board.

    machines: as `uname -m` says. package: the distribution whose version counts. imports: modules in the order in
    which they are loaded, so that a crash names one. wheels: what PyPI has beside the package. installed: what PyPI has
    not and the board must have; remedy: the command that gives it to it. last: the release after which there are no
    more.
    """

    machines: frozenset[str]
    package: str
    imports: tuple[str, ...]
    wheels: tuple[str, ...] = ()
    installed: tuple[str, ...] = ()
    last: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What the self-test's tolerance depends on. The graph is the quantized one.

    half: floats are computed in half precision. rounds: whether anything is rounded while the artifact runs; None: yes,
    where the graph holds a QuantizeLinear or DequantizeLinear. same_bits: whether its integers are the same bits on
    every processor.
    """

    half: bool = False
    rounds: Callable[[ir.Graph, Artifact], bool] | None = None
    same_bits: Callable[[ir.Graph, Artifact], bool] = lambda graph, artifact: False


@dataclass(frozen=True, slots=True)
class DecoderWords:
    """What the user says of a language model's weights. bits: of the layers' weights. type: a name of the target's own
    for how they are stored, or "" where the bits say it.
    """

    bits: int
    type: str = ""


def _tokens_to_logits(spec: Spec) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    from edgeq_runtime.manifest import TensorSpec

    return ((TensorSpec("input_ids", "int64", (1, "tokens")),),
            (TensorSpec("logits", "float32", (1, "tokens", spec.vocabulary)),))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderBackend:
    """How a target takes language models, which come as checkpoints.

    bits: that it has a meaning for.
    check: raises what `emit` would refuse of (checkpoint, folder with its tokenizer.json, tokenizer_config.json and
        config.json, words), before any weight is read.
    types: (spec, words) -> role, layer -> the name of a type (`edgeq.quant.formats`, or F32, F16, BF16), as which that
        weight is stored.
    emit: (checkpoint, folder with its tokenizer, quantized weights, bundle in the making, words) -> what was written.
    read: (entry, spec) -> role, layer -> the weight [outputs, inputs] in float32 that a reader of the written file
        computes with, found by other code than that which wrote it.
    signature: inputs and outputs of the bundle, as its manifest lists them; tokens and logits alone by default.
    file: the ending of a file that holds all, tokenizer too, and needs no bundle; "" where there is none.
    ladder: types among which a budget of bits may choose for each weight; none: it takes no budget. fused: role -> the
        tensor of the file that it is a part of, which has one type.
    keeps: (role, weight as another tool stored it) -> what holds its codes as they are, or why nothing does.
    is_graph: its entry is an ONNX graph, which onnxruntime runs here.
    """

    bits: tuple[int, ...]
    check: Callable[[Checkpoint, Path, DecoderWords], None]
    types: Callable[[Spec, DecoderWords], Callable[[str, int | None], str]]
    emit: Callable[[Checkpoint, Path, QuantizedDecoder, Path, DecoderWords], Artifact]
    read: Callable[[Path, Spec], Callable[[str, int | None], NDArray[Any]]]
    signature: Callable[[Spec], tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]] = _tokens_to_logits
    file: str = ""
    ladder: tuple[str, ...] = ()
    fused: Callable[[Spec], Mapping[str, str]] = lambda spec: {}
    keeps: Callable[[str, Stored], Stored | str] = lambda role, found: "the target takes none of other tools"
    is_graph: bool = False


def _no_graphs(*_: Any) -> Any:
    raise _refusal("this target takes language models alone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """One target, for networks that are graphs (emit, probe), for language models (decoder), or for both.

    target: its name, and the rows of what it runs on integers.
    emit: (model, folder, options) -> what was written into `folder`, which exists and is the bundle in the making.
        `model` is standard ONNX (opset 21, IR 10, float32), with or without QuantizeLinear/DequantizeLinear, and is not
        changed. Its shapes are static, but for the dimensions that edgeq.dimensions.free_dimensions finds. Every node
        that the target cannot run is reported in one `UnsupportedModel`, and then nothing may be left in the folder.
    probe: (bundle's entry, canonical float model, manifest) -> the values inside, for the comparison layer by layer.
    arithmetic: how it computes, for the self-test's tolerance.
    options: the fields of `EmitOptions` that it reads; a command that gives no target another one is refused.
    systems: the versions of iOS that `min_os` may name for it.
    devices: name of a device -> its engine there. recipes: of its engine, for boards. no_boards: why boards cannot run
        it, and what helps.
    in_place: its artifact is one file that the engine reads where it lies in memory.
    costs: the file that says how long its operators take (`edgeq.mixed_precision.plan_time`).
    run_in_parts: (bundle, manifest, samples) -> (outputs, who ran it) for a bundle too large to be opened as a whole.
    lint: entry -> advice about where it runs. explain: (bundle, manifest, samples) -> why its numbers are not those of
        the graph, and what helps; '' where it cannot be told.
    """

    target: Target
    emit: Callable[[ir.Model, Path, EmitOptions], Artifact] = _no_graphs
    probe: Callable[[Path, ir.Model, Manifest], Probe] = _no_graphs
    decoder: DecoderBackend | None = None
    arithmetic: Arithmetic = Arithmetic()
    options: frozenset[str] = frozenset()
    systems: tuple[int, ...] = ()
    devices: Mapping[str, Available] = field(default_factory=dict)
    recipes: tuple[Recipe, ...] = ()
    no_boards: str = ""
    in_place: bool = False
    costs: Path | None = None
    run_in_parts: Callable[[Path, Manifest, Sequence[Mapping[str, NDArray[Any]]]],
                           tuple[list[dict[str, Any]], str]] | None = None
    lint: Callable[[Path], list[Finding]] | None = None
    explain: Callable[[Path, Manifest, Sequence[Mapping[str, NDArray[Any]]]], str] = lambda *_: ""

    @property
    def takes_graphs(self) -> bool:
        return self.emit is not _no_graphs


def target_names() -> tuple[str, ...]:
    """Of all backends that are installed."""
    return tuple(registered(BACKENDS))


def device_names() -> tuple[str, ...]:
    """Of all devices that installed packages know."""
    return tuple(registered(DEVICES))


def backend_named(target: str) -> Backend:
    """Raises UsageError: no installed package has it, or what the package has is no backend."""
    found = load_registered(BACKENDS, target, Backend, "target")
    if found.target.name != target:
        raise _refusal(f"the backend of '{target}' calls itself '{found.target.name}'")
    return found


def backends() -> tuple[Backend, ...]:
    """All that are installed."""
    return tuple(map(backend_named, target_names()))


def graph_backends() -> tuple[Backend, ...]:
    """Those that take networks; the others take language models alone."""
    return tuple(backend for backend in backends() if backend.takes_graphs)


def target_named(name: str) -> Target:
    """The rows of a target. Raises UsageError: see backend_named."""
    return backend_named(name).target


def load_registered(group: str, name: str, kind: type[T], word: str) -> T:
    """The object that an entry point names. word: for messages, what it is."""
    known = registered(group)
    if name not in known:
        raise _refusal(f"there is no {word} '{name}'; there are {', '.join(known)}")
    try:
        found = known[name].load()
    except (ImportError, AttributeError) as error:
        raise _refusal(f"the {word} '{name}' cannot be loaded from {known[name].value}: {error}") from error
    if not isinstance(found, kind):
        raise _refusal(f"the {word} '{name}': {known[name].value} is no {kind.__name__}")
    return found


@cache  # the metadata of every installed package are read, and a search asks for backends again and again
def registered(group: str) -> Mapping[str, EntryPoint]:
    """The entry points of a group by name.

    Raises:
        UsageError: two packages have the same name.
    """
    from importlib.metadata import entry_points

    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        if found.setdefault(entry.name, entry).value != entry.value:
            raise _refusal(f"two packages offer '{entry.name}' ({found[entry.name].value} and {entry.value}): "
                           "uninstall one")
    return found


def _refusal(text: str) -> Exception:
    """A UsageError: its module loads numpy, and names are listed without."""
    from edgeq.errors import UsageError

    return UsageError(text)
