"""The whole of a conversion, top to bottom."""
from __future__ import annotations

import tempfile
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

import edgeq_runtime
from edgeq.backend import Artifact, EmitOptions, backend_named, target_named
from edgeq.bundle.folder import Bundle, check_free, file_entries, new_bundle, open_bundle, write_report
from edgeq.conversion.dry_run import rehearse
from edgeq.conversion.metadata import Record, check_meaning, input_specs, model_name
from edgeq.conversion.quantization import Quantized, open_goal, quantized
from edgeq.conversion.selftest import golden_cases, golden_tolerance
from edgeq.devices import device_named, targets_of
from edgeq.errors import FloatFallback
from edgeq.external_weights import is_large
from edgeq.frontends import load_source
from edgeq.mixed_precision import Goal, limits_of
from edgeq.options import Options, Progress, scheme_of
from edgeq.passes import canonicalize
from edgeq.passes.dynamic import without_dynamic_rounding
from edgeq.passes.images import (
    arrays_channels_first,
    arrays_channels_last,
    channels_first_names,
    make_channels_last,
)
from edgeq.quant.qdq import without_rounding
from edgeq.quant.samples import Samples, open_samples
from edgeq.report.html import Evidence, write_page
from edgeq.targets import are_symmetric
from edgeq.verify.references import Origin, References
from edgeq.verify.verify_artifact import verify_bundle
from edgeq_runtime.manifest import FILE_NAME, Manifest
from edgeq_runtime.selftest import FILE_NAME as SELFTEST_NAME
from edgeq_runtime.selftest import write_selftest

__all__ = ["Options", "Progress", "convert", "convert_all"]


def convert(model: Any, *, target: str = "", output: str | Path | None = None, **options: Any) -> Bundle:
    """Convert a model for one target, by default that of the `device` -> the bundle that was written.

    model: a path (.onnx, .pt2), "module:function", an onnx or onnx_ir model, or a torch ExportedProgram. options: the
    fields of `Options`.

    Raises:
        EdgeqError: its subclasses name what is wrong and what helps; nothing is left on the disk then.
    """
    return convert_all(model, [target] if target else [], Options(**options), output)[0]


def convert_all(model: Any, targets: Sequence[str], options: Options, output: str | Path | None = None,
                ) -> tuple[Bundle, ...]:
    """Convert a model for several targets under one plan, so that the bundles share every grid. One bundle a target."""
    targets = targets_of(targets, options)
    paths = {name: output_path(model, name, output, alone=len(targets) == 1) for name in targets}
    for path in paths.values():
        check_free(path, force=options.force)
    rows = [target_named(name) for name in targets]
    scheme = scheme_of(options, symmetric=are_symmetric(rows))
    limits = limits_of(options.max_drop, options.min_metric, options.max_bytes)
    network, source = load_source(model, inputs=dict(options.inputs or {}),
                                  open_sizes=all(target.open_sizes for target in rows), exact=options.bits == 32)
    check_meaning(network, options)
    canonicalize(network)
    turned = channels_first_names(network.graph) if options.layout == "nhwc" else []
    samples = _samples(network, options)
    if samples is not None or options.eval is not None:
        rehearse(network, targets, scheme, samples, options,
                 lambda name, graph: _emitted(name, graph, options))
    goal = open_goal(network, input_specs(network), samples, limits, options)
    result = quantized(network, rows, scheme, samples, options, goal,
                       lambda graph: _artifact_bytes(graph, targets, options))
    for each in {id(graph): graph for graph in (network, result.network, result.graph)}.values():
        make_channels_last(each, turned)
    if options.strict:
        _refuse_float(result, targets, options)
    if options.keep_qdq is not None:
        data = f"{options.keep_qdq.name}.data" if is_large(result.graph) else None
        ir.save(result.graph, options.keep_qdq, external_data=data)
    record = Record(model, result, samples, options, goal, turned)
    unrounded = network if result.plan is not None else without_rounding(without_dynamic_rounding(network))
    feeds = None if samples is None else (arrays_channels_last(feed, turned) for feed in samples)
    origin = None if source is None else Origin(source, network, turned)
    references = References(unrounded, result.graph, input_specs(network), feeds, origin)
    evidence = Evidence(result.network, result.graph, references)
    with ExitStack() as all_or_none:
        for name, path in paths.items():
            folder = all_or_none.enter_context(new_bundle(path, force=options.force))
            _fill(folder, name, record, evidence)
    return tuple(open_bundle(path) for path in paths.values())


def output_path(model: Any, target: str, output: str | Path | None, *, alone: bool) -> Path:
    """`<model>.<target>.edgeq` in the current folder; with several targets, -o names the folder of the bundles."""
    if output is not None and alone:
        return Path(output)
    return Path(output or ".") / f"{model_name(model)}.{target}.edgeq"


def _samples(network: ir.Model, options: Options) -> Samples | None:
    if options.calibration is None:
        return None
    return open_samples(options.calibration, input_specs(network), limit=options.samples, preprocess=options.preprocess)


def _artifact_bytes(graph: ir.Model, targets: Sequence[str], options: Options) -> int:
    """Of the largest artifact that a graph becomes."""
    with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
        for name in targets:
            (Path(folder) / name).mkdir()
            backend_named(name).emit(graph, Path(folder) / name, _emit_options(options))
        return max(sum(file.stat().st_size for file in (Path(folder) / name).rglob("*") if file.is_file())
                   for name in targets)


def _refuse_float(result: Quantized, targets: Sequence[str], options: Options) -> None:
    """Raises FloatFallback where a target runs more in float than the plan says."""
    found = {name: [asdict(node) for node in _emitted(name, result.graph, options).float_beyond(result.kept)]
             for name in targets}
    if any(found.values()):
        raise FloatFallback({name: rows for name, rows in found.items() if rows})


def _emitted(target: str, graph: ir.Model, options: Options) -> Artifact:
    """What a target would make of a graph, written into nowhere."""
    with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
        return backend_named(target).emit(graph, Path(folder), _emit_options(options))


def _emit_options(options: Options) -> EmitOptions:
    return EmitOptions(options.min_os, options.compute, "float32" if options.bits == 32 else "float16")


def _fill(folder: Path, target: str, record: Record, evidence: Evidence) -> None:
    """Emit, verify and describe one bundle."""
    options, references, started = record.options, evidence.references, time.perf_counter()
    options.progress(f"writing {target}")
    backend = backend_named(target)
    artifact = backend.emit(record.graph, folder, _emit_options(options))
    seconds = time.perf_counter() - started
    manifest = record.manifest(target, artifact)
    if options.device is not None:
        manifest = device_named(options.device).fitted(manifest)
    _save(manifest, folder)
    verification = None
    if options.verify:
        options.progress(f"verifying {target}")
        verification, outputs = verify_bundle(folder, references)
        write_selftest(folder / SELFTEST_NAME, golden_cases(references.feeds, outputs),
                       golden_tolerance(record.graph, artifact, backend.arithmetic, verification, outputs))
        manifest = replace(manifest, accuracy=verification.to_json())
    report = record.report(target, artifact, verification, seconds)
    write_report(folder, report)
    size = open_bundle(folder).artifact_bytes
    if record.goal is not None:
        options.progress(f"scoring {target}")
        report["evaluation"] = record.goal.to_json(_score(folder, record.goal, record.turned), size)
        manifest = replace(manifest, accuracy={**manifest.accuracy, "metric": report["evaluation"]})
        write_report(folder, report)
    write_page(folder, report, size, evidence)
    _save(manifest, folder)


def _score(folder: Path, goal: Goal, turned: Collection[str]) -> float:
    """What the bundle itself scores, run by its engine. The evaluation knows the source model's layout alone."""
    with edgeq_runtime.load(folder) as model:
        return goal.evaluation.score(
            lambda feed: arrays_channels_first(model.run(arrays_channels_last(feed, turned)), turned))


def _save(manifest: Manifest, folder: Path) -> None:
    (folder / FILE_NAME).write_text(replace(manifest, files=file_entries(folder)).to_json())
