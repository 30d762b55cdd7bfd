"""Commands on a bundle that is there."""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from edgeq.cli.boards import on_boards
from edgeq.cli.shared import (
    BAD_INPUT,
    BELOW_WHAT_WAS_ASKED,
    board_option,
    common,
    job_options,
    job_words,
    print_result,
    progress_bar,
    trust_option,
)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--reference", metavar="MODEL", help="The float model to compare with.")
@click.option("--data", metavar="DATA", help="Real samples for the comparison; by default those of the self-test.")
@click.option("--samples", type=click.IntRange(min=1), help="Use at most this many.")
@click.option("--layers", is_flag=True, help="Compare layer by layer, and name the first that breaks.")
@trust_option
@common
def verify(bundle: Path, layers: bool, as_json: bool, **words: Any) -> None:
    """Check a bundle.

    Its files, its self-test, and with --reference its distance from the float model.
    """
    import edgeq
    from edgeq.report.text import checked, layer_table

    result = edgeq.verify(bundle, layers=layers, **words)
    found = result.to_json()
    if layers and not as_json:
        layer_table(found)
    print_result(found, as_json, lambda: checked(found))
    if not result.passed:
        sys.exit(BAD_INPUT)


@click.command("eval")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", metavar="DATA",
              help="Labelled data: .npz or a folder of such with an array `labels`, class folders, a CSV of "
                   "file,label, a COCO .json, or a module:function.")
@click.option("--metric", metavar="NAME",
              help="top1, top5, map50, miou, psnr, perplexity, wer, sqnr or module:function.")
@click.option("--reference", metavar="MODEL", help="The float model, which is scored too.")
@click.option("--perplexity", metavar="TEXT", help="Of a language model: a text file that it reads.")
@click.option("--kl-against", metavar="CHECKPOINT",
              help="The float model that its probabilities are compared with on that text.")
@click.option("--tasks", metavar="FILE", help="Of a language model: a JSON object a line.")
@click.option("--samples", type=click.IntRange(min=1), help="Use at most this many.")
@click.option("--max-drop", metavar="N", help="Exit with 3 where it scores more than N (or N%) below the float model.")
@click.option("--min-metric", type=float, metavar="N", help="The same, with the worst score that is allowed.")
@trust_option
@common
def evaluate(bundle: Path, as_json: bool, **words: Any) -> None:
    """Score a bundle on labelled data, or a language model on a text and on tasks."""
    import edgeq
    from edgeq.report.text import language_score, score

    with progress_bar() as progress:
        result = edgeq.evaluate(bundle, progress=progress, **words)
    found = result.to_json()
    print_result(found, as_json, lambda: (language_score if "scores" in found else score)(found))
    if not result.met:
        sys.exit(BELOW_WHAT_WAS_ASKED)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--input", "inputs", multiple=True, required=True, metavar="[NAME=]FILE",
              help=".npy, .npz or an image. Repeatable.")
@click.option("--top", type=click.IntRange(min=1),
              help="How many labels or boxes to show.  [default: 5, or as the bundle's postprocessing says]")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Save the outputs here, as .npz.")
@click.option("--board", metavar="NAME|ADDRESS", help="Run it there instead of here.")
@job_options
@common
def run(bundle: Path, inputs: tuple[str, ...], top: int | None, output: Path | None, board: str | None, as_json: bool,
        **words: Any) -> None:
    """Run a bundle on one input."""
    from edgeq.report.text import outputs
    from edgeq.verification.run_bundle import run_bundle

    result = run_bundle(bundle, inputs, top, output, board, **job_words(board, words))
    print_result(result, as_json, lambda: outputs(result))


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--runs", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Of the engine; its own choice by default.")
@board_option(required=False)
@job_options
@common
def benchmark(bundle: Path, runs: int, threads: int | None, boards: tuple[str, ...], as_json: bool,
              **words: Any) -> None:
    """Measure a bundle on this machine, or on boards.

    Latency percentiles, the first run, peak memory and size.
    """
    words = job_words(boards, words)
    if boards:
        from edgeq.boards.runner import Job
        from edgeq.report.boards import benchmark_table

        rows = on_boards(boards, Job(bundle, self_test=False, runs=runs, warmup=10, threads=threads, **words))
        print_result(rows, as_json, lambda: benchmark_table(rows))
        if not all(row["ok"] for row in rows):
            sys.exit(BAD_INPUT)
        return
    from edgeq.report.text import fields
    from edgeq_runtime import load
    from edgeq_runtime.benchmark import benchmark as measure

    with load(bundle, threads=threads) as model:
        result = measure(model, runs=runs).to_dict()
    print_result(result, as_json, lambda: fields(result))
