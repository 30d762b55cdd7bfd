"""The command line: parse, call one function, print. stdout is the result, stderr is the progress.

Exit codes: 0 good; 1 cannot convert or bad input; 2 usage; 3 converted, but below what was asked.
"""
from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgeq.pipeline import Options, Progress

BAD_INPUT, USAGE, BELOW_WHAT_WAS_ASKED = 1, 2, 3
METHOD_NAMES = ("auto", "nearest", "sum-preserving", "gptq", "gptaq", "descent")
TARGET_NAMES = ("onnxruntime", "tflite", "coreml")
F = TypeVar("F", bound=Callable[..., Any])


class _Group(click.Group):
    """Turns every error into one clean message and an exit code; `--debug` lets the traceback through."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            if ctx.meta.get("debug"):
                raise
            message, code = _explained(error)
            click.echo(f"error: {message}", err=True)
            ctx.exit(code)


def _explained(error: Exception) -> tuple[str, int]:
    """What to tell the user, and the exit code."""
    from edgeq.errors import EdgeqError, UsageError

    if isinstance(error, EdgeqError):
        return str(error), USAGE if isinstance(error, UsageError) else BAD_INPUT
    if isinstance(error, BrokenPipeError):
        raise error  # click ends quietly: whoever read our output has seen enough
    if isinstance(error, OSError):
        return str(error), BAD_INPUT
    return f"{type(error).__name__}: {error}\nThis is a bug in edgeq: please report what --debug prints", BAD_INPUT


def _version(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        import edgeq

        click.echo(f"edgeq {edgeq.__version__}")
        ctx.exit()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def main() -> None:
    """A trained network in; a small, fast, verified bundle for phones, Raspberry Pi and Jetson out."""


def _shapes(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for text in texts:
        name, _, sizes = text.rpartition(":")
        if not name or not re.fullmatch(r"([1-9]\d*(x[1-9]\d*)*)?", sizes):
            raise click.BadParameter(f"'{text}': write name, colon and shape of the input, such as image:1x3x224x224")
        shapes[name] = tuple(int(size) for size in sizes.split("x")) if sizes else ()
    return shapes


def _patterns(ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        try:
            re.compile(text)
        except re.error as error:
            raise click.BadParameter(f"'{text}' is not a regular expression: {error}") from None
    return texts


def _input_option(function: F) -> F:
    return click.option("--input", "inputs", multiple=True, callback=_shapes, metavar="NAME:1x3x224x224",
                        help="Fix an input's free dimensions. Repeatable.")(function)


def _keep_debug(ctx: click.Context, param: click.Parameter, wanted: bool) -> None:
    ctx.meta["debug"] = wanted


def _common(function: F) -> F:
    """The options of every command."""
    function = click.option("--debug", is_flag=True, expose_value=False, callback=_keep_debug,
                            help="Show the traceback of an error.")(function)
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(function)


@main.command()
@click.argument("model")
@click.option("--target", "targets", type=click.Choice(TARGET_NAMES), multiple=True, required=True, help="Repeatable.")
@click.option("--bits", type=click.Choice(["4", "8", "16", "32"]), default="8", show_default=True,
              help="Of the weights; 16 is half precision, 32 is float as it came.")
@click.option("--calibration", metavar="DATA", help="Real samples: .npz, .npy, a folder, or module:function.")
@click.option("--samples", type=click.IntRange(min=1), help="Use at most this many.")
@click.option("--activations", type=click.Choice(["auto", "8", "float"]), default="auto", show_default=True,
              help="auto: 8 bits when there is calibration data.")
@click.option("--weights", default="per-channel", show_default=True, help="per-channel, per-tensor or block:SIZE.")
@click.option("--method", type=click.Choice(METHOD_NAMES), default="auto", show_default=True,
              help="How weights become integers; auto takes what measured best for these bits and samples.")
@click.option("--calibrator", type=click.Choice(["minmax", "percentile", "mse"]), default="mse", show_default=True,
              help="How a range is chosen from what calibration saw.")
@click.option("--keep-float", multiple=True, callback=_patterns, metavar="REGEX",
              help="Nodes whose name matches stay float. Repeatable.")
@_input_option
@click.option("--preprocess", metavar="FILE|imagenet", help="How an image becomes the input: a JSON file or a preset.")
@click.option("--labels", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="One class name a line.")
@click.option("--min-os", type=click.IntRange(16, 18), default=18, show_default=True, help="Core ML: the oldest iOS.")
@click.option("--compute", type=click.Choice(["ane", "gpu", "cpu", "all"]), default="ane", show_default=True,
              help="Core ML: where the model should run.")
@click.option("--keep-qdq", type=click.Path(dir_okay=False, path_type=Path), help="Save the quantized ONNX graph here.")
@click.option("--strict", is_flag=True, help="Exit with 3 when an op of a quantized model runs in float.")
@click.option("--no-verify", is_flag=True, help="Do not run the result.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option("--dry-run", is_flag=True, help="Do everything, write nothing.")
@click.option("-o", "--output", type=click.Path(path_type=Path),
              help="The bundle's folder; with several targets, their parent.")
@_common
def convert(model: str, targets: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Convert a model into one bundle per target.

    MODEL is an .onnx or .pt2 file, or module:function.
    """
    from edgeq.pipeline import convert_all
    from edgeq.report.text import conversion

    dry_run, output, options = flags.pop("dry_run"), flags.pop("output"), _options(flags)
    if dry_run and flags["keep_qdq"]:
        raise click.UsageError("--dry-run writes nothing, so it excludes --keep-qdq")
    with _progress() as progress, _destination(output, dry_run) as place:
        bundles = convert_all(model, list(dict.fromkeys(targets)), options(progress), place)
        rows = [{"path": None if dry_run else str(bundle.path), "bytes": bundle.artifact_bytes, **bundle.report}
                for bundle in bundles]
    _print(rows, as_json, lambda: conversion(rows))
    if flags["strict"] and any(row["float_on_this_engine"] for row in rows):
        click.echo("error: ops of the quantized model run in float (see above), and --strict was given", err=True)
        sys.exit(BELOW_WHAT_WAS_ASKED)


def _options(flags: Mapping[str, Any]) -> Callable[[Progress], Options]:
    """The flags as `pipeline.Options`, once there is a progress bar."""
    from edgeq.pipeline import Options
    from edgeq.report.describe import read_labels, read_preprocess

    words = {key: value for key, value in flags.items() if key != "no_verify"}
    words |= {"bits": int(flags["bits"]), "verify": not flags["no_verify"],
              "labels": read_labels(flags["labels"]), "preprocess": read_preprocess(flags["preprocess"])}
    return lambda progress: Options(**words, progress=progress)


@contextmanager
def _destination(output: Path | None, dry_run: bool) -> Iterator[Path | None]:
    import tempfile

    if not dry_run:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
        yield Path(folder) / "dry-run"


@main.command()
@click.argument("source", metavar="MODEL|BUNDLE")
@_input_option
@click.option("--compute", type=click.Choice(["ane"]),
              help="Of a Core ML bundle: what may keep it from the Neural Engine, with sources.")
@_common
def inspect(source: str, inputs: dict[str, tuple[int, ...]], compute: str | None, as_json: bool) -> None:
    """Show what a model or a bundle holds.

    Of a model: ops, sizes, memory, and what stays float on each target and why.
    """
    from edgeq.report.describe import describe
    from edgeq.report.text import description

    found = describe(source, inputs, neural_engine=compute == "ane")
    _print(found, as_json, lambda: description(found))


@main.command()
@click.argument("model")
@click.option("--calibration", metavar="DATA", required=True,
              help="Real samples: .npz, .npy, a folder, or module:function.")
@click.option("--samples", type=click.IntRange(min=1), default=64, show_default=True, help="Use at most this many.")
@click.option("--bits", type=click.Choice(["4", "8"]), default="8", show_default=True, help="Of the weights.")
@click.option("--weights", default="per-channel", show_default=True, help="per-channel, per-tensor or block:SIZE.")
@click.option("--target", "targets", type=click.Choice(TARGET_NAMES), multiple=True,
              help="Whose rules; repeatable, all by default.")
@_input_option
@click.option("--preprocess", metavar="FILE|imagenet", help="How an image becomes the input: a JSON file or a preset.")
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="How many layers to show.")
@_common
def analyze(model: str, targets: tuple[str, ...], bits: str, preprocess: str | None, top: int, as_json: bool,
            **flags: Any) -> None:
    """Rank the layers by the damage that each causes when it alone is quantized."""
    from edgeq.options import Options
    from edgeq.report.analyze import analyze as damage
    from edgeq.report.analyze import print_damage
    from edgeq.report.describe import read_preprocess

    with _progress() as progress:
        options = Options(**flags, bits=int(bits), preprocess=read_preprocess(preprocess), progress=progress)
        found = damage(model, targets or TARGET_NAMES, options)
    _print(found, as_json, lambda: print_damage(found, top))


@main.command()
@click.argument("model")
@_input_option
@_common
def estimate(model: str, inputs: dict[str, tuple[int, ...]], as_json: bool) -> None:
    """Tell how large a model would be.

    Bytes on disk and in memory at 32, 16, 8 and 4 bits, before any work.
    """
    from edgeq.report.estimate import estimate as sizes
    from edgeq.report.text import estimate_table

    found = sizes(model, inputs)
    _print(found, as_json, lambda: estimate_table(found))


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--reference", metavar="MODEL", help="The float model to compare with.")
@click.option("--data", metavar="DATA", help="Real samples for the comparison; by default those of the self-test.")
@click.option("--samples", type=click.IntRange(min=1), help="Use at most this many.")
@click.option("--layers", is_flag=True, help="Compare layer by layer, and name the first that breaks.")
@_common
def verify(bundle: Path, data: str | None, reference: str | None, samples: int | None, layers: bool, as_json: bool,
           ) -> None:
    """Check a bundle.

    Its files, its self-test, and with --reference its distance from the float model.
    """
    from edgeq.report.text import checked, layer_table
    from edgeq.verify.again import verify_again, verify_layers

    if layers and reference is None:
        raise click.UsageError("--layers compares with the float model: add --reference MODEL")
    result = verify_again(bundle, data=data, reference=reference, limit=samples)
    found = {"passed": result.passed, **asdict(result)}
    if layers:
        found |= verify_layers(bundle, reference, data, samples).to_json()
        if not as_json:
            layer_table(found)
    _print(found, as_json, lambda: checked(found))
    if not result.passed:
        sys.exit(BAD_INPUT)


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--input", "inputs", multiple=True, required=True, metavar="[NAME=]FILE",
              help=".npy, .npz or an image. Repeatable.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="How many labels to show.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Save the outputs here, as .npz.")
@_common
def run(bundle: Path, inputs: tuple[str, ...], top: int, output: Path | None, as_json: bool) -> None:
    """Run a bundle on one input."""
    from edgeq.report.run import run_bundle
    from edgeq.report.text import outputs

    result = run_bundle(bundle, inputs, top, output)
    _print(result, as_json, lambda: outputs(result))


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--runs", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Of the engine; its own choice by default.")
@_common
def benchmark(bundle: Path, runs: int, threads: int | None, as_json: bool) -> None:
    """Measure a bundle on this machine.

    Latency percentiles, the first run, peak memory and size.
    """
    from edgeq.report.text import fields
    from edgeq_runtime import load
    from edgeq_runtime.benchmark import benchmark as measure

    with load(bundle, threads=threads) as model:
        result = measure(model, runs=runs).to_dict()
    _print(result, as_json, lambda: fields(result))


@main.command()
@_common
def targets(as_json: bool) -> None:
    """List the targets, and what each runs on integers."""
    from edgeq.report.text import target_table
    from edgeq.targets import TARGETS

    rows = [{"name": t.name, "summary": t.summary, "weights": t.weights, "activations": t.activations, "needs": t.needs,
             "int8": {op: {"constraint": type(row.constraint).__name__.lower(), "source": row.source}
                      for op, row in t.rows.items()}} for t in TARGETS.values()]
    _print(rows, as_json, lambda: target_table(rows))


@main.command()
@_common
def doctor(as_json: bool) -> None:
    """Show what this machine has and lacks."""
    from edgeq.report.doctor import examine
    from edgeq.report.text import diagnosis

    found = examine()
    _print(found, as_json, lambda: diagnosis(found))


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    For the shell's start file: eval "$(edgeq completion bash)"
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(main, {}, "edgeq", "_EDGEQ_COMPLETE").source())


def _print(result: Any, as_json: bool, show: Callable[[], None]) -> None:
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        show()


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar with what is going on; silent when stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda what, done=0, total=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading the model", total=None)
        yield lambda what, done=0, total=None: bar.update(
            task, description=f"{what}, {done} samples" if done else what, completed=done, total=total)


if __name__ == "__main__":
    main()
