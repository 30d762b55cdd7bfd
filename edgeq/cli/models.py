"""Commands that look at a model before anything is converted, and at what there is to convert for."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from edgeq.backend import target_names
from edgeq.cli.shared import Registered, common, input_option, print_result, progress_bar, trust_option

if TYPE_CHECKING:
    from edgeq.dimensions import Shape


@click.command()
@click.argument("source", metavar="MODEL|BUNDLE")
@input_option
@click.option("--compute", type=click.Choice(["ane"]),
              help="Of a Core ML bundle: what may keep it from the Neural Engine, with sources.")
@trust_option
@common
def inspect(source: str, inputs: dict[str, Shape], compute: Literal["ane"] | None, trust: bool, as_json: bool) -> None:
    """Show what a model or a bundle holds.

    Of a model: ops, sizes, memory, and what stays float on each target and why.
    """
    import edgeq
    from edgeq.report.text import description

    found = edgeq.inspect(source, inputs=inputs, compute=compute, trust=trust)
    print_result(found, as_json, lambda: description(found))


@click.command()
@click.argument("model")
@click.option("--calibration", metavar="DATA", required=True,
              help="Real samples: .npz, .npy, a folder, or module:function.")
@click.option("--samples", type=click.IntRange(min=1), default=64, show_default=True, help="Use at most this many.")
@click.option("--bits", type=click.Choice(["4", "8"]), default="8", show_default=True, help="Of the weights.")
@click.option("--weights", default="per-channel", show_default=True, help="per-channel, per-tensor or block:SIZE.")
@click.option("--target", "targets", type=Registered(target_names), multiple=True,
              help="Whose rules; repeatable, all that share a plan by default.")
@input_option
@click.option("--preprocess", metavar="FILE|PRESET", help="How an image becomes the input: a JSON file or a preset.")
@click.option("--eval", metavar="DATA",
              help="Labelled data for --metric: .npz, class folders, a CSV of file,label, COCO .json, module:function.")
@click.option("--metric", metavar="NAME", help="Score the worst layers by this too; see `edgeq convert`.")
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="How many layers to show.")
@trust_option
@common
def analyze(model: str, targets: tuple[str, ...], bits: str, top: int, as_json: bool, **words: Any) -> None:
    """Rank the layers by the damage that each causes when it alone is quantized."""
    import edgeq
    from edgeq.report.text import damage

    with progress_bar() as progress:
        found = edgeq.analyze(model, target=targets, bits=int(bits), top=top, progress=progress, **words)
    print_result(found, as_json, lambda: damage(found, top))


@click.command()
@click.argument("model", metavar="MODEL|CHECKPOINT")
@input_option
@click.option("--context", type=click.IntRange(min=1), metavar="TOKENS",
              help="Of a language model: what its memory is told for.  [default: 4096]")
@trust_option
@common
def estimate(model: str, inputs: dict[str, Shape], context: int | None, trust: bool, as_json: bool) -> None:
    """Tell how large a model would be.

    Bytes on disk and in memory at 32, 16, 8 and 4 bits, before any work; of a language model as every type of GGUF too,
    with its cache, and which devices hold it.
    """
    import edgeq
    from edgeq.report.text import estimate_table, language_estimate_tables

    found = edgeq.estimate(model, inputs=inputs, trust=trust, context=context)
    print_result(found, as_json, lambda: (language_estimate_tables if "types" in found else estimate_table)(found))


@click.command()
@common
def targets(as_json: bool) -> None:
    """List the targets, and what each runs on integers."""
    from edgeq.backend import backends
    from edgeq.report.text import target_table

    rows = [{"name": t.name, "summary": t.summary, "weights": t.weights, "activations": t.activations, "needs": t.needs,
             "int8": {op: {"constraint": type(row.constraint).__name__.lower(), "source": row.source}
                      for op, row in t.rows.items()}} for t in (backend.target for backend in backends())]
    print_result(rows, as_json, lambda: target_table(rows))


@click.command()
@common
def doctor(as_json: bool) -> None:
    """Show what this machine has and lacks."""
    from edgeq.report.doctor import examine
    from edgeq.report.text import diagnosis

    found = examine()
    print_result(found, as_json, lambda: diagnosis(found))
