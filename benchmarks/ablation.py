"""Which algorithm brings how much at 4 bits: every real model, every step of the mix, one row each.

    python benchmarks/ablation.py [--items NAME,...] [--methods "nearest;equalize+gptq;..."] [--bits 4] [--held]
                                  [--calibrator mse] [--outliers] [--json FILE]

--methods: names of ROWS, or whatever `edgeq convert --method` takes. The quantized graph is run op by op, on the
evaluation samples, with at most 100 calibration samples; with --held, calibrated on three quarters of these and
compared with float on the others, so that settings can be chosen without a look at the evaluation. lm_stories260k has
float activations; its score is the mean KL divergence from the float model, and `agreement` is over tokens. --outliers:
what RMS normalizations of it hand on has three channels 30 times as large, and the weights behind undo that.
Timings mean little while other work runs on the machine; OMP_NUM_THREADS=1 helps then.
"""
from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from common import SIX, open_zoo, parser, report, shapes

from edgeq import policy
from edgeq.backend import target_named, target_names
from edgeq.conversion.metadata import input_specs
from edgeq.frontends import load_model
from edgeq.inference.reference import run_onnx
from edgeq.metrics import ErrorPower
from edgeq.mixed_precision import TrialBuilder
from edgeq.mixed_precision.bit_allocation import higher_precision_layers
from edgeq.mixed_precision.fidelity import Fidelity
from edgeq.passes import canonicalize
from edgeq.quant.calibrate import CALIBRATORS, calibrate
from edgeq.quant.calibrate.auto import choose_calibrators
from edgeq.quant.methods import Method, method_named
from edgeq.quant.plan import make_plan
from edgeq.quant.quantize import quantize
from edgeq.quant.samples import open_samples
from edgeq.quant.scaling.sites import data_of, store
from edgeq.quant.scaling.streams import find_streams
from edgeq.quant.solve.layer import NO_CORRECTION, Settings
from edgeq.scheme import PerBlock, PerChannel, QuantScheme, QuantType

LM = "lm_stories260k"
LM_TOKENS = 384
MEASURED = "auto, measured layers"  # what `edgeq convert` does; in the other rows rules say which layers keep 8 bits
_BARE = Settings(clip=False, passes=0, refits=0, corrections=(NO_CORRECTION,), bias=False)
ROWS: dict[str, Method] = {
    **{name: method_named(name) for name in (
        "nearest", "sum-preserving", "clip", "hqq", "equalize", "fold-gains+equalize+sum-preserving", "bias")},
    "gptq, full range": Method(settings=_BARE),
    **{name: method_named(name.partition(",")[0]) for name in (
        "gptq", "descent", "adaround", "gptq+descent", "gptq+refit", "gptq+refit+bias", "gptaq+refit+bias", "auto",
        MEASURED, "fold-gains+auto", "equalize+auto", "smooth+auto", "awq+auto", "rotate+auto", "rotate+gptq+descent")},
}


@dataclass(frozen=True)
class Row:
    """agreement: share of samples (tokens) with the float model's top-1. scaled: places whose channels were. seconds:
    to quantize, without calibration.
    """

    model: str
    weights: str
    method: str
    score: float | None
    agreement: float | None
    sqnr_db: float
    scaled: int
    seconds: float


class Bench:
    """One model: loaded, calibrated and run in float once."""

    def __init__(self, zoo: Any, item: str, weight: QuantType, targets: tuple[str, ...], held: bool, calibrator: str,
                 outliers: bool):
        self.zoo, self.item, self.language = zoo, item, item == LM
        sizes = {"input_ids": (1, LM_TOKENS)} if self.language else shapes(zoo, item)
        self.model = load_model(str(zoo.model(item)), inputs=sizes)
        canonicalize(self.model)
        if outliers:
            plant_outliers(self.model)
        activation = None if self.language else QuantType(8, signed=False, symmetric=False)
        self.targets, self.scheme = [target_named(name) for name in targets], QuantScheme(weight, activation)
        self.feeds, self.tests = self._tokens() if self.language else (
            list(zoo.feeds(item, "calib", 100)), list(zoo.feeds(item, "eval")))
        self.held, self.calibrator, self.bits = held, calibrator, weight.bits
        if held:
            self.tests, self.feeds = self.feeds[3::4], [feed for k, feed in enumerate(self.feeds) if k % 4 != 3]
            self.lengths = [LM_TOKENS] * len(self.tests)
        self.expected = self._run(self.model)

    def _tokens(self) -> tuple[list[Any], list[Any]]:
        """All calibration tokens in windows of one length; evaluation samples padded, which a causal model ignores."""
        tokens = np.concatenate([feed["input_ids"][0] for feed in self.zoo.feeds(self.item)])
        windows = tokens[:len(tokens) // LM_TOKENS * LM_TOKENS].reshape(-1, 1, LM_TOKENS)
        samples = [feed["input_ids"] for feed in self.zoo.feeds(self.item, "eval")]
        self.lengths = [ids.shape[1] for ids in samples]
        return ([{"input_ids": window} for window in windows],
                [{"input_ids": np.pad(ids, ((0, 0), (0, LM_TOKENS - ids.shape[1])))} for ids in samples])

    def _run(self, model: ir.Model) -> list[list[Any]]:
        outputs = [list(run.values()) for run in run_onnx(model, self.tests)]
        if self.language:
            outputs = [[logits[0, :length]] for (logits, *_), length in zip(outputs, self.lengths, strict=True)]
        return outputs

    def row(self, weights: str, name: str) -> Row:
        method, bits = ROWS.get(name) or method_named(name), self.bits
        started = time.perf_counter()
        model = self.model.clone()
        scaled = method.scale(model, make_plan(model, self.targets, self.scheme), self.feeds, bits)
        plan = make_plan(model, self.targets, self.scheme)
        scaling = time.perf_counter() - started
        statistics = dict(calibrate(model, plan.sources, self.feeds)) if plan.sources else {}
        chosen = CALIBRATORS[self.calibrator] if self.calibrator != "auto" else choose_calibrators(
            model, plan, statistics, self.feeds[:policy.AUTO_CHOOSING.value],
            self.feeds[policy.AUTO_CHOOSING.value:][:policy.AUTO_JUDGES.value])
        started = time.perf_counter()
        if name == MEASURED:
            samples = open_samples(self.feeds, input_specs(model))
            builder = TrialBuilder(model, self.targets, self.scheme, samples, statistics, chosen, method)
            plan = builder.plan(higher_precision_layers(builder, Fidelity.of(model, samples)).layers)
        graph = quantize(model, plan, statistics, chosen, method.rounding, method.fit(self.feeds, bits), method.search)
        seconds = scaling + time.perf_counter() - started
        got = self._run(graph)
        pairs = [(a[0].astype(np.float64), b[0].astype(np.float64)) for a, b in zip(self.expected, got, strict=True)]
        agreement = np.concatenate([np.ravel(a.argmax(-1) == b.argmax(-1)) for a, b in pairs]).mean()
        score = self._divergence(pairs) if self.language else self._score(got)
        shown = None if self.item in ("fsrcnn_x2", "coco_fastestdet") else float(agreement)
        decibel = ErrorPower.of(*zip(*pairs, strict=True)).sqnr_db
        return Row(self.item, weights, name, score, shown, decibel, len(scaled), seconds)

    def _score(self, outputs: list[list[Any]]) -> float | None:
        if self.held:
            return None
        answers = iter(outputs)
        return float(next(iter(self.zoo.score(self.item, lambda feed: next(answers)).values())))

    @staticmethod
    def _divergence(pairs: list[tuple[Any, Any]]) -> float:
        def logarithms(logits: Any) -> Any:
            logits = logits - logits.max(-1, keepdims=True)
            return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

        found = [(np.exp(logarithms(a)) * (logarithms(a) - logarithms(b))).sum(-1) for a, b in pairs]
        return float(np.concatenate(found).mean())


def plant_outliers(model: ir.Model) -> None:
    """The same float function, with what language models of billions of weights have (see the docstring above)."""
    random = np.random.default_rng(0)
    for stream in find_streams(model.graph):
        for gain in stream.gains:
            factor = np.ones(stream.size, np.float32)
            factor[random.choice(stream.size, 3, replace=False)] = 30
            for weight in (value for value, turn in stream.turns.items() if turn.times is gain):
                store(weight, data_of(weight) / factor[:, None])
            store(gain, data_of(gain) * factor)


def rows(zoo: Any, item: str, names: list[str], bits: int, held: bool, calibrator: str, outliers: bool,
         ) -> Iterator[Row]:
    kinds = {"per channel": QuantType(bits, granularity=PerChannel())}
    if item == LM:
        kinds["blocks of 32"] = QuantType(bits, granularity=PerBlock(32))
    for weights, kind in kinds.items():
        bench = Bench(zoo, item, kind, ("onnxruntime",) if item == LM else target_names(), held, calibrator,
                      outliers)
        for name in names:
            found = bench.row(weights, name)
            print(" ", item, weights, name, found.score, found.agreement, f"{found.sqnr_db:.2f} dB, "
                  f"{found.scaled} scaled, {found.seconds:.1f} s", flush=True)
            yield found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--bits", type=int, default=4)
    options.add_argument("--items", default=",".join((*SIX, LM)))
    options.add_argument("--methods", default=";".join(ROWS), help="separated by semicolons")
    options.add_argument("--held", action="store_true")
    options.add_argument("--calibrator", default="mse")
    options.add_argument("--outliers", action="store_true")
    chosen = options.parse_args()
    zoo = open_zoo(chosen.models)
    found = [row for item in chosen.items.split(",") for row in
             rows(zoo, item, chosen.methods.split(";"), chosen.bits, chosen.held, chosen.calibrator, chosen.outliers)]
    report(found, f"{chosen.bits}-bit weights, at most 100 calibration samples, QDQ graph op by op", chosen.json)


if __name__ == "__main__":
    main()
