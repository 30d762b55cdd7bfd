"""What the words of a conversion mean where the source is a language model: read, checked and refused here."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from edgeq.backend import Backend, DecoderWords, backend_named, backends
from edgeq.conversion import words
from edgeq.conversion.options import Options
from edgeq.devices import Device, device_named
from edgeq.errors import UsageError, all_of
from edgeq.progress import Progress

BITS: Final = (2, 3, 4, 5, 6, 8, 16, 32)
METHODS: Final = ("auto", "nearest")
# Words that mean for a language model what they mean for any network, and those that are for it alone.
_SHARED: Final = frozenset({"bits", "calibration", "samples", "method", "product", "version", "verify", "report",
                            "force", "dry_run", "progress", "device", "resume"})
OWN: Final = ("gguf_type", "gguf_file", "bits_per_weight", "adapter", "requantize")


@dataclass(frozen=True, slots=True)
class DecoderRequest:
    """One conversion of a language model.

    words: of the weights. fits: codes are fitted to calibration tokens; else they are the nearest ones. text: file
    that the tokens come from; None: the model writes it itself. sequences: at most so many are fitted to, None: the
    usual number. budget: bits per weight that types are chosen for, None: the words say them. file: where to save the
    artifact without its bundle. adapter: folder of what is merged into the weights. requantize: codes of another tool
    are not kept. resume: go on from layers that an earlier conversion left. device: what it is for. options: the words.
    """

    targets: tuple[Backend, ...]
    words: DecoderWords
    fits: bool
    text: Path | None
    sequences: int | None
    budget: float | None
    file: Path | None
    adapter: Path | None
    requantize: bool
    resume: bool
    device: Device | None
    options: Options

    @property
    def target_names(self) -> tuple[str, ...]:
        return tuple(backend.target.name for backend in self.targets)

    @property
    def progress(self) -> Progress:
        return self.options.progress


def read_decoder_request(targets: words.Target, options: Options) -> DecoderRequest:
    """What the words mean.

    Raises:
        UsageError: a value that no such word takes, words that contradict one another, that mean nothing for a language
            model, or that a target does not offer; of the last three kinds all at once.
    """
    device = None if options.device is None else device_named(words.text("--device", options.device))
    names = words.targets(targets) or ([] if device is None else _first_of(device))
    if not names:
        raise UsageError(f"name what to convert for: --target {' or '.join(_decoder_targets())}")
    chosen = tuple(map(backend_named, names))
    options = _plain(options)
    refused = [*_unread(options), *_unoffered(chosen, options), *_contradictions(options),
               *([] if device is None else device.refusals(names, options.bits))]
    if refused:
        raise all_of([UsageError(reason) for reason in refused])
    return DecoderRequest(
        chosen, DecoderWords(_bits(chosen, options), options.gguf_type), options.method != "nearest",
        words.path("--calibration", options.calibration), options.samples, options.bits_per_weight,
        words.path("--gguf-file", options.gguf_file), words.path("--adapter", options.adapter), options.requantize,
        options.resume, device, options)


def _bits(targets: Sequence[Backend], options: Options) -> int:
    """As they were said, or the whole bits of a budget."""
    if options.bits_per_weight is None:
        return options.bits
    return max((bits for backend in targets if backend.decoder is not None for bits in backend.decoder.bits
                if bits <= options.bits_per_weight), default=min(BITS))


def _plain(options: Options) -> Options:
    """With every word checked that is a number, a text or a switch."""
    return replace(
        options, bits=words.one_of("--bits", options.bits, BITS),
        method=words.one_of("--method", options.method, METHODS), samples=words.count("--samples", options.samples),
        gguf_type=words.text("--gguf-type", options.gguf_type),
        bits_per_weight=words.number("--bits-per-weight", options.bits_per_weight),
        product=words.text("--product", options.product), version=words.version("--version", options.version),
        requantize=words.switch("--requantize", options.requantize),
        resume=words.switch("--resume", options.resume), verify=words.switch("--verify", options.verify),
        report=words.switch("--report", options.report),
        force=words.switch("--force", options.force), dry_run=words.switch("--dry-run", options.dry_run))


def _unread(options: Options) -> Iterator[str]:
    """Words that mean nothing for a language model, by name."""
    for field in fields(Options):
        if field.name not in {*_SHARED, *OWN} and _is_said(options, field.name, field.default):
            yield f"--{field.name.replace('_', '-')} means nothing for a language model; leave it out"


def _unoffered(targets: Sequence[Backend], options: Options) -> Iterator[str]:
    for backend in targets:
        name, decoder = backend.target.name, backend.decoder
        if decoder is None:
            yield (f"--target {name} takes no language model, which is what a checkpoint folder or a .gguf file is; "
                   f"these go to {' and '.join(_decoder_targets())}")
        elif options.bits not in decoder.bits:
            yield f"--bits {options.bits}: {name} takes {', '.join(map(str, decoder.bits))}"
        elif options.bits_per_weight is not None and not decoder.ladder:
            yield f"--bits-per-weight: {name} has too few types to choose among"
        if decoder is not None and not decoder.file and (options.gguf_type or options.gguf_file is not None):
            yield f"--gguf-type and --gguf-file are not for {name}"


def _contradictions(options: Options) -> Iterator[str]:
    if options.bits_per_weight is not None and options.bits != Options().bits:
        yield "--bits-per-weight chooses the types, so it excludes --bits"
    if options.bits_per_weight is not None and options.gguf_type:
        yield "--bits-per-weight chooses the types, so it excludes --gguf-type"
    if options.bits_per_weight is not None and not 1 <= options.bits_per_weight <= 16:
        yield f"--bits-per-weight {options.bits_per_weight:g}: give a number from 1 to 16, such as 4.5"
    if options.method == "nearest" and options.resume:
        yield "--resume keeps fitted layers, so it excludes --method nearest"
    if options.dry_run and options.gguf_file is not None:
        yield "--dry-run writes nothing, so it excludes --gguf-file"


def _first_of(device: Device) -> list[str]:
    """The target that a device's language models go to where none is named: first those of language models alone."""
    there = [backend for backend in map(backend_named, device.targets) if backend.decoder is not None]
    return [backend.target.name for backend in sorted(there, key=lambda backend: backend.takes_graphs)][:1]


def _decoder_targets() -> list[str]:
    return [backend.target.name for backend in backends() if backend.decoder is not None]


def refused_for_networks(options: Options) -> Iterator[str]:
    """Words for language models, where the source is another network."""
    for field in fields(Options):
        if field.name in OWN and _is_said(options, field.name, field.default):
            yield f"--{field.name.replace('_', '-')} is for language models: a checkpoint folder or a .gguf file"


def _is_said(options: Options, name: str, default: Any) -> bool:
    """Nothing said may be None, or empty, as the command line has it."""
    value = getattr(options, name)
    return value != default and not (not default and (value is None or value == () or value == {}))
