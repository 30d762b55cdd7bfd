"""What a conversion is asked for: the words of `Options` read and checked, here and nowhere else."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeAlias

from edgeq.backend import About, EmitOptions, backend_named, backends, device_names, graph_backends, target_named
from edgeq.conversion import words
from edgeq.conversion.decoder_request import refused_for_networks
from edgeq.conversion.options import Options
from edgeq.devices import Device, device_named
from edgeq.errors import UsageError, all_of
from edgeq.mixed_precision import Limits, limits_of
from edgeq.mixed_precision.price import PREFERENCES
from edgeq.progress import Progress
from edgeq.quant.calibrate import CALIBRATORS, Calibrator
from edgeq.quant.methods import AUTO, AUTOMATIC, Method, method_named
from edgeq.scheme import FloatType, PerBlock, PerChannel, PerTensor, QuantScheme, QuantType
from edgeq.targets import Target, are_symmetric
from edgeq.verification.evaluate import LabelledData, labelled_data
from edgeq_runtime.dimensions import Dimension
from edgeq_runtime.postprocess import Classify, Detect
from edgeq_runtime.preprocess import Preprocess
from edgeq_runtime.sound import LogMel

BITS: Final = (4, 8, 16, 32)
ACTIVATIONS: Final = ("auto", "8", "16", "float")
LAYOUTS: Final = ("keep", "nhwc")
INTERFACES: Final = ("float", "uint8", "int8")
COMPUTE_UNITS: Final = ("ane", "gpu", "cpu", "all")
_FLOATS: Final[Mapping[int, FloatType]] = {16: "float16", 32: "float32"}


@dataclass(frozen=True, slots=True)
class FloatOutputs:
    """The SQNR to the float model's outputs, which needs no labels. data: samples; None: those of the calibration."""

    data: Any | None


Measure: TypeAlias = LabelledData | FloatOutputs


@dataclass(frozen=True, slots=True)
class Interface:
    """What the float inputs and outputs of the bundle are: "float", "uint8" or "int8"."""

    inputs: str = "float"
    outputs: str = "float"

    @property
    def is_float(self) -> bool:
        return self == Interface()


@dataclass(frozen=True, slots=True)
class Request:
    """One conversion.

    weights: what they are stored as; activations: what they are rounded to, or None where they stay float; compute:
    what engines that leave the choice compute floats in. table_channels: 4-bit weights are indices into tables of 16
    numbers, one for so many channels; 0: they are integers. calibrator: None: chosen for each tensor by what it costs
    the outputs. is_measured: single layers get another precision where measuring them on the samples advises it.
    state: input -> the output that it is in the next step; None: found by names.
    measure, limits: what the user wants scored, and what a search must keep of it. options: the words, of which the
    report repeats some; `strict`, `verify`, `force` and `dry_run` mean what they say.
    """

    targets: tuple[Target, ...]
    device: Device | None
    weights: QuantType | FloatType
    table_channels: int
    activations: QuantType | None
    compute: FloatType
    method: Method
    is_measured: bool
    calibrator: Calibrator | None
    keep_float: tuple[str, ...]
    calibration: Any
    sample_limit: int | None
    calibration_cache: Path | None
    inputs: Mapping[str, tuple[Dimension, ...]]
    example_inputs: Any
    state: Mapping[str, str] | None
    preprocess: Preprocess | LogMel | None
    postprocess: Classify | Detect | None
    labels: tuple[str, ...]
    channels_last: bool
    io: Interface
    about: About
    measure: Measure | None
    limits: Limits
    emit: EmitOptions
    keep_qdq: Path | None
    options: Options

    @property
    def progress(self) -> Progress:
        return self.options.progress

    @property
    def target_names(self) -> tuple[str, ...]:
        return tuple(target.name for target in self.targets)

    @property
    def weight_bits(self) -> int:
        if isinstance(self.weights, QuantType):
            return self.weights.bits
        return next(bits for bits, name in _FLOATS.items() if name == self.weights)

    @property
    def least_bits(self) -> int:
        """Of the weights that all targets can have on the device."""
        return min(BITS) if self.device is None else self.device.least_bits(self.target_names)

    @property
    def scheme(self) -> QuantScheme:
        """What the planner is asked for."""
        if isinstance(self.weights, QuantType):
            return QuantScheme(self.weights, self.activations, self.table_channels,
                               integer_inputs=self.io.inputs != "float", integer_outputs=self.io.outputs != "float")
        return QuantScheme()

    @property
    def is_search(self) -> bool:
        """Whether the precision of each layer is searched for."""
        return self.limits != Limits()


def read_request(targets: words.Target, options: Options) -> Request:
    """What the words mean. targets: one name or several; none: what the device runs first.

    Raises:
        UsageError: a value that no such word takes, words that contradict one another, or what a target or the device
            does not offer; of the last two kinds all at once. CalibrationError: a metric that cannot be imported.
    """
    options = _plain(options)
    device = None if options.device is None else device_named(options.device)
    chosen = _targets(targets, device, options.min_os)
    _refuse_contradictions(chosen, device, options)
    weights, table_channels = _weights(options)
    limits = limits_of(options.max_drop, options.min_metric, options.max_bytes)
    compute: FloatType = "float32" if options.bits == 32 else "float16"
    # With 16 bits there is nothing to gain from cutting a range.
    calibrator = "minmax" if (options.calibrator, options.activations) == (AUTO, "16") else options.calibrator
    return Request(
        targets=chosen, device=device, weights=weights, table_channels=table_channels,
        activations=_activations(options, chosen), compute=compute,
        method=method_named(options.method), is_measured=_is_automatic(options),
        calibrator=None if calibrator == AUTO else CALIBRATORS[calibrator],
        keep_float=words.patterns("--keep-float", options.keep_float),
        calibration=_kept(options.calibration, options.samples), sample_limit=options.samples,
        calibration_cache=words.path("--calibration-cache", options.calibration_cache),
        inputs=words.shapes(options.inputs), example_inputs=options.example_inputs, state=words.state(options.state),
        preprocess=words.preprocess(options.preprocess), postprocess=words.postprocess(options.postprocess),
        labels=words.labels(options.labels),
        channels_last=options.layout == "nhwc", io=_interface(options),
        about=replace(words.about(options.about), version=options.version),
        measure=_measure(options, limits), limits=limits,
        emit=EmitOptions(options.min_os, words.one_of("--compute", options.compute, COMPUTE_UNITS), compute),
        keep_qdq=words.path("--keep-qdq", options.keep_qdq), options=options)


def _plain(options: Options) -> Options:
    """With every word that is one of a few, a number or a switch checked, in the form that the command line gives
    it.
    """
    return replace(
        options, bits=words.one_of("--bits", options.bits, BITS),
        activations=words.one_of("--activations", options.activations, ACTIVATIONS),
        calibrator=words.one_of("--calibrator", options.calibrator, (*CALIBRATORS, AUTO)),
        measure=words.switch("--measure", options.measure),
        board=options.board if options.board is None else words.text("--board", options.board),
        prefer=words.one_of("--prefer", options.prefer, PREFERENCES) if options.prefer else (
            "balanced" if options.measure else None),
        layout=words.one_of("--layout", options.layout, LAYOUTS),
        compute=words.one_of("--compute", options.compute, COMPUTE_UNITS),
        device=options.device if options.device is None else words.text("--device", options.device),
        recover_weights=words.switch("--recover-weights", options.recover_weights),
        resume=words.switch("--resume", options.resume),
        weights=words.text("--weights", options.weights), method=words.text("--method", options.method),
        samples=words.count("--samples", options.samples), min_metric=words.number("--min-metric", options.min_metric),
        min_db=words.number("--min-db", options.min_db),
        min_os=words.system("--min-os", options.min_os, _systems()),
        product=words.text("--product", options.product), version=words.version("--version", options.version),
        strict=words.switch("--strict", options.strict), trust=words.switch("--trust", options.trust),
        verify=words.switch("--verify", options.verify), latency=words.switch("--latency", options.latency),
        report=words.switch("--report", options.report),
        full_integer=words.switch("--full-integer", options.full_integer),
        force=words.switch("--force", options.force), dry_run=words.switch("--dry-run", options.dry_run))


def _is_automatic(options: Options) -> bool:
    return not set(AUTOMATIC).isdisjoint(options.method.split("+"))


def _kept(data: Any, limit: int | None) -> Any:
    """What is read more than once: an iterator can be walked through once only."""
    return list(islice(data, limit)) if isinstance(data, Iterator) else data


def _systems() -> list[int]:
    """The versions of iOS that `--min-os` may name: Apple went from 18 to 26."""
    return sorted({number for backend in backends() for number in backend.systems})


def _targets(asked: words.Target, device: Device | None, min_os: int) -> tuple[Target, ...]:
    """What is asked for; with a device alone, what it runs first of what is written for this system."""
    names = words.targets(asked)
    if not names and device is not None:
        there = [name for name in device.targets if backend_named(name).takes_graphs]
        fitting = [name for name in there if min_os in (backend_named(name).systems or (min_os,))]
        names = tuple(fitting or there)[:1]
    if not names:
        raise UsageError(f"name what to convert for: --target, or --device with one of {', '.join(device_names())}")
    return tuple(target_named(name) for name in names)


def _refuse_contradictions(targets: Sequence[Target], device: Device | None, options: Options) -> None:
    """Everything that does not go together, at once."""
    names = [target.name for target in targets]
    refused = [*_without_graphs(names), *refused_for_networks(options), *_contradictions(options),
               *_refused_tables(targets, options), *_refused_wide(targets, options),
               *_refused_interfaces(targets, options), *_unread(names, options), *_without_clocks(names, options),
               *_other_systems(names, options)]
    if device is not None:
        refused += device.refusals(names, options.bits)
    if refused:
        raise all_of([UsageError(reason) for reason in refused])


def _without_graphs(targets: Sequence[str]) -> Iterator[str]:
    known = [backend.target.name for backend in graph_backends()]
    for name in targets:
        if name not in known:
            yield (f"--target {name} takes language models alone: a checkpoint folder (config.json, safetensors) or a "
                   f".gguf file; other networks go to {', '.join(known)}")


def _contradictions(options: Options) -> Iterator[str]:
    """What fits no target, because the words do not fit one another."""
    if options.dry_run and options.keep_qdq is not None:
        yield "--dry-run writes nothing, so it excludes --keep-qdq"
    if options.prefer is not None and (options.bits >= 16 or options.calibration is None
                                              or options.activations in ("16", "float") or options.full_integer):
        said = "--measure" if options.measure else f"--prefer {options.prefer}"
        yield f"{said} weighs float layers among 8-bit activations: add --calibration DATA"
    if options.board is not None and not options.measure:
        yield f"--board {options.board} is where --measure takes times: add that"
    if options.min_db is not None and not options.verify:
        yield "--min-db is measured, so it excludes --no-verify"
    yield from _recovery_contradictions(options)
    for read in (_weights, partial(_activations, targets=()), lambda _: words.source_date()):
        try:
            read(options)
        except UsageError as error:
            yield str(error)


def _recovery_contradictions(options: Options) -> Iterator[str]:
    if options.recover is None:
        yield from (f"--{word} belongs to --recover: add it with DATA, or leave --{word} out"
                    for word in ("recover-weights", "resume") if getattr(options, word.replace("-", "_")))
        return
    if options.bits >= 16:
        yield f"--recover moves scales of integers: --bits {options.bits} has none"
    if options.activations == "16":
        yield "--recover gives back what 8 bits of activations cost, so it excludes --activations 16"
    if options.recover_weights and options.weights.partition(":")[0] == "table":
        yield "--recover-weights moves weights from step to step, so it excludes --weights table"
    if options.max_drop is not None or options.min_metric is not None or options.max_bytes is not None:
        yield "--recover follows one plan, so it excludes a search: --max-drop, --min-metric and --max-bytes"


def _refused_tables(targets: Sequence[Target], options: Options) -> Iterator[str]:
    without = [target.name for target in targets if not target.tables]
    if options.weights.partition(":")[0] == "table" and without:
        known = [backend.target.name for backend in backends() if backend.target.tables]
        yield (f"--weights {options.weights}: {' and '.join(without)} multiply 4-bit integers with a scale; "
               f"tables of numbers exist on {' and '.join(known)} alone")


def _refused_wide(targets: Sequence[Target], options: Options) -> Iterator[str]:
    """16-bit activations that an engine has no kernels for, or computes wrong."""
    if options.activations != "16":
        return
    without = [target.name for target in targets if not target.wide]
    if without:
        known = [backend.target.name for backend in backends() if backend.target.wide]
        yield (f"--activations 16: {' and '.join(without)} has no integers of 16 bits; {' and '.join(known)} have; "
               "use --activations float, or 8")
    yield from (f"--activations 16 with --bits 4: {target.no_wide_4_bits}; use --bits 8" for target in targets
                if options.bits == 4 and target.no_wide_4_bits)


def _refused_interfaces(targets: Sequence[Target], options: Options) -> Iterator[str]:
    """Integers at an interface that an engine keeps for floats, or that nothing makes."""
    wanted, word = _interface(options), "--full-integer" if options.full_integer else f"--io {options.io}"
    for kind in dict.fromkeys((wanted.inputs, wanted.outputs)):
        without = [target for target in targets if kind != "float" and kind not in target.interfaces]
        yield from (f"{word}: {target.no_integers}" for target in without)
    if not wanted.is_float and (options.calibration is None or options.bits >= 16
                                or options.activations in ("16", "float")):
        yield f"{word} needs 8-bit activations: add --calibration DATA, with --bits 8 or 4, and leave --activations out"


def _interface(options: Options) -> Interface:
    """With --full-integer, what would be float is int8."""
    said = words.each_of_two("--io", options.io, INTERFACES)
    return Interface(*("int8" if options.full_integer and word == "float" else word for word in said))


def _unread(targets: Sequence[str], options: Options) -> Iterator[str]:
    """What is said to backends and none of those that are asked for reads."""
    for word in ("min_os", "compute"):
        said = getattr(options, word)
        if said != getattr(EmitOptions(), word) and not any(word in backend_named(name).options for name in targets):
            readers = [backend.target.name for backend in backends() if word in backend.options]
            yield (f"--{word.replace('_', '-')} {said}: {' and '.join(targets)} cannot be told; "
                   f"it is for {' and '.join(readers)}")


def _without_clocks(targets: Sequence[str], options: Options) -> Iterator[str]:
    """Where --measure finds nothing to time, or nothing to time with."""
    if not options.measure:
        return
    is_search = limits_of(options.max_drop, options.min_metric, options.max_bytes) != Limits()
    if is_search or not _is_automatic(options):
        yield "--measure times the float layers that --method auto tries: leave it out of a search or another method"
    if options.board is not None:
        from edgeq.boards.registry import find_board

        find_board(options.board)  # raises where there is none
    for name in targets:
        recipes = backend_named(name).recipes
        packages = dict.fromkeys(recipe.imports[-1].partition(".")[0] for recipe in recipes)
        if not recipes:
            yield f"--measure: {name} has no engine here that could be timed, nor on a board: leave --measure out"
        elif options.board is None and not any(map(find_spec, packages)):
            yield (f"--measure: {name}'s engine is not installed here: pip install {recipes[0].package}, or take times "
                   "on a board with --board, or leave --measure out")


def _other_systems(targets: Sequence[str], options: Options) -> Iterator[str]:
    """Versions of iOS that one target is written for, and another one asked for."""
    if options.min_os == EmitOptions().min_os:  # as where nothing is said
        return
    for name in targets:
        systems = backend_named(name).systems
        if systems and options.min_os not in systems:
            other = [backend.target.name for backend in backends() if options.min_os in backend.systems]
            yield (f"--min-os {options.min_os}: {name} is written for {', '.join(map(str, systems))}; "
                   f"for {options.min_os} use --target {' or '.join(other)}")


def _activations(options: Options, targets: Sequence[Target]) -> QuantType | None:
    """What activations are rounded to."""
    said = options.activations
    bits = 16 if said == "16" else 8
    symmetric = are_symmetric([target.at(bits) for target in targets])
    if said in ("8", "16") and options.calibration is None:
        raise UsageError(f"--activations {said} needs real samples: add --calibration DATA (an .npz, or a folder of "
                         "samples)")
    if options.bits >= 16:
        if said in ("8", "16"):
            raise UsageError(f"--activations {said} goes with --bits 8 or 4: engines do not multiply integers with "
                             "floats")
        return None
    if options.calibration is None or said == "float":
        return None
    return QuantType(bits, signed=symmetric, symmetric=symmetric)


def _weights(options: Options) -> tuple[QuantType | FloatType, int]:
    """What weights are stored as, and how many channels share a table."""
    if options.bits >= 16:
        return _FLOATS[options.bits], 0
    if options.weights.partition(":")[0] == "table":
        return QuantType(4, granularity=PerChannel()), _table_channels(options)
    return QuantType(options.bits, granularity=_granularity(options.weights)), 0


def _table_channels(options: Options) -> int:
    """Of --weights table[:CHANNELS]."""
    size = options.weights.partition(":")[2] or "1"
    if not size.isdigit() or not int(size):
        raise UsageError(f"--weights {options.weights}: use table, or table:CHANNELS with how many share one")
    if options.bits != 4:
        raise UsageError(f"--weights {options.weights} goes with --bits 4: a table has 16 numbers")
    if options.min_os < 18:
        raise UsageError(f"--weights {options.weights} needs --min-os 18: before, a whole tensor shares one table")
    return int(size)


def _granularity(text: str) -> PerTensor | PerChannel | PerBlock:
    kind, _, size = text.partition(":")
    if kind == "block" and size.isdigit() and int(size) > 0:
        return PerBlock(int(size))
    if text in ("per-channel", "per-tensor"):
        return PerChannel() if text == "per-channel" else PerTensor()
    raise UsageError(f"--weights {text}: use per-channel, per-tensor, block:SIZE or table:CHANNELS")


def _measure(options: Options, limits: Limits) -> Measure | None:
    """What --eval and --metric want scored; None where that is nothing.

    Raises:
        UsageError: a metric without data, data without a metric, or limits that nothing can be measured for.
    """
    is_limited = limits != Limits()
    if options.eval is None and options.metric is None:
        if is_limited:
            raise UsageError("a search needs something to measure: add --eval DATA with --metric, or --metric sqnr")
        return None
    if is_limited and options.bits >= 16:
        raise UsageError(f"--bits {options.bits} leaves nothing to search; leave it out")
    if isinstance(options.metric, str) and options.metric == "sqnr":
        return _float_outputs(options)
    if options.eval is None:
        raise UsageError(f"--metric {options.metric} needs labelled data: add --eval DATA")
    return labelled_data(_kept(options.eval, None), options.metric, flag="--eval", labels=words.labels(options.labels),
                         postprocess=words.postprocess(options.postprocess))


def _float_outputs(options: Options) -> FloatOutputs:
    if options.max_drop is not None:
        raise UsageError("--metric sqnr measures against the float model, which therefore has no score to drop from; "
                         "say how many dB with --min-metric")
    if options.eval is None and options.calibration is None:
        raise UsageError("--metric sqnr needs samples: add --calibration DATA or --eval DATA")
    return FloatOutputs(_kept(options.eval, None))
