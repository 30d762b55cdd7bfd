"""The whole of a conversion, top to bottom."""
from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgeq import policy
from edgeq.backend import Artifact, backend_named
from edgeq.bundle.folder import (
    Bundle,
    artifact_bytes,
    file_entries,
    new_bundle,
    write_manifest,
    write_report,
)
from edgeq.conversion.answers import compared_answers
from edgeq.conversion.decoder import convert_checkpoint
from edgeq.conversion.destination import write_bundles
from edgeq.conversion.dry_run import refuse_early, refuse_float
from edgeq.conversion.emission import refuse_artifact
from edgeq.conversion.evidence import Layers
from edgeq.conversion.interface import public, taking_pixels
from edgeq.conversion.latency import measured_latency
from edgeq.conversion.meaning import check_meaning, check_scores
from edgeq.conversion.metadata import Metadata, input_specs, model_name
from edgeq.conversion.options import Options
from edgeq.conversion.pair import convert_pair
from edgeq.conversion.quantization import HELD_OUT, TOO_FEW, is_fitted, open_goal, quantize_network
from edgeq.conversion.recovery import check_recovery, forget_learning, recovered
from edgeq.conversion.request import Request, read_request
from edgeq.conversion.sample_sizes import sample_sizes
from edgeq.conversion.selftest import in_steps, selftest_cases, selftest_tolerance
from edgeq.conversion.suspicions import suspicions
from edgeq.conversion.text import copy_text_files, with_text_samples
from edgeq.conversion.timing import clock_of
from edgeq.conversion.words import Target
from edgeq.errors import EdgeqError, ModelError, TooFarFromFloat, UnsupportedModel, UsageError
from edgeq.external_weights import is_large
from edgeq.frontends import check_there, is_language_model, load_source
from edgeq.frontends.transformer.source import is_pair
from edgeq.inference.magnitudes import largest_values
from edgeq.inference.session import Arrays
from edgeq.mixed_precision import Goal
from edgeq.passes import canonicalize
from edgeq.passes.dynamic import without_dynamic_rounding
from edgeq.passes.images import arrays_channels_last, channels_first_names, make_channels_last
from edgeq.quant.calibrate.advice import Survey, survey
from edgeq.quant.qdq import without_rounding
from edgeq.quant.recordings import roll_out
from edgeq.quant.samples import Samples, open_samples
from edgeq.report.html import write_page
from edgeq.report.verdict import from_float, verdict
from edgeq.state import filled, state_pairs
from edgeq.verification.evaluate import LabelledData
from edgeq.verification.interface import as_taken
from edgeq.verification.references import Origin, References
from edgeq.verification.score import score_model
from edgeq.verification.verify_artifact import Verification, verify_artifact
from edgeq_runtime.integers import to_integers
from edgeq_runtime.manifest import Manifest
from edgeq_runtime.preprocess import Preprocess, from_dict
from edgeq_runtime.selftest import FILE_NAME as SELFTEST_NAME
from edgeq_runtime.selftest import write_selftest
from edgeq_runtime.session import open_model

__all__ = ["Options", "convert_all"]


def convert_all(model: Any, targets: Target, options: Options, output: str | Path | None = None) -> tuple[Bundle, ...]:
    """Convert a model for several targets under one plan, so that the bundles share every grid. One bundle a target.

    Raises:
        EdgeqError: its subclasses name what is wrong and what helps; nothing is left on the disk then.
    """
    if is_language_model(model):
        return convert_checkpoint(model, targets, options, output)
    if is_pair(model):
        return convert_pair(model, targets, options, output, convert_all)
    check_there(model)
    request = read_request(targets, with_text_samples(model, options))
    return write_bundles(model_name(model), request.target_names, output, lambda paths: _convert(model, request, paths),
                         options)


def _convert(model: Any, request: Request, paths: Mapping[str, Path]) -> dict[str, EdgeqError]:
    """Write one bundle to each path -> the targets whose bundle failed, and why. paths: by the name of the target."""
    sizes = sample_sizes(request)
    network, source = load_source(model, inputs=request.inputs, tell=sizes, example_inputs=request.example_inputs,
                                  state=request.state, open_sizes=all(target.open_sizes for target in request.targets),
                                  exact=request.weights == "float32", trust=request.options.trust)
    check_meaning(network, request.postprocess, request.labels)
    canonicalize(network)
    check_recovery(network, request)
    transposed = channels_first_names(network.graph) if request.channels_last else []
    samples = open_calibration(network, request)
    check_scores(network, request.postprocess, samples)
    if samples is not None or request.measure is not None or len(request.targets) > 1:
        refuse_early(network, request, samples)
    seen, unseen = samples, None
    if samples is not None and is_fitted(network, request):
        seen, unseen = samples.hold_out(in_order=request.calibration_cache is not None)
    goal = open_goal(network, input_specs(network), seen, unseen, request)
    result = recovered(network, quantize_network(network, request, seen, goal, clock=clock_of(request, seen)), request,
                       unseen, paths)
    looked, warnings = (None, ()) if samples is None else _look_at(network, request, samples, goal)
    verified = _to_verify_on(network, request, samples, unseen)
    for each in {id(graph): graph for graph in (network, result.network, result.graph)}.values():
        make_channels_last(each, transposed)
    if request.options.strict:
        refuse_float(result, request)
    if request.keep_qdq is not None:
        data = f"{request.keep_qdq.name}.data" if is_large(result.graph) else None
        ir.save(result.graph, request.keep_qdq, external_data=data)
    metadata = Metadata(model, request, result, looked, unseen, warnings, goal, transposed,
                        None if sizes is None else sizes.to_json())
    origin = None if source is None else Origin(source, network, transposed)
    references = _references(network, metadata, origin, verified)
    layers = Layers(result.network, result.graph, references)
    failed: dict[str, EdgeqError] = {}
    for name, path in paths.items():
        try:
            with new_bundle(path, force=request.options.force) as folder:
                _write_bundle(folder, name, metadata, references, layers)
        except EdgeqError as error:
            failed[name] = error
    if not failed:
        forget_learning(paths)
    return failed


def _look_at(network: ir.Model, request: Request, samples: Samples, goal: Goal | None,
             ) -> tuple[Survey, tuple[str, ...]]:
    """What the calibration samples show by themselves, and what beside the network and the request."""
    found = survey(samples)
    return found, tuple(suspicions(network, request, samples, found, goal)) if is_fitted(network, request) else ()


def _write_bundle(folder: Path, target: str, metadata: Metadata, references: References, layers: Layers) -> None:
    """Emit, verify and describe one bundle."""
    request, started = metadata.request, time.perf_counter()
    request.progress(f"writing {target}")
    made = public(metadata.graph, request, target)
    options = replace(made.options, largest=lambda: _largest(metadata, references))
    artifact = backend_named(target).emit(made.graph, folder, options)
    refuse_artifact(target, artifact, folder, request)
    copy_text_files(metadata.source, folder)
    seconds = time.perf_counter() - started
    manifest = metadata.manifest(target, artifact, made)
    verification: Verification | None = None
    outputs: list[dict[str, Any]] = []
    if request.options.verify:
        request.progress(f"verifying {target}")
        verification, outputs = _verified(folder, manifest, artifact, metadata.graph, references)
        _refuse_far(target, verification, request.options)
    trial = None if request.device is None else request.device.tried(
        folder, replace(manifest, files=file_entries(folder)))
    if request.options.full_integer and trial is not None and trial.left:
        raise UnsupportedModel(target, trial.left)
    evaluation = None
    if metadata.goal is not None:
        request.progress(f"scoring {target}")
        with open_model(str(folder), manifest) as opened:
            evaluation = metadata.goal.to_json(lambda by: score_model(opened, by, metadata.transposed),
                                               artifact_bytes(folder))
    report = metadata.report(manifest, artifact, verification, evaluation, seconds, trial)
    if request.options.latency:
        report["latency"] = measured_latency(folder, manifest)
    write_report(folder, report)
    if request.options.report:
        write_page(folder, manifest, report, artifact_bytes(folder),
                   layers.unverified if verification is None else layers.evidence,
                   compared_answers(manifest, references, outputs) if outputs else ())
    accuracy = ({} if verification is None else verification.to_json()) | (
        {} if evaluation is None else {"metric": evaluation})
    write_manifest(folder, replace(manifest, accuracy=accuracy))


def _largest(metadata: Metadata, references: References) -> dict[str, float]:
    """Of the network that was quantized: what its samples show, and all that calibration has seen."""
    gain = policy.LOUDER_NOISE.value if metadata.survey is None else policy.LOUDER_INPUTS.value
    if isinstance(metadata.request.preprocess, Preprocess):
        gain = 1.0  # no pixel is larger than those of the samples may be
    try:
        found = largest_values(metadata.quantized.network, references.alone, gain)
    except ModelError:
        return {}  # verification will say so
    for name, seen in metadata.quantized.statistics.items():
        found[name] = max(found.get(name, 0.0), policy.LARGEST_MARGIN.value * max(-seen.min, seen.max))
    return found


def _verified(folder: Path, manifest: Manifest, artifact: Artifact, graph: ir.Model, references: References,
              ) -> tuple[Verification, list[dict[str, Any]]]:
    """Run the artifact, and write what devices will compare themselves with -> what was found, and its outputs."""
    verification, outputs = verify_artifact(folder, manifest, references)
    arithmetic = backend_named(manifest.target).arithmetic
    tolerance = selftest_tolerance(graph, artifact, arithmetic, verification, outputs)
    write_selftest(folder / SELFTEST_NAME, selftest_cases(
        [as_taken(manifest, feed) for feed in filled(references.feeds, outputs, references.pairs)],
        [{spec.name: to_integers(spec, found[spec.name]) for spec in manifest.outputs} for found in outputs],
    ), in_steps(tolerance, manifest.outputs))
    return verification, outputs


def _refuse_far(target: str, verification: Verification, options: Options) -> None:
    """Raises TooFarFromFloat where --min-db or --strict does not allow how far a bundle is from the float model."""
    found = verification.to_json()
    worst = min(found["against_float"], key=lambda line: line["sqnr_db"])
    if options.min_db is not None and not worst["sqnr_db"] >= options.min_db:
        raise TooFarFromFloat(f"{target}: output '{worst['output']}' {from_float(worst['sqnr_db'])}, --min-db asks for "
                              f"{options.min_db:g} dB: no such bundle is written")
    said = verdict(found)
    if options.strict and said.is_broken:
        raise TooFarFromFloat(f"{target}: {said.word}: {said.sentence}; with --strict no such bundle is written")


def _references(network: ir.Model, metadata: Metadata, origin: Origin | None,
                verified: tuple[Iterable[Arrays] | None, str]) -> References:
    """What the bundles are compared with: the source in float, even where it came quantized."""
    unrounded = network if metadata.plan is not None else without_rounding(without_dynamic_rounding(network))
    samples, told = verified
    feeds = None if samples is None else (arrays_channels_last(feed, metadata.transposed) for feed in samples)
    pixels = from_dict(metadata.preprocessing() or {}) if taking_pixels(network.graph, metadata.request) else None
    return References(unrounded, metadata.graph, input_specs(network), feeds, origin, told,
                      pixels if isinstance(pixels, Preprocess) else None)


def _to_verify_on(network: ir.Model, request: Request, samples: Samples | None, unseen: Samples | None,
                  ) -> tuple[Iterable[Arrays] | None, str]:
    """The samples that figures come from, and what they are: those that no range, weight or choice has seen, if there
    are some.
    """
    if unseen is not None:
        return unseen.stretch or unseen.chosen(policy.VERIFIED_SAMPLES.value), HELD_OUT
    measure = request.measure
    if isinstance(measure, LabelledData) and measure.metric is not None and not request.is_search:
        return measure.feeds(input_specs(network), preprocess=request.preprocess), "--eval"
    if samples is None:
        return None, "calibration samples"
    return samples.running(), TOO_FEW if is_fitted(network, request) else "calibration samples"


def open_calibration(network: ir.Model, request: Request) -> Samples | None:
    """The calibration samples as a network takes them, with the state that it has at each."""
    if request.calibration is None:
        return None
    if request.calibration_cache is not None and state_pairs(network):
        raise UsageError("--calibration-cache goes on where samples ended, and a streaming model's state does not: "
                         "leave it out, or take --state none")
    return roll_out(network, open_samples(request.calibration, input_specs(network), limit=request.sample_limit,
                                          preprocess=request.preprocess))
