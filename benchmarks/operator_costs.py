"""What operators cost on each engine, on floats and on integers: the tables that predict the time of a plan.

    python benchmarks/operator_costs.py [--targets onnxruntime,tflite] [--only REGEX] [--rounds 12] [--write]
    python benchmarks/operator_costs.py --check [--items NAME,...] [--json FILE]

Chains of one kind of operator (`operator_chains.py`) run with one thread; a longer chain less a shorter one leaves what
it costs alone. Least times of interleaved rounds, so that other load on the machine hits all. To these the nanoseconds
of each kind are fitted, never below 0, by least squares of relative errors. --write: into the file that the backend's
`costs` names; it takes a quarter of an hour. --check: the real models, which no cost was fitted to: in float, in 8 bits
and with some of the layers in float, predicted and measured. Needs scipy.
"""
from __future__ import annotations

import json
import platform
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from common import open_zoo, padded, parser, report, shapes
from numpy.typing import NDArray
from operator_chains import Chain, chains

from edgeq.backend import EmitOptions, backend_named
from edgeq.conversion.metadata import input_specs
from edgeq.conversion.options import Options
from edgeq.conversion.quantization import plain
from edgeq.conversion.request import read_request
from edgeq.conversion.timing import least
from edgeq.frontends import load_model
from edgeq.graph import label
from edgeq.mixed_precision import TrialBuilder, observed
from edgeq.mixed_precision.plan_time import OperatorCosts, Quantities, plan_quantities
from edgeq.passes import canonicalize
from edgeq.quant.calibrate import CALIBRATORS, calibrate
from edgeq.quant.plan import Precision
from edgeq.quant.samples import open_samples

TARGETS: Final = ("onnxruntime", "tflite")
# What the errors of mixed chains count: only these show what goes between floats and integers. ONNX Runtime's cost more
# than a sum can say, as layouts change there too.
BOUNDARIES: Final = {"onnxruntime": 3.0, "tflite": 1.0}
LEAST: Final = 500.0  # nanoseconds: below, a clock's own errors count for more
Run = Callable[[], Any]
Feeds = Sequence[Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Observation:
    """nanoseconds: of these quantities. whole: of the run that they are a part of. weight: what its error counts."""

    name: str
    quantities: Quantities
    nanoseconds: float
    whole: float
    weight: float = 1.0


@dataclass(frozen=True)
class Row:
    """variant: which layers compute in float. milliseconds of one run. ratio_*: to the same engine's float."""

    model: str
    target: str
    variant: str
    measured: float
    predicted: float
    error: float
    ratio_measured: float
    ratio_predicted: float


class Network:
    """One canonical float network, to be run by one engine under several plans. in_float: node -> what it gets."""

    def __init__(self, network: ir.Model, target: str, feeds: Feeds, folder: Path):
        self.target, self.feed, self.folder, self.network = target, feeds[0], folder, network
        request = plain(read_request([target], Options(calibration=feeds)))
        samples = open_samples(list(feeds), input_specs(network))
        empty = TrialBuilder(network, request.targets, request.scheme, samples, {}, CALIBRATORS["minmax"],
                             request.method)
        self.builder = replace(empty, statistics=calibrate(network, observed(empty.plan({}), network), samples))

    def in_float(self) -> tuple[Run, Quantities]:
        return self._opened(self.network), plan_quantities(self.builder.units, None)

    def quantized(self, layers: Mapping[str, Precision]) -> tuple[Run, Quantities]:
        built = self.builder.build(layers)
        return self._opened(built.graph), plan_quantities(self.builder.units, built.plan)

    def _opened(self, graph: ir.Model) -> Run:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        artifact = backend_named(self.target).emit(graph, folder, EmitOptions(precision="float32"))
        if self.target == "onnxruntime":
            return _session(folder / artifact.entry, artifact.options.get("session_options", {}), self.feed)
        return _interpreter(folder / artifact.entry, self.feed)


def _session(path: Path, entries: Mapping[str, str], feed: Mapping[str, NDArray[Any]]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feed)


def _interpreter(path: Path, feed: Mapping[str, NDArray[Any]]) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    runner = interpreter.get_signature_runner()
    details = runner.get_input_details()
    runner(**{name: np.asarray(feed[name], details[name]["dtype"]) for name in details})
    invoke: Run = interpreter.invoke
    return invoke


def observe(chain: Chain, target: str, rounds: int) -> Iterator[Observation]:
    """In float and in 8 bits, or with the layers that `chain.mixed` finds in float."""
    feeds = [{"x": np.random.default_rng(k).normal(size=chain.shape).astype(np.float32)} for k in range(3)]
    found: list[tuple[Run, Quantities]] = []
    with tempfile.TemporaryDirectory() as folder:
        for long in (True, False):
            path = Path(folder) / "chain.onnx"
            onnx.save(chain.network(long=long), path)
            graph = load_model(str(path))
            canonicalize(graph)
            network = Network(graph, target, feeds, Path(folder))
            kept = [label(node) for node in graph.graph if chain.mixed and re.search(
                chain.mixed, node.outputs[0].name or "")]
            found += [] if kept else [network.in_float()]
            found.append(network.quantized(dict.fromkeys(kept, Precision(chain.bits, False))))
        times, _ = least([run for run, _ in found], rounds)
    for k in range(len(found) // 2):
        (_, more), (_, fewer) = found[k], found[k + len(found) // 2]
        difference = Counter(more)
        difference.subtract(fewer)
        whole, short = 1e9 * times[k], 1e9 * times[k + len(found) // 2]
        yield Observation(f"{chain.name} ({k})", difference, whole - short, whole,
                          BOUNDARIES[target] if chain.mixed else 1.0)
        yield Observation(f"{chain.name} ({k}), short", fewer, short, short)


def fit(found: Sequence[Observation]) -> dict[str, dict[str, float]]:
    """Nanoseconds by kind and quantity: least squares of relative errors, none below 0."""
    from scipy.optimize import nnls

    keys = sorted({key for each in found for key in each.quantities})
    weights = np.array([each.weight / max(each.nanoseconds, .05 * each.whole, LEAST) for each in found])
    table = np.array([[float(each.quantities[key]) for key in keys] for each in found]) * weights[:, None]
    scale = np.maximum(np.abs(table).max(0), 1e-30)
    solution, _ = nnls(table / scale, np.array([each.nanoseconds for each in found]) * weights, maxiter=10**6)
    errors = np.abs(table / scale @ solution - np.array([each.nanoseconds for each in found]) * weights)
    worst = np.argsort(-errors)[:10]
    print(f"{len(found)} chains, median error {np.median(errors):.3f}, 9 of 10 below {np.quantile(errors, .9):.3f}; "
          "worst: " + ", ".join(f"{found[k].name} {errors[k]:.2f}" for k in worst))
    costs: dict[str, dict[str, float]] = {}
    for (kind, quantity), nanoseconds in zip(keys, solution / scale, strict=True):
        costs.setdefault(kind, {}).update({quantity: float(f"{nanoseconds:.3g}")} if nanoseconds > 0 else {})
    return costs


def measure(targets: Sequence[str], only: str, rounds: int) -> dict[str, OperatorCosts]:
    found: dict[str, list[Observation]] = {target: [] for target in targets}
    for chain in chains():
        if re.search(only, chain.name):
            for target, seen in found.items():
                own = list(observe(chain, target, rounds))
                seen += own
                times = "  ".join(f"{each.nanoseconds / 1e3:.1f}" for each in own[::2])
                print(f"{target:12s} {chain.name:60s} {times} us", flush=True)
    return {target: OperatorCosts(_engine(target), _machine(), fit(seen)) for target, seen in found.items()}


def _file(target: str) -> Path:
    path = backend_named(target).costs
    assert path is not None, target
    return path


def _engine(target: str) -> str:
    from importlib.metadata import version

    package = {"tflite": "ai-edge-litert"}.get(target, target)
    return f"{package} {version(package)}"


def _machine() -> str:
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) or [platform.processor()]
    return f"{platform.machine()}, {names[0]}, one thread"


def check(targets: Sequence[str], models: Path, items: str, rounds: int) -> Iterator[Row]:
    zoo = open_zoo(models)
    for item in items.split(",") if items else zoo.ids:
        feeds = [padded(item, feed) for feed in zoo.feeds(item, "calib", 6)]
        for target in targets:
            costs = OperatorCosts.read(_file(target))
            graph = load_model(zoo.model(item), inputs=shapes(zoo, item))
            canonicalize(graph)
            with tempfile.TemporaryDirectory() as folder:
                network = Network(graph, target, feeds, Path(folder))
                layers = [weight.node for weight in network.builder.plan({}).weights]
                plans = {"8 bits": [], "every second in float": layers[::2],
                         "first third in float": layers[:len(layers) // 3]}
                found = {"float": network.in_float()} | {
                    name: network.quantized(dict.fromkeys(kept, Precision(16, False))) for name, kept in plans.items()}
                times, _ = least([run for run, _ in found.values()], rounds)
            predicted = [costs.of(quantities) / 1e6 for _, quantities in found.values()]
            for name, seconds, guess in zip(found, times, predicted, strict=True):
                yield Row(item, target, name, 1e3 * seconds, guess, guess / (1e3 * seconds) - 1,
                          seconds / times[0], guess / predicted[0])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--targets", default=",".join(TARGETS))
    options.add_argument("--only", default="", help="a regular expression on the names of the chains")
    options.add_argument("--items", default="")
    options.add_argument("--rounds", type=int, default=12)
    options.add_argument("--write", action="store_true")
    options.add_argument("--check", action="store_true")
    given = options.parse_args()
    targets = given.targets.split(",")
    if given.check:
        from scipy.stats import spearmanr

        rows = list(check(targets, given.models, given.items, given.rounds))
        for target in targets:
            own = [row for row in rows if row.target == target]
            rank = spearmanr([row.ratio_measured for row in own], [row.ratio_predicted for row in own])[0]
            close = sum(abs(row.ratio_predicted / row.ratio_measured - 1) <= .15 for row in own)
            print(f"{target}: rank correlation of times to float's {rank:.3f}, {close} of {len(own)} within 15 %")
        report(rows, "time of a plan, predicted and measured", given.json)
        return
    for target, costs in measure(targets, given.only, given.rounds).items():
        if given.write:
            _file(target).write_text(json.dumps(asdict(costs), indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
