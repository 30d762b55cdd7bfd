"""How far figures from the samples that a bundle was fitted to are from those of samples that nothing has seen.

    python benchmarks/held_out.py [--bits 4] [--only ITEM,...] [--samples 100] [--advice] [--json FILE]

Every real model becomes an ONNX Runtime bundle. reported: SQNR of its worst output on calibration samples that were
held out, as the report has it. fitted_on: the same on as many samples of those that ranges, weights and choices were
made on. others: on as many of the evaluation samples. At 4 bits the language model keeps float activations. --advice:
what is said of each model's own samples and, where it takes pictures, of the same prepared wrongly; nothing is
converted.
"""
from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import open_zoo, padded, parser, report, shapes

import edgeq
import edgeq_runtime
from edgeq.conversion.metadata import input_specs
from edgeq.errors import EdgeqError
from edgeq.frontends import load_model
from edgeq.inference.reference import run_onnx
from edgeq.passes import canonicalize
from edgeq.quant.calibrate.advice import look, said_of_evaluation, survey
from edgeq.quant.calibrate.response import response_warnings
from edgeq.quant.samples import open_samples
from edgeq.verification.compare import compare
from edgeq.verification.row_sets import row_sets

LANGUAGE = "lm_stories260k"
PICTURES = ("imagenet_squeezenet11", "cifar10_resnet20")
MEAN, DEVIATION = (np.array(v, np.float32).reshape(1, 3, 1, 1) for v in ((.485, .456, .406), (.229, .224, .225)))


@dataclass(frozen=True)
class Row:
    """In dB. samples: for calibration, of which so many were held_out."""

    model: str
    bits: int
    samples: int
    held_out: int
    reported: float | None
    fitted_on: float | None
    others: float | None
    fitted_less_reported: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Said:
    """neighbours: their correlation, the median of all samples. outside: share of the evaluation samples' numbers that
    lie beyond the calibrated range."""

    model: str
    samples: str
    neighbours: float | None
    outside: float | None
    warnings: str


def row(zoo: Any, item: str, bits: int, count: int) -> Row:
    feeds = [padded(item, feed) for feed in zoo.feeds(item, "calib", count)]
    others = [padded(item, feed) for feed in zoo.feeds(item, "eval", 32)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            bundle = edgeq.convert(zoo.model(item), target="onnxruntime", bits=bits, calibration=feeds,
                                   activations="float" if item == LANGUAGE else "auto", inputs=shapes(zoo, item),
                                   output=Path(folder) / "b")
        except EdgeqError as error:
            return Row(item, bits, len(feeds), 0, None, None, None, None, str(error)[:90])
        network = load_model(zoo.model(item), inputs=shapes(zoo, item))
        canonicalize(network)
        seen, unseen = open_samples(feeds, input_specs(network)).hold_out()
        found = bundle.report["verification"]
        reported = min(line["sqnr_db"] for line in found["against_float"])
        again = [worst(network, bundle.path, list(some)) for some in (
            seen.chosen(found["samples"]), open_samples(others, input_specs(network)).chosen(found["samples"]))]
    return Row(item, bits, len(feeds), 0 if unseen is None else unseen.count, reported, *again, again[0] - reported)


def worst(network: Any, bundle: Path, feeds: Sequence[Any]) -> float:
    """SQNR of the worst output."""
    with edgeq_runtime.load(bundle) as model:
        outputs = [dict(model.run(dict(feed))) for feed in feeds]
    return min(line.sqnr_db for line in compare(list(run_onnx(network, feeds)), outputs, row_sets(network.graph)))


def said(zoo: Any, item: str, count: int) -> Iterator[Said]:
    network = load_model(zoo.model(item), inputs=shapes(zoo, item))
    canonicalize(network)
    own = [padded(item, feed) for feed in zoo.feeds(item, "calib", count)]
    name = next(iter(own[0]))
    for words, feeds in prepared(item, name, own):
        found = survey(feeds)
        alike = [one for feed in feeds if (one := look(feed[name]).alike) is not None]
        fed = [np.asarray(padded(item, feed)[name], np.float64).reshape(-1) for feed in zoo.feeds(item, "eval", 32)]
        line = next((line for line in found.inputs if line.name == name), None)
        outside, warned = None, [*response_warnings(network, feeds), *found.warnings]
        if line is not None and own[0][name].dtype.kind == "f":
            numbers = np.concatenate(fed)
            outside = float(np.mean((numbers < line.smallest) | (numbers > line.largest)))
            warned += filter(None, [said_of_evaluation(line, numbers)])
        yield Said(item, words, float(np.median(alike)) if alike else None, outside, "; ".join(warned))


def prepared(item: str, name: str, own: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    """A model's samples as they should be, and as they should not."""
    yield "own", own
    if item not in PICTURES:
        return
    pixels = [feed[name] * DEVIATION + MEAN if item == "cifar10_resnet20" else
              (feed[name] + np.float32([123, 117, 104]).reshape(1, 3, 1, 1)) / 255 for feed in own]
    yield "pixels from 0 to 1", [{name: image} for image in pixels]
    yield "channels reversed", [{name: np.ascontiguousarray(feed[name][:, ::-1])} for feed in own]
    noise = np.random.default_rng(0)
    yield "uniform noise", [{name: noise.uniform(0, 1, image.shape).astype(np.float32)} for image in pixels]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--bits", type=int, default=4)
    options.add_argument("--only", help="names of items, separated by commas")
    options.add_argument("--samples", type=int, default=100, help="for calibration, at most")
    options.add_argument("--advice", action="store_true", help="what is said of samples")
    chosen = options.parse_args()
    zoo = open_zoo(chosen.models)
    found: list[Any] = []
    for item in chosen.only.split(",") if chosen.only else zoo.ids:
        for line in said(zoo, item, chosen.samples) if chosen.advice else [row(zoo, item, chosen.bits, chosen.samples)]:
            print(" ", line, flush=True)
            found.append(line)
    report(found, "what is said of samples" if chosen.advice else "SQNR by where its samples come from", chosen.json)


if __name__ == "__main__":
    main()
