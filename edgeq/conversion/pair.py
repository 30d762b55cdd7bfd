"""The conversion of an encoder with a decoder: two networks through the ordinary door, joined in one bundle."""
from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.bundle.folder import REPORT_NAME, Bundle, file_entries, new_bundle, write_manifest, write_report
from edgeq.conversion import words
from edgeq.conversion.decoder_tokenizer import read_json
from edgeq.conversion.destination import write_bundles
from edgeq.conversion.options import Options
from edgeq.conversion.request import read_request
from edgeq.conversion.text import TOKENIZER, checked_tokenizer
from edgeq.errors import EdgeqError, ModelError, UsageError, all_of
from edgeq.frontends.transformer.builder import TOKENS
from edgeq.frontends.transformer.source import Folder, open_folder
from edgeq_runtime.dimensions import Dimension, Range
from edgeq_runtime.manifest import FILE_NAME, EncoderDecoder
from edgeq_runtime.selftest import FILE_NAME as SELFTEST_NAME
from edgeq_runtime.selftest import Case, Tolerance, read_selftest, write_selftest
from edgeq_runtime.session import open_model
from edgeq_runtime.sound import LogMel

Convert = Callable[..., tuple[Bundle, ...]]
ENCODER: Final = "model-encoder"  # begins as all do that an engine loads
# What is said of weights and of the bundle; samples, interfaces and searches are of one network.
_TAKEN: Final = frozenset({"bits", "weights", "method", "keep_float", "min_os", "compute", "product", "version",
                           "verify", "force", "dry_run", "progress", "device", "strict", "report"})
TESTED: Final = 4  # tokens of the self-test


def convert_pair(model: str | Path, targets: words.Target, options: Options, output: str | Path | None,
                 convert: Convert) -> tuple[Bundle, ...]:
    """One bundle a target. convert: a network for several targets, `pipeline.convert_all`.

    Raises:
        EdgeqError: its subclasses name what is wrong and what helps; nothing is left on the disk then.
    """
    folder = open_folder(Path(model))
    refused = [f"--{field.name.replace('_', '-')} is for one network; an encoder with a decoder is two: leave it out"
               for field in fields(Options)
               if field.name not in _TAKEN and getattr(options, field.name) not in (field.default, None, (), {})]
    if refused:
        raise all_of([UsageError(reason) for reason in refused])
    about = _about(folder)
    names = read_request(targets, options).target_names
    checked_tokenizer(folder.path, about.vocabulary)

    def write(paths: Mapping[str, Path]) -> dict[str, EdgeqError]:
        failed: dict[str, EdgeqError] = {}
        for target, path in paths.items():
            try:
                with new_bundle(path, force=options.force) as draft:
                    _write(draft, folder, about, target, replace(options, dry_run=False, force=True), convert)
            except EdgeqError as error:
                failed[target] = error
        return failed

    return write_bundles(folder.path.resolve().name, names, output, write, options)


def _write(draft: Path, folder: Folder, about: EncoderDecoder, target: str, options: Options, convert: Convert) -> None:
    networks = dict(zip(("encoder", "decoder"), folder.pair(), strict=True))
    heard = folder.stack("encoder")
    before = log_mel(2 * heard.context, heard.mels) if heard.mels else None
    with tempfile.TemporaryDirectory(prefix="edgeq-") as name:
        made: dict[str, Bundle] = {}
        for side, network in networks.items():
            is_first = side == "encoder"
            said = replace(options, inputs=_limits(folder, network), preprocess=before if is_first else None,
                           report=options.report and not is_first)
            made[side], = convert(network, [target], said, Path(name) / side)
        shares = [_share(bundle) for bundle in made.values()]
        for side, place in (("decoder", draft), ("encoder", draft / ENCODER)):
            shutil.copytree(made[side].path, place, dirs_exist_ok=True,
                            ignore=shutil.ignore_patterns(SELFTEST_NAME, REPORT_NAME, FILE_NAME))
    shutil.copyfile(folder.path / TOKENIZER, draft / TOKENIZER)
    title = folder.path.resolve().name
    write_manifest(draft / ENCODER, replace(made["encoder"].manifest, name=f"{title} encoder"))
    manifest = replace(made["decoder"].manifest, name=title, encoder_decoder=about, product=options.product,
                       version=options.version)
    if options.verify:
        _write_selftest(draft, replace(manifest, files=file_entries(draft)), sum(shares), folder)
    write_report(draft, {**made["decoder"].report, "name": title, "encoder": dict(made["encoder"].report),
                         "source_bytes": _bytes(folder)})
    write_manifest(draft, manifest)


def _bytes(folder: Folder) -> int:
    return sum(path.stat().st_size for path in folder.path.glob("*.safetensors"))


def _limits(folder: Folder, network: Any) -> dict[str, tuple[Dimension, ...]] | None:
    """Of the inputs whose size is the length of a text."""
    limits = Range(TOKENS, 1, folder.stack("encoder").context)
    found = {str(value.name): tuple(size if isinstance(size, int) else limits for size in value.shape)
             for value in network.graph.inputs}
    return {name: shape for name, shape in found.items() if limits in shape} or None


def _share(bundle: Bundle) -> float:
    """Of its largest value, how far another device's outputs may be from these."""
    path = bundle.path / SELFTEST_NAME
    if not path.is_file():
        return 0.0
    cases, tolerance = read_selftest(path)
    return max(tolerance.error.get(name, 0.0) / max(float(np.abs(array).max(initial=0.0)), 1e-30)
               for case in cases for name, array in case.outputs.items())


def _write_selftest(draft: Path, manifest: Any, share: float, folder: Folder) -> None:
    """A few tokens behind a source that is made by hand, so that the two networks are tested together. What they give
    and take in between would be larger than the bundle.
    """
    from edgeq_runtime.language.pair import Pair

    about = manifest.encoder_decoder
    source = _source(folder)
    tokens = np.asarray([*about.start, *range(TESTED)][:TESTED], np.int64)
    with open_model(str(draft), manifest) as model:
        logits = Pair(manifest, model.encoder.run, model.run).logits(source, tokens.tolist())
    error = 2 * share * float(np.abs(logits).max())
    write_selftest(draft / SELFTEST_NAME, [Case({**source, "tokens": tokens}, {"logits": logits})], Tolerance(
        "twice what encoder and decoder may be off, each by itself", error={"logits": error}))


def _source(folder: Folder) -> dict[str, NDArray[Any]]:
    stack = folder.stack("encoder")
    if not stack.mels:
        return {"input_ids": np.arange(1, 9, dtype=np.int64)[None] % stack.vocabulary}
    frames, mels = np.ogrid[:2 * stack.context, :stack.mels]
    return {"input_features": (np.sin(.05 * frames) * np.cos(.3 * mels)).astype(np.float32).T[None].copy()}


def log_mel(frames: int, mels: int) -> LogMel:
    """What Whisper hears: https://github.com/openai/whisper/blob/main/whisper/audio.py"""
    return LogMel(16000, samples=160 * frames, window=400, hop=160, fft=400, mels=mels, scale="slaney", norm="slaney",
                  log="log10", below=8.0, mean=-4.0, std=4.0, frames=frames)


def _about(folder: Folder) -> EncoderDecoder:
    """What config.json and generation_config.json say of how texts begin and end."""
    said = {**folder.config, **read_json(folder.path / "generation_config.json")}
    stack = folder.stack("decoder")
    start, ends = said.get("decoder_start_token_id"), said.get("eos_token_id")
    if start is None or ends is None:
        raise ModelError(f"{folder.path}: neither config.json nor generation_config.json has decoder_start_token_id "
                         "and eos_token_id")
    blocked = [row[0] for row in said.get("bad_words_ids") or () if len(row) == 1]
    without = said.get("no_timestamps_token_id")
    return EncoderDecoder(
        ENCODER, stack.context, stack.vocabulary, start=(int(start),),
        eos=tuple(ends) if isinstance(ends, list) else (int(ends),),
        suppressed=tuple(token for token in (*(said.get("suppress_tokens") or ()), *blocked) if token >= 0),
        suppressed_first=tuple(said.get("begin_suppress_tokens") or ()), tokenizer=TOKENIZER,
        timestamps=None if without is None else int(without) + 1, no_timestamps=without,
        languages={name.strip("<|>"): token for name, token in (said.get("lang_to_id") or {}).items()},
        tasks=dict(said.get("task_to_id") or {}))
