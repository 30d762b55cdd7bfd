"""The whole of a language model's conversion, top to bottom: a checkpoint in, a verified bundle for each target out."""
from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeq.backend import Artifact, Backend, DecoderBackend
from edgeq.bundle.folder import (
    Bundle,
    artifact_bytes,
    new_bundle,
    sha256,
    write_manifest,
    write_report,
)
from edgeq.conversion import words
from edgeq.conversion.decoder_budget import measured_choices, types_for_budget
from edgeq.conversion.decoder_figures import Figures, Judge
from edgeq.conversion.decoder_fit import Types, fit_decoder, key_groups, nearest_decoder
from edgeq.conversion.decoder_kept import Kept, kept_codes
from edgeq.conversion.decoder_request import DecoderRequest, read_decoder_request
from edgeq.conversion.decoder_store import LayerStore
from edgeq.conversion.decoder_text import Text, text_of_file, text_of_model
from edgeq.conversion.decoder_tokenizer import copy_bundled, language_of, tokenizer_files
from edgeq.conversion.decoder_verify import EngineRun, check_written, run_engine
from edgeq.conversion.destination import write_bundles
from edgeq.conversion.estimate_language import bits_per_weight, device_warning
from edgeq.conversion.options import Options
from edgeq.errors import BundleError, EdgeqError
from edgeq.frontends.decoder.checkpoint import Checkpoint, open_checkpoint
from edgeq.quant.decoder import QuantizedDecoder
from edgeq.report.language import write_language_page
from edgeq_runtime import __version__
from edgeq_runtime.manifest import Language, Manifest


def convert_checkpoint(model: str | Path, targets: words.Target, options: Options, output: str | Path | None = None,
                       ) -> tuple[Bundle, ...]:
    """Convert a checkpoint folder or a .gguf file. One bundle a target.

    Raises:
        EdgeqError: its subclasses name what is wrong and what helps; nothing is left on the disk then, but for fitted
            layers where the disk was full, which --resume goes on from.
    """
    request = read_decoder_request(targets, options)
    original = open_checkpoint(Path(model), request.adapter)
    checkpoint = original.padded()
    with tokenizer_files(original) as tokenizer:
        return write_bundles(
            checkpoint.name, request.target_names, output,
            lambda paths: _convert(_Source(checkpoint, tokenizer, language_of(checkpoint, tokenizer)), request, paths),
            options)


@dataclass(frozen=True, slots=True)
class _Source:
    """tokenizer: the folder of its files."""

    checkpoint: Checkpoint
    tokenizer: Path
    language: Language


def _convert(source: _Source, request: DecoderRequest, paths: Mapping[str, Path]) -> dict[str, EdgeqError]:
    """Write one bundle to each path -> the targets whose bundle failed, and why."""
    warnings: dict[str, str] = {}
    kept: dict[str, Kept] = {}
    for backend in request.targets:
        assert backend.decoder is not None
        backend.decoder.check(source.checkpoint, source.tokenizer, request.words)
        warnings[backend.target.name] = _device_warning(backend.decoder, source.checkpoint, request)
        kept[backend.target.name] = _kept(backend.decoder, source.checkpoint, request)
    if all(one.hold_layers() for one in kept.values()):
        request = replace(request, fits=False)
    text = _text(source, request)
    judge = None if text is None else Judge(source.checkpoint.spec, source.checkpoint.weights, text.judged,
                                            request.progress)
    failed: dict[str, EdgeqError] = {}
    for backend in request.targets:
        assert backend.decoder is not None
        path = paths[backend.target.name]
        try:
            types = _types(backend.decoder, source.checkpoint, request, text)
            held = kept[backend.target.name]
            with _quantized(source, request, types, held, text, path) as (decoder, seconds), \
                    new_bundle(path, force=request.options.force) as folder:
                _write_bundle(folder, backend, source, request, decoder, held, text, judge, seconds,
                              warnings[backend.target.name])
        except EdgeqError as error:
            failed[backend.target.name] = error
    return failed


def _kept(target: DecoderBackend, checkpoint: Checkpoint, request: DecoderRequest) -> Kept:
    """Raises ModelError: what another tool stored is damaged."""
    if not checkpoint.quantized_by or request.requantize or request.budget is not None:
        return Kept(checkpoint, target)
    return kept_codes(checkpoint, target, target.types(checkpoint.spec, request.words), request.words)


def _types(target: DecoderBackend, checkpoint: Checkpoint, request: DecoderRequest, text: Text | None) -> Types:
    """What every weight is stored as."""
    if request.budget is None:
        return target.types(checkpoint.spec, request.words)
    assert text is not None
    choices = measured_choices(checkpoint.spec, checkpoint.weights, text.fitted, target.ladder,
                               target.fused(checkpoint.spec), request.budget, request.progress)
    return types_for_budget(choices, request.budget)


def _device_warning(target: DecoderBackend, checkpoint: Checkpoint, request: DecoderRequest) -> str:
    """Raises UsageError: the device's memory does not hold the network."""
    if request.device is None:
        return ""
    bits = request.budget or bits_per_weight(checkpoint.spec, target.types(checkpoint.spec, request.words))
    return device_warning(request.device.name, checkpoint, bits)


def _text(source: _Source, request: DecoderRequest) -> Text | None:
    """None: weights are not fitted, and nothing is known to compare them on."""
    if request.text is not None:
        return text_of_file(request.text, source.tokenizer, source.language, request.sequences)
    if not request.fits and request.budget is None:
        return None
    return text_of_model(source.checkpoint, source.tokenizer, source.language, request.sequences, request.progress)


@contextmanager
def _quantized(source: _Source, request: DecoderRequest, types: Types, kept: Kept, text: Text | None, path: Path,
               ) -> Iterator[tuple[QuantizedDecoder, float]]:
    """The quantized weights and the seconds that they took. Their files are kept beside `path` while the block runs,
    and beyond it where the process or the disk gives out.
    """
    checkpoint, started = source.checkpoint, time.perf_counter()
    store = LayerStore(path.parent / f".{path.name}.layers", _job(checkpoint, types, kept, text), resume=request.resume)
    spec, weights = checkpoint.spec, checkpoint.weights
    try:
        if text is None or not request.fits:
            decoder = nearest_decoder(spec, weights, types, progress=request.progress, store=store, kept=kept)
        else:
            decoder = fit_decoder(spec, weights, types, text.fitted, request.progress, store, kept)
        yield decoder, time.perf_counter() - started
    except BundleError:
        raise
    except EdgeqError:
        store.remove()
        raise
    store.remove()


def _job(checkpoint: Checkpoint, types: Types, kept: Kept, text: Text | None) -> str:
    """What quantized layers follow from."""
    files = [file for path in (checkpoint.path, checkpoint.adapter) if path is not None
             for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    tokens = hashlib.sha256(b"" if text is None else b"".join(row.tobytes() for row in text.fitted))
    named = {f"{role} {layer}": "" if (role, layer) in kept else types(role, layer)
             for keys in key_groups(checkpoint.spec) for role, layer in keys}
    return json.dumps({"edgeq": __version__, "types": named, "tokens": tokens.hexdigest(), "files": [
        (file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]})


def _write_bundle(folder: Path, backend: Backend, source: _Source, request: DecoderRequest, decoder: QuantizedDecoder,
                  kept: Kept, text: Text | None, judge: Judge | None, seconds: float, warning: str) -> None:
    """Emit, verify and describe one bundle. judge: of what is held out of the text. warning: of the device."""
    target, emitter, checkpoint = backend.target.name, backend.decoder, source.checkpoint
    assert emitter is not None
    request.progress(f"writing {target}")
    artifact = emitter.emit(checkpoint, source.tokenizer, decoder, folder, request.words)
    copy_bundled(source.tokenizer, folder)
    manifest = _manifest(backend, artifact, source, request, decoder, kept, text)
    if request.device is not None:
        manifest = request.device.fitted(manifest)
    figures, run = None, None
    if request.options.verify:
        request.progress(f"verifying {target}")
        read = emitter.read(folder / artifact.entry, checkpoint.spec)
        check_written(target, decoder, read)
        run = run_engine(folder, manifest, checkpoint, read, text)
        figures = None if judge is None else judge.figures(read)
    report = _report(manifest, source, figures, run, text, seconds) | {"device_warning": warning}
    write_report(folder, report)
    if request.options.report:
        write_language_page(folder, manifest, report, artifact_bytes(folder))
    write_manifest(folder, replace(manifest, accuracy=_accuracy(figures, run)))
    if request.file is not None:
        _save(folder / artifact.entry, request.file)


def _manifest(backend: Backend, artifact: Artifact, source: _Source, request: DecoderRequest,
              decoder: QuantizedDecoder, kept: Kept, text: Text | None) -> Manifest:
    assert backend.decoder is not None
    inputs, outputs = backend.decoder.signature(source.checkpoint.spec)
    path = source.checkpoint.path
    return Manifest(
        name=source.checkpoint.name, target=backend.target.name, engine=artifact.engine,
        engine_version=artifact.engine_version, entry=artifact.entry, inputs=inputs, outputs=outputs, files=(),
        options=dict(artifact.options), quantization=_quantization(request, decoder, kept),
        calibration=None if text is None else text.to_json(), language=source.language,
        source_sha256=sha256(path) if path.is_file() else "", edgeq_version=__version__,
        product=request.options.product, version=request.options.version)


def _quantization(request: DecoderRequest, decoder: QuantizedDecoder, kept: Kept) -> dict[str, Any]:
    """By type how many weights there are, in how many bytes."""
    types: dict[str, dict[str, int]] = {}
    for matrix in decoder.matrices.values():
        row = types.setdefault(matrix.type, {"tensors": 0, "weights": 0, "bytes": 0})
        row["tensors"] += 1
        row["weights"] += matrix.size
        row["bytes"] += matrix.bytes
    weights, size = (sum(row[name] for row in types.values()) for name in ("weights", "bytes"))
    return {"weight_bits": request.words.bits, "type": request.words.type, "bits_per_weight": 8 * size / weights,
            "method": "fitted" if request.fits else "nearest", "types": types,
            **({"kept": kept.to_json()} if kept or kept.anew else {})}


def _report(manifest: Manifest, source: _Source, figures: Figures | None, run: EngineRun | None, text: Text | None,
            seconds: float) -> dict[str, Any]:
    weights = sum(row["weights"] for row in manifest.quantization["types"].values())
    return {
        "target": manifest.target, "name": manifest.name, "kind": "language model", **words.source_date(),
        "architecture": source.checkpoint.spec.architecture, "weights": weights,
        "quantize_seconds": round(seconds, 3), "quantization": manifest.quantization,
        "calibration": None if text is None else text.to_json(),
        "chat": bool(source.language.template), "adapter": source.checkpoint.adapted(), **_accuracy(figures, run),
    }


def _accuracy(figures: Figures | None, run: EngineRun | None) -> dict[str, Any]:
    """What was measured: of the file's weights beside float, and of the engine beside these."""
    return {"on_text": None if figures is None else figures.to_json(),
            "engine": None if run is None else run.to_json()}


def _save(artifact: Path, path: Path) -> None:
    """A copy that is whole as soon as it has its name."""
    draft = path.with_name(f".{path.name}.part")
    try:
        shutil.copyfile(artifact, draft)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise BundleError(f"cannot write {path}: {error.strerror}") from error
