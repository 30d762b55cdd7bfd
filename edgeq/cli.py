"""The command line: parse, call one function, print. stdout is the result, stderr is the progress.

Exit codes: 0 good; 1 cannot convert or bad input; 2 usage; 3 converted, but below what was asked.
"""
from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

BELOW_WHAT_WAS_ASKED = 3
TARGET_NAMES = ("onnxruntime", "tflite", "coreml")
F = TypeVar("F", bound=Callable[..., Any])


class _Group(click.Group):
    """Turns edgeq's own errors into one clean message; everything else stays a traceback, because it is a bug."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.exceptions.Exit:
            raise
        except Exception as error:
            from edgeq.errors import EdgeqError, UsageError

            if not isinstance(error, EdgeqError) or ctx.params.get("debug"):
                raise
            click.echo(f"error: {error}", err=True)
            ctx.exit(2 if isinstance(error, UsageError) else 1)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="edgeq")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(debug: bool) -> None:
    """A trained network in; a small, fast, verified bundle for phones, Raspberry Pi and Jetson out."""


class _Shape(click.ParamType):
    name = "NAME:1x3x224x224"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, tuple[int, ...]]:
        name, colon, text = str(value).rpartition(":")
        try:
            if not colon:
                raise ValueError
            return name, tuple(int(d) for d in text.split("x")) if text else ()
        except ValueError:
            self.fail(f"'{value}': write the input's name, a colon and its shape, such as image:1x3x224x224", param, ctx)


def _json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(function)


@main.command()
@click.argument("model")
@click.option("--target", "targets", type=click.Choice(TARGET_NAMES), multiple=True, required=True, help="Repeatable.")
@click.option("--bits", type=click.Choice(["4", "8", "16", "32"]), default="8", show_default=True, help="Of the weights.")
@click.option("--calibration", metavar="DATA", help="Real samples: .npz, .npy, a folder, or module:function.")
@click.option("--samples", type=click.IntRange(min=1), help="Use at most this many.")
@click.option("--activations", type=click.Choice(["auto", "8", "float"]), default="auto", show_default=True)
@click.option("--weights", default="per-channel", show_default=True, help="per-channel, per-tensor or block:SIZE.")
@click.option("--calibrator", type=click.Choice(["minmax", "percentile", "mse"]), default="mse", show_default=True)
@click.option("--keep-float", multiple=True, metavar="REGEX", help="Nodes whose name matches stay float. Repeatable.")
@click.option("--input", "inputs", type=_Shape(), multiple=True, help="Fix an input's free dimensions. Repeatable.")
@click.option("--preprocess", metavar="FILE|imagenet", help="How an image becomes the input: a JSON file or a preset.")
@click.option("--labels", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="One class name a line.")
@click.option("--min-os", type=click.IntRange(16, 18), default=18, show_default=True, help="Core ML: the oldest iOS.")
@click.option("--compute", type=click.Choice(["ane", "gpu", "cpu", "all"]), default="ane", show_default=True, help="Core ML.")
@click.option("--keep-qdq", type=click.Path(dir_okay=False, path_type=Path), help="Save the quantized ONNX graph here.")
@click.option("--strict", is_flag=True, help="Exit with 3 when an op of a quantized model runs in float.")
@click.option("--no-verify", is_flag=True, help="Do not run the result.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@click.option("--dry-run", is_flag=True, help="Do everything, write nothing.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The bundle's folder; with several targets, their parent.")
@_json_option
def convert(model: str, targets: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Convert MODEL (.onnx, .pt2, or module:function) into one bundle per target."""
    from edgeq.pipeline import convert_all
    from edgeq.report.text import conversion

    dry_run, output, options = flags.pop("dry_run"), flags.pop("output"), _options(flags)
    with _progress() as progress, _destination(output, dry_run) as place:
        bundles = convert_all(model, targets, options(progress), place)
        _print([bundle.report | {"path": None if dry_run else str(bundle.path)} for bundle in bundles], as_json,
               lambda: conversion(bundles, written=not dry_run))
        in_float = any(bundle.report["float_on_this_engine"] for bundle in bundles)
    if flags["strict"] and in_float:
        click.echo("error: ops of the quantized model run in float (see above), and --strict was given", err=True)
        sys.exit(BELOW_WHAT_WAS_ASKED)


def _options(flags: Mapping[str, Any]) -> Callable[[Callable[[str, int], None]], Any]:
    """The flags as `pipeline.Options`, once there is a progress bar."""
    from edgeq.pipeline import Options
    from edgeq.report.describe import read_preprocess

    labels = flags["labels"]
    words = {key: value for key, value in flags.items() if key not in ("no_verify", "bits", "inputs", "labels", "preprocess")}
    return lambda progress: Options(
        **words, bits=int(flags["bits"]), inputs=dict(flags["inputs"]), verify=not flags["no_verify"], progress=progress,
        labels=labels.read_text().splitlines() if labels else (), preprocess=read_preprocess(flags["preprocess"]))


@contextmanager
def _destination(output: Path | None, dry_run: bool) -> Iterator[Path | None]:
    import tempfile

    if not dry_run:
        yield output
        return
    with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
        yield Path(folder) / "dry-run"


@main.command()
@click.argument("source")
@click.option("--input", "inputs", type=_Shape(), multiple=True, help="Fix an input's free dimensions. Repeatable.")
@_json_option
def inspect(source: str, inputs: tuple[tuple[str, tuple[int, ...]], ...], as_json: bool) -> None:
    """Show what a model or a bundle holds: ops, sizes, memory, and what stays float on each target and why."""
    from edgeq.report.describe import describe
    from edgeq.report.text import description

    found = describe(source, dict(inputs))
    _print(found, as_json, lambda: description(found))


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", metavar="DATA", help="Real samples; without, the self-test of the bundle is repeated.")
@click.option("--reference", metavar="MODEL", help="The float model to compare with; needs --data.")
@click.option("--samples", type=click.IntRange(min=1), help="Use at most this many.")
@_json_option
def verify(bundle: Path, data: str | None, reference: str | None, samples: int | None, as_json: bool) -> None:
    """Check a bundle: its files, its self-test, and on request its distance from the float model."""
    from edgeq.report.text import checked
    from edgeq.verify.again import verify_again

    result = verify_again(bundle, data=data, reference=reference, limit=samples)
    _print(result, as_json, lambda: checked(result))
    if not result.passed:
        sys.exit(1)


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--input", "inputs", multiple=True, required=True, metavar="FILE|NAME=FILE", help="x.npy, x.npz or an image.")
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True, help="How many labels to show.")
@_json_option
def run(bundle: Path, inputs: tuple[str, ...], top: int, as_json: bool) -> None:
    """Run a bundle on one input."""
    from edgeq.report.run import run_bundle
    from edgeq.report.text import outputs

    result = run_bundle(bundle, inputs, top)
    _print(result, as_json, lambda: outputs(result))


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--runs", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Of the engine; its own choice by default.")
@_json_option
def benchmark(bundle: Path, runs: int, threads: int | None, as_json: bool) -> None:
    """Measure a bundle on this machine: latency percentiles, first run, peak memory, size."""
    from edgeq.report.text import fields
    from edgeq_runtime import load
    from edgeq_runtime.benchmark import benchmark as measure

    with load(bundle, threads=threads) as model:
        result = measure(model, runs=runs)
    _print(result, as_json, lambda: fields(_plain(result)))


@main.command()
@_json_option
def targets(as_json: bool) -> None:
    """List the targets, and what each runs on integers."""
    from edgeq.report.text import target_table
    from edgeq.targets import TARGETS

    rows = [{"name": t.name, "summary": t.summary, "weights": t.weights, "activations": t.activations, "needs": t.needs,
             "int8": {op: {"constraint": type(row.constraint).__name__.lower(), "source": row.source}
                      for op, row in t.rows.items()}} for t in TARGETS.values()]
    _print(rows, as_json, lambda: target_table(rows))


@main.command()
@_json_option
def doctor(as_json: bool) -> None:
    """Show what this machine has, and what is missing for which target."""
    from edgeq.report.doctor import examine
    from edgeq.report.text import diagnosis

    found = examine()
    _print(found, as_json, lambda: diagnosis(found))


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a SHELL: eval "$(edgeq completion bash)"."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(main, {}, "edgeq", "_EDGEQ_COMPLETE").source())


def _print(result: Any, as_json: bool, show: Callable[[], None]) -> None:
    if as_json:
        click.echo(json.dumps(_plain(result), indent=2))
    else:
        show()


def _plain(result: Any) -> Any:
    return asdict(result) if is_dataclass(result) and not isinstance(result, type) else result


@contextmanager
def _progress() -> Iterator[Callable[[str, int], None]]:
    """A spinner with what is going on; silent when stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda what, done: None
        return
    from rich.console import Console

    with Console(stderr=True).status("reading the model") as status:
        yield lambda what, done: status.update(f"{what}: {done} samples" if done else what)
