"""The whole of a conversion, top to bottom."""
from __future__ import annotations

import importlib
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import onnx_ir as ir

from edgeq.bundle import Bundle, check_free, file_entries, new_bundle, open_bundle, sha256, write_report
from edgeq.errors import ModelError, UsageError
from edgeq.frontends import load_model
from edgeq.graph import real_inputs
from edgeq.passes import canonicalize
from edgeq.quant.calibrate import CALIBRATORS, calibrate
from edgeq.quant.half import store_half
from edgeq.quant.plan import QuantPlan, make_plan
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE
from edgeq.quant.quantize import quantize
from edgeq.quant.rounding import nearest, sum_preserving
from edgeq.quant.samples import InputSpec, Samples, open_samples
from edgeq.scheme import PerBlock, PerChannel, PerTensor, QuantScheme, QuantType
from edgeq.targets import TARGETS
from edgeq.verify.check import Verification, verify_bundle
from edgeq.verify.inputs import generated_feeds
from edgeq.verify.reference import Arrays, run_onnx
from edgeq_converters.contract import Artifact, Backend, ComputeUnits, EmitOptions
from edgeq_runtime import __version__
from edgeq_runtime.manifest import FILE_NAME, Manifest, TensorSpec
from edgeq_runtime.selftest import FILE_NAME as SELFTEST_NAME
from edgeq_runtime.selftest import Case, Tolerance, write_selftest

if TYPE_CHECKING:
    from edgeq_runtime.preprocess import Preprocess

VERIFIED_SAMPLES: Final = 8  # enough to see a wrong layout or a broken kernel, not to measure an accuracy
SELFTEST_SAMPLES: Final = 2
SELFTEST_BYTES: Final = 1 << 18  # of inputs, beyond the first sample: the proof should not outgrow the model
METHODS: Final = MappingProxyType({"auto": sum_preserving, "nearest": nearest})


class Progress(Protocol):
    """Told what is going on, how many samples of it are done, and of how many where that is known."""

    def __call__(self, what: str, done: int = 0, total: int | None = None) -> None: ...


@dataclass(frozen=True, slots=True)
class Options:
    """The words of `edgeq convert`, with the same meaning and defaults.

    bits: of the weights: 4, 8, 16 or 32 (float). calibration: samples (path, "module:function", or an iterable of
    dicts); activations are quantized exactly when it is given, unless `activations` says "float". weights:
    "per-channel", "per-tensor" or "block:SIZE". inputs: input name -> shape, for models with free dimensions.
    """

    bits: int = 8
    calibration: Any = None
    samples: int | None = None
    activations: str = "auto"
    weights: str = "per-channel"
    calibrator: str = "mse"
    method: str = "auto"
    keep_float: Sequence[str] = ()
    inputs: Mapping[str, tuple[int, ...]] | None = None
    preprocess: Preprocess | None = None
    labels: Sequence[str] = ()
    keep_qdq: Path | None = None
    min_os: int = 18
    compute: ComputeUnits = "ane"
    strict: bool = False
    verify: bool = True
    force: bool = False
    progress: Progress = lambda what, done=0, total=None: None


def convert(model: Any, *, target: str, output: str | Path | None = None, **options: Any) -> Bundle:
    """Convert a model for one target -> the bundle that was written.

    model: a path (.onnx, .pt2), "module:function", an onnx or onnx_ir model, or a torch ExportedProgram. options: the
    fields of `Options`.

    Raises:
        EdgeqError: its subclasses name what is wrong and what helps; nothing is left on the disk then.
    """
    return convert_all(model, [target], Options(**options), output)[0]


def convert_all(model: Any, targets: Sequence[str], options: Options, output: str | Path | None = None,
                ) -> tuple[Bundle, ...]:
    """Convert a model for several targets under one plan, so that the bundles share every grid. One bundle a target."""
    paths = {name: output_path(model, name, output, alone=len(targets) == 1) for name in targets}
    for name, path in paths.items():
        check_free(path, force=options.force)
        backend(name)
    scheme = scheme_of(options)
    network = load_model(model, inputs=_shapes(model, options),
                         open_sizes=all(TARGETS[name].open_sizes for name in targets))
    _check_labels(network, options.labels)
    canonicalize(network)
    samples = _samples(network, options)
    graph, plan = _quantize(network, targets, scheme, samples, options)
    if options.keep_qdq is not None:
        ir.save(graph, options.keep_qdq)
    check = _Check(network, graph, samples, options)
    with ExitStack() as all_or_none:
        for name, path in paths.items():
            folder = all_or_none.enter_context(new_bundle(path, force=options.force))
            _fill(folder, name, model, graph, plan, check, samples, options)
    return tuple(open_bundle(path) for path in paths.values())


def output_path(model: Any, target: str, output: str | Path | None, *, alone: bool) -> Path:
    """`<model>.<target>.edgeq` in the current folder; with several targets, -o names the folder of the bundles."""
    if output is not None and alone:
        return Path(output)
    return Path(output or ".") / f"{model_name(model)}.{target}.edgeq"


def model_name(model: Any) -> str:
    if isinstance(model, (str, Path)):
        text = str(model)
        return Path(text).stem if Path(text).suffix else text.rpartition(":")[2]
    return "model"


def backend(target: str) -> Backend:
    """The backend's module, imported on use."""
    if target not in TARGETS:
        raise UsageError(f"no target '{target}'; there are {', '.join(TARGETS)}")
    return cast(Backend, importlib.import_module(f"edgeq_converters.{target}"))


def scheme_of(options: Options) -> QuantScheme:
    """What the flags ask for.

    Raises:
        UsageError: static activations without data, or a granularity that nobody knows.
    """
    if options.activations == "8" and options.calibration is None:
        raise UsageError("--activations 8 needs real samples: add --calibration DATA (an .npz, or a folder of samples)")
    if options.bits >= 16:
        if options.activations == "8":
            raise UsageError("--activations 8 goes with --bits 8 or 4: engines do not multiply integers with floats")
        return QuantScheme()
    static = options.calibration is not None and options.activations in ("auto", "8")
    activation = QuantType(8, signed=False, symmetric=False) if static else None
    return QuantScheme(QuantType(options.bits, granularity=_granularity(options.weights)), activation)


def _granularity(text: str) -> PerTensor | PerChannel | PerBlock:
    kind, _, size = text.partition(":")
    if kind == "block" and size.isdigit() and int(size) > 0:
        return PerBlock(int(size))
    if text in ("per-channel", "per-tensor"):
        return PerChannel() if text == "per-channel" else PerTensor()
    raise UsageError(f"--weights {text}: use per-channel, per-tensor or block:SIZE")


def _shapes(model: Any, options: Options) -> Mapping[str, tuple[int, ...]]:
    return dict(options.inputs or {})


def _check_labels(network: ir.Model, labels: Sequence[str]) -> None:
    if not labels:
        return
    sizes = {spec.name: math.prod(d for d in spec.shape if isinstance(d, int))
             for spec in _specs(network.graph.outputs)}
    if len(labels) not in sizes.values():
        found = ", ".join(f"'{name}' has {size} values" for name, size in sizes.items())
        raise UsageError(f"--labels: {len(labels)} names, but output {found}; give one name a line for each score")


def input_specs(network: ir.Model) -> dict[str, InputSpec]:
    """What every input of a network expects: dtype and shape."""
    return {spec.name: InputSpec(spec.dtype, spec.shape) for spec in _specs(real_inputs(network.graph))}


def _samples(network: ir.Model, options: Options) -> Samples | None:
    if options.calibration is None:
        return None
    return open_samples(options.calibration, input_specs(network), limit=options.samples, preprocess=options.preprocess)


def _quantize(network: ir.Model, targets: Sequence[str], scheme: QuantScheme, samples: Samples | None, options: Options,
              ) -> tuple[ir.Model, QuantPlan | None]:
    """The QDQ graph of a float network. One that is quantized already keeps its scales, and needs no plan."""
    if any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in network.graph):
        return network, None
    plan = make_plan(network, [TARGETS[name] for name in targets], scheme, keep_float=options.keep_float)
    if options.bits == 16:
        return store_half(network), plan
    statistics = {}
    if plan.sources:
        assert samples is not None
        statistics = dict(calibrate(network, plan.sources, samples,
                                    progress=lambda done: options.progress("calibrating", done, samples.length)))
    return quantize(network, plan, statistics, CALIBRATORS[options.calibrator], METHODS[options.method]), plan


class _Check:
    """The references that every bundle of one conversion is compared with, computed once.

    And only when asked for: a backend that refuses nodes names them better than the reference that fails on them.
    """

    def __init__(self, network: ir.Model, graph: ir.Model, samples: Samples | None, options: Options):
        self._network, self._graph = network, graph
        self.inputs = "calibration samples" if samples is not None else "generated (no samples were given)"
        specs = input_specs(network)
        # An integer may be a divisor, which 0 is not; or an index into one element, which 1 is not.
        self._choices: list[Iterable[Arrays]] = [samples] if samples is not None else [
            generated_feeds(specs), generated_feeds(specs, integers=(1, 1)), generated_feeds(specs, integers=(0, 0))]

    @cached_property
    def _run(self) -> tuple[list[Arrays], list[Arrays]]:
        """Feeds that the float network takes, and what it makes of them."""
        feeds = list(islice(self._choices[0], VERIFIED_SAMPLES))
        try:
            return feeds, list(run_onnx(self._network, feeds))
        except ModelError:
            for choice in self._choices[1:]:
                with suppress(ModelError):
                    feeds = list(choice)
                    return feeds, list(run_onnx(self._network, feeds))
            raise

    @property
    def feeds(self) -> list[Arrays]:
        return self._run[0]

    @property
    def float(self) -> list[Arrays]:
        return self._run[1]

    @cached_property
    def graph(self) -> list[Arrays]:
        return self.float if self._graph is self._network else list(run_onnx(self._graph, self.feeds))


def _fill(folder: Path, target: str, model: Any, graph: ir.Model, plan: QuantPlan | None, check: _Check,
          samples: Samples | None, options: Options) -> None:
    """Emit, verify and describe one bundle."""
    started = time.perf_counter()
    options.progress(f"writing {target}")
    artifact = backend(target).emit(graph, folder, EmitOptions(
        options.min_os, options.compute, "float32" if options.bits == 32 else "float16"))
    seconds = time.perf_counter() - started
    manifest = _manifest(target, model, graph, artifact, plan, samples, options)
    _save(manifest, folder)
    verification = None
    if options.verify:
        options.progress(f"verifying {target}")
        verification, outputs = verify_bundle(folder, check.feeds, check.float, check.graph, inputs=check.inputs)
        write_selftest(folder / SELFTEST_NAME, _selftest_cases(check.feeds, outputs), _tolerance(verification))
        manifest = replace(manifest, accuracy=verification.to_json())
    write_report(folder, _report(target, model, artifact, plan, verification, manifest, seconds))
    _save(manifest, folder)


def _selftest_cases(feeds: Sequence[Arrays], outputs: Sequence[Arrays]) -> list[Case]:
    size = sum(array.nbytes for array in feeds[0].values())
    count = max(1, min(SELFTEST_SAMPLES, SELFTEST_BYTES // max(1, size)))
    return [Case(feed, output) for feed, output in zip(feeds[:count], outputs[:count], strict=True)]


def _tolerance(verification: Verification) -> Tolerance:
    """Another processor rounds ties in other places, as this engine did against the unfused graph: that far, twice."""
    atol = 2 * max(difference.max_abs for difference in verification.graph)
    return Tolerance("twice the largest difference between this engine and the quantized graph run op by op, and 1e-3 "
                     "relative for processors that add in another order", atol=atol, rtol=1e-3)


def _save(manifest: Manifest, folder: Path) -> None:
    (folder / FILE_NAME).write_text(replace(manifest, files=file_entries(folder)).to_json())


def _manifest(target: str, model: Any, graph: ir.Model, artifact: Artifact, plan: QuantPlan | None,
              samples: Samples | None, options: Options) -> Manifest:
    def named(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
        return tuple(replace(spec, engine_name=artifact.names.get(spec.name, "")) for spec in specs)

    return Manifest(
        name=model_name(model), target=target, engine=artifact.engine, engine_version=artifact.engine_version,
        entry=artifact.entry, inputs=named(_specs(real_inputs(graph.graph))),
        outputs=named(_specs(graph.graph.outputs)), files=(), options=dict(artifact.options),
        preprocessing=options.preprocess.to_dict() if options.preprocess is not None else None,
        labels=tuple(options.labels), quantization=_quantization(plan, options),
        calibration={"samples": sum(1 for _ in samples), "sha256": samples.digest()} if samples is not None else None,
        source_sha256=sha256(Path(model)) if isinstance(model, (str, Path)) and Path(model).is_file() else "",
        edgeq_version=__version__)


def _quantization(plan: QuantPlan | None, options: Options) -> dict[str, Any]:
    if plan is None:
        return {"scheme": "as in the source model"}
    return {
        "weight_bits": options.bits, "weights": options.weights,
        "activation_bits": plan.activation.bits if plan.activation else 32,
        "calibrator": options.calibrator if plan.activation else None,
        "kept_float": [asdict(kept) for kept in plan.kept],
    }


def _report(target: str, model: Any, artifact: Artifact, plan: QuantPlan | None, verification: Verification | None,
            manifest: Manifest, seconds: float) -> dict[str, Any]:
    kept = {node.node for node in plan.kept} if plan else set()
    return {
        "target": target, "name": manifest.name, "emit_seconds": round(seconds, 3),
        "source_bytes": _source_bytes(model), "quantization": manifest.quantization,
        "float_on_this_engine": [asdict(node) for node in artifact.float_nodes if node.node not in kept],
        "verification": verification.to_json() if verification else None,
    }


def _source_bytes(model: Any) -> int | None:
    """Bytes of a source file with its external data."""
    if not isinstance(model, (str, Path)) or not Path(model).is_file():
        return None
    data = Path(f"{model}.data")
    return Path(model).stat().st_size + (data.stat().st_size if data.is_file() else 0)


def _specs(values: Iterable[ir.Value]) -> tuple[TensorSpec, ...]:
    specs = []
    for value in values:
        if value.dtype is None or value.shape is None:
            raise ModelError(f"the shape of '{value.name}' is not known: behind an operator of another domain, "
                             "the model must declare it")
        dimensions = tuple(d if isinstance(d, int) else str(d.value) for d in value.shape)
        specs.append(TensorSpec(value.name or "", value.dtype.numpy().name, dimensions))
    return tuple(specs)
