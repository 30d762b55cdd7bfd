"""The whole of a conversion, top to bottom."""
from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import onnx_ir as ir

from edgeq.bundle import Bundle, check_free, file_entries, new_bundle, open_bundle, write_report
from edgeq.errors import UsageError
from edgeq.frontends import load_model
from edgeq.options import Options, Progress, scheme_of
from edgeq.passes import canonicalize
from edgeq.quant.calibrate import CALIBRATORS, Calibrator, Statistics, calibrate
from edgeq.quant.calibrate.cache import calibrate_with_cache
from edgeq.quant.choose import DEFAULT, choose_calibrators
from edgeq.quant.choose import SAMPLES as CHOICE_SAMPLES
from edgeq.quant.half import store_half
from edgeq.quant.methods import method_named
from edgeq.quant.plan import QuantPlan, make_plan
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE, without_rounding
from edgeq.quant.quantize import quantize
from edgeq.quant.samples import Samples, open_samples
from edgeq.record import Record, check_labels, input_specs, model_name, selftest_cases, selftest_tolerance
from edgeq.report.html import Evidence, write_page
from edgeq.scheme import QuantScheme
from edgeq.targets import TARGETS
from edgeq.verify.check import verify_bundle
from edgeq.verify.references import References
from edgeq_converters.contract import Backend, EmitOptions
from edgeq_runtime.manifest import FILE_NAME, Manifest
from edgeq_runtime.selftest import FILE_NAME as SELFTEST_NAME
from edgeq_runtime.selftest import write_selftest

__all__ = ["Options", "Progress", "backend", "convert", "convert_all"]


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
    network = load_model(model, inputs=dict(options.inputs or {}),
                         open_sizes=all(TARGETS[name].open_sizes for name in targets))
    check_labels(network, options.labels)
    canonicalize(network)
    samples = _samples(network, options)
    graph, plan, statistics = _quantize(network, targets, scheme, samples, options)
    if options.keep_qdq is not None:
        ir.save(graph, options.keep_qdq)
    record = Record(model, graph, plan, samples, options, statistics)
    unrounded = network if plan is not None else without_rounding(network)
    references = References(unrounded, graph, input_specs(network), samples)
    evidence = Evidence(network, graph, references)
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


def backend(target: str) -> Backend:
    """The backend's module, imported on use."""
    if target not in TARGETS:
        raise UsageError(f"no target '{target}'; there are {', '.join(TARGETS)}")
    return cast(Backend, importlib.import_module(f"edgeq_converters.{target}"))


def _samples(network: ir.Model, options: Options) -> Samples | None:
    if options.calibration is None:
        return None
    return open_samples(options.calibration, input_specs(network), limit=options.samples, preprocess=options.preprocess)


def _quantize(network: ir.Model, targets: Sequence[str], scheme: QuantScheme, samples: Samples | None, options: Options,
              ) -> tuple[ir.Model, QuantPlan | None, Statistics]:
    """The QDQ graph of a float network. One that is quantized already keeps its scales, and needs no plan."""
    if any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in network.graph):
        return network, None, Statistics({}, 0)
    plan = make_plan(network, [TARGETS[name] for name in targets], scheme, keep_float=options.keep_float)
    if options.bits == 16:
        return store_half(network), plan, Statistics({}, 0)
    statistics = _calibrate(network, plan, samples, options)
    calibrator = _calibrator(network, plan, statistics, samples, options)
    method = method_named(options.method)
    fit = method.fit(samples, options.bits)
    if fit is not None:
        options.progress("fitting weights", 0)
    return quantize(network, plan, statistics, calibrator, method.rounding, fit), plan, statistics


def _calibrate(network: ir.Model, plan: QuantPlan, samples: Samples | None, options: Options) -> Statistics:
    if not plan.sources:
        return Statistics({}, 0)
    assert samples is not None

    def progress(done: int) -> None:
        options.progress("calibrating", done, samples.length)

    if options.calibration_cache is not None:
        return calibrate_with_cache(options.calibration_cache, network, plan.sources, samples, progress=progress)
    return calibrate(network, plan.sources, samples, progress=progress)


def _calibrator(network: ir.Model, plan: QuantPlan, statistics: Statistics, samples: Samples | None, options: Options,
                ) -> Calibrator | dict[str, Calibrator]:
    if options.calibrator != "auto" or samples is None:
        return CALIBRATORS[DEFAULT if options.calibrator == "auto" else options.calibrator]
    return choose_calibrators(network, plan, statistics, list(islice(samples, CHOICE_SAMPLES)),
                              lambda done, total: options.progress("choosing ranges", done, total))


def _fill(folder: Path, target: str, record: Record, evidence: Evidence) -> None:
    """Emit, verify and describe one bundle."""
    options, references, started = record.options, evidence.references, time.perf_counter()
    options.progress(f"writing {target}")
    artifact = backend(target).emit(record.graph, folder, EmitOptions(
        options.min_os, options.compute, "float32" if options.bits == 32 else "float16"))
    seconds = time.perf_counter() - started
    manifest = record.manifest(target, artifact)
    _save(manifest, folder)
    verification = None
    if options.verify:
        options.progress(f"verifying {target}")
        verification, outputs = verify_bundle(folder, references)
        write_selftest(folder / SELFTEST_NAME, selftest_cases(references.feeds, outputs),
                       selftest_tolerance(verification))
        manifest = replace(manifest, accuracy=verification.to_json())
    report = record.report(target, artifact, verification, seconds)
    write_report(folder, report)
    write_page(folder, report, open_bundle(folder).artifact_bytes, evidence)
    _save(manifest, folder)


def _save(manifest: Manifest, folder: Path) -> None:
    (folder / FILE_NAME).write_text(replace(manifest, files=file_entries(folder)).to_json())
