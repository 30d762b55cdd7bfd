"""edgeq convert."""
from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from edgeq.backend import device_names, target_names
from edgeq.cli.shared import (
    BELOW_WHAT_WAS_ASKED,
    Registered,
    common,
    input_option,
    print_result,
    progress_bar,
    trust_option,
)


@click.command()
@click.argument("model")
@click.option("--target", "targets", type=Registered(target_names), multiple=True, help="Repeatable.")
@click.option("--device", type=Registered(device_names),
              help="Chooses the target, and fits the bundle to the engines that run there.")
@click.option("--bits", type=click.Choice(["2", "3", "4", "5", "6", "8", "16", "32"]), default="8",
              show_default=True, help="Of the weights; 16 is half precision, 32 is float as it came. 2, 3, 5 and 6 are "
                                      "for language models.")
@click.option("--calibration", metavar="DATA",
              help="Real samples: .npz, .npy, a folder, or module:function; of a language model .txt or .jsonl.")
@click.option("--samples", type=click.IntRange(min=1), help="Use at most this many.")
@click.option("--activations", type=click.Choice(["auto", "8", "16", "float"]), default="auto", show_default=True,
              help="auto: 8 bits when there is calibration data. 16, with 8-bit weights: where 8 cost too much.")
@click.option("--weights", default="per-channel", show_default=True,
              help="per-channel, per-tensor, block:SIZE, or (Core ML, 4 bits) table:CHANNELS.")
@click.option("--method", default="auto", show_default=True, metavar="auto|STEP+STEP...",
              help="How weights become integers; auto takes what measured best for these bits and samples. "
                   "Steps, such as equalize+gptq+descent, are listed in docs/methods.md.")
@click.option("--calibrator", type=click.Choice(["minmax", "percentile", "mse", "entropy", "auto"]), default="auto",
              show_default=True,
              help="How a range is chosen from what calibration saw; auto tries all, tensor by tensor.")
@click.option("--calibration-cache", type=click.Path(dir_okay=False, path_type=Path),
              help="Keep what calibration saw in this file, and go on from there next time.")
@click.option("--keep-float", multiple=True, metavar="REGEX",
              help="Nodes whose name matches stay float. Repeatable.")
@input_option
@click.option("--state", multiple=True, metavar="IN=OUT",
              help="An input that is an output of the step before; none: there is none. Repeatable; found by names "
                   "without.")
@click.option("--preprocess", metavar="FILE|PRESET",
              help="How an image or sound becomes the input: a JSON file or a preset.")
@click.option("--postprocess", metavar="FILE|PRESET", help="What the outputs mean: a JSON file or a preset.")
@click.option("--labels", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="One class name a line.")
@click.option("--layout", type=click.Choice(["keep", "nhwc"]), default="keep", show_default=True,
              help="Of the images that go in and come out; samples stay as the source model takes them.")
@click.option("--io", default="float", show_default=True, metavar="float|uint8|int8",
              help="What goes in and comes out; two words with a comma for the inputs and the outputs.")
@click.option("--full-integer", is_flag=True,
              help="Nothing computes in float: interface (int8), softmax and all; refused where an operator cannot.")
@click.option("--prefer", type=click.Choice(["accuracy", "balanced", "speed"]),
              help="Float layers may make it 10 %, 2 % or not at all slower than plain 8 bits, by prediction.")
@click.option("--measure", is_flag=True,
              help="Take these times now, with the targets' own engines, instead of predicting them.")
@click.option("--board", metavar="NAME|ADDRESS", help="Take them on this board.")
@click.option("--eval", metavar="DATA",
              help="Labelled data for --metric: .npz, class folders, a CSV of file,label, COCO .json, module:function.")
@click.option("--metric", metavar="NAME",
              help="top1, top5, map50, miou, psnr, perplexity, wer, sqnr or module:function.")
@click.option("--max-drop", metavar="N", help="Search the smallest bundle that scores at most N (or N%) below float.")
@click.option("--min-metric", type=float, metavar="N", help="The same, with the worst score that is allowed.")
@click.option("--max-bytes", metavar="N", help="Search the best bundle of at most N bytes (600kB, 1.5MB).")
@click.option("--min-db", type=float, metavar="N",
              help="Exit with 3, and write no such bundle, when an output is fewer decibels from the float model.")
@click.option("--min-os", type=int, default=18, show_default=True, metavar="N",
              help="The oldest iOS: 16, 17, 18 or 26 for Core ML, 27 for Core AI.")
@click.option("--compute", type=click.Choice(["ane", "gpu", "cpu", "all"]), default="ane", show_default=True,
              help="Core ML: where the model should run.")
@click.option("--about", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="What the model file says of itself: JSON with author, licence and description.")
@click.option("--product", default="", metavar="NAME",
              help="For updates: a device refuses those of another product. The model's name by default.")
@click.option("--version", default="", metavar="1.4.2",
              help="For updates: a device refuses older ones.")
@click.option("--gguf-type", default="", metavar="Q4_K_M", help="Language models: how a GGUF file stores weights.")
@click.option("--gguf-file", type=click.Path(dir_okay=False, path_type=Path),
              help="Language models: save the GGUF file here, too.")
@click.option("--bits-per-weight", type=float, metavar="4.5",
              help="Language models: choose the type of every weight for so many bits on average.")
@click.option("--adapter", type=click.Path(file_okay=False, path_type=Path),
              help="Language models: merge this LoRA or DoRA (peft) into the weights.")
@click.option("--requantize", is_flag=True,
              help="Language models: codes that another tool chose count as floats; they are kept otherwise.")
@click.option("--recover", metavar="DATA",
              help="Samples without labels, as of --calibration: on them the quantized model learns from float.")
@click.option("--recover-weights", is_flag=True, help="With --recover: integers of weights move too, not scales alone.")
@click.option("--resume", is_flag=True,
              help="Go on with --recover, or with the layers of a language model, where a conversion was ended.")
@click.option("--keep-qdq", type=click.Path(dir_okay=False, path_type=Path), help="Save the quantized ONNX graph here.")
@click.option("--strict", is_flag=True,
              help="Write nothing, and exit with 3, when a target runs more in float than is planned or the result is "
                   "broken.")
@trust_option
@click.option("--no-verify", is_flag=True, help="Do not run the result.")
@click.option("--latency", is_flag=True, help="Time one call on this machine, for the report.")
@click.option("--no-report", is_flag=True, help="Write no report.html.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option("--dry-run", is_flag=True, help="Do everything, write nothing.")
@click.option("-o", "--output", type=click.Path(path_type=Path),
              help="The bundle's folder; with several targets, their parent.")
@common
def convert(model: str, targets: tuple[str, ...], bits: str, no_verify: bool, no_report: bool, dry_run: bool,
            as_json: bool, **words: Any) -> None:
    """Convert a model into one bundle per target.

    MODEL is an .onnx or .pt2 file, or module:function; of a language model the checkpoint's folder or a .gguf file.
    """
    import edgeq
    from edgeq.bundle.folder import open_bundle
    from edgeq.errors import TargetsFailed
    from edgeq.report.language import is_language, language_conversion
    from edgeq.report.text import conversion

    failed: TargetsFailed | None = None
    with progress_bar() as progress, _float_ops(as_json):
        try:
            bundles = edgeq.convert(model, target=list(targets), bits=int(bits), verify=not no_verify,
                                    report=not no_report, dry_run=dry_run, progress=progress, **words)
        except TargetsFailed as error:
            failed, bundles = error, [open_bundle(path) for path in error.written]
    rows = [{"path": None if dry_run else str(bundle.path), "bytes": bundle.artifact_bytes, **bundle.report}
            for bundle in bundles]
    show = language_conversion if all(map(is_language, rows)) else conversion
    print_result(rows, as_json, lambda: show(rows))
    if failed is not None:
        raise failed
    missed = [row["target"] for row in rows if not (row.get("evaluation") or {"met": True})["met"]]
    if missed:
        click.echo(f"error: {', '.join(missed)}: converted, but below what was asked; this is the best that was found",
                   err=True)
        sys.exit(BELOW_WHAT_WAS_ASKED)


@contextmanager
def _float_ops(as_json: bool) -> Iterator[None]:
    """Print the ops that --strict does not allow, before the error ends the command."""
    from edgeq.errors import FloatFallback
    from edgeq.report.text import fallbacks

    try:
        yield
    except FloatFallback as error:
        found = error.found
        print_result({"float_on_this_engine": found}, as_json, lambda: fallbacks(found))
        raise
