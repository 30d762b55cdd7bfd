"""INT8 latency per backend against the float model and against quantize_static's best output, one thread, one process.

    python benchmarks/latency.py [--items NAME,...] [--rounds 30] [--json FILE]

Every variant runs the same sample in turn, round after round, so that a change of the machine's speed hits all of them;
a ratio is of the least times. Core ML has no engine here: its interpreter's time would say nothing about a phone.
"""
from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
from common import SIX, open_zoo, parser, report, shapes

import edgeq_runtime
from edgeq.conversion.pipeline import Options, convert_all
from edgeq.frontends import load_model
from edgeq.passes import canonicalize


@dataclass(frozen=True)
class Row:
    """ratio_float: time of the same engine's float model / this one's, above 1 is faster. ratio_peer: the same to
    quantize_static's output."""

    model: str
    variant: str
    milliseconds: float
    ratio_float: float
    ratio_peer: float | None


def peer(zoo: Any, item: str, folder: Path) -> Path | None:
    """onnxruntime's own quantizer at its best: uint8 activations, int8 weights per channel; None where it fails."""
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    feeds = iter(list(zoo.feeds(item, "calib", 32)))

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Any:
            return next(feeds, None)

    prepared, quantized = folder / "prepared.onnx", folder / "peer.onnx"
    try:
        quant_pre_process(str(zoo.model(item)), str(prepared), skip_symbolic_shape=True)
        quantize_static(str(prepared), str(quantized), Reader(), per_channel=True, activation_type=QuantType.QUInt8,
                        weight_type=QuantType.QInt8)
        onnxruntime.InferenceSession(str(quantized), providers=["CPUExecutionProvider"])
    except Exception as error:
        print(f"{item}: quantize_static's output cannot be used: {str(error)[:150]}")
        return None
    return quantized


def session(path: Path) -> Callable[[Any], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    found = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda feed: found.run(None, feed)


def least(runs: dict[str, Callable[[Any], Any]], feed: Any, rounds: int) -> dict[str, float]:
    best = dict.fromkeys(runs, float("inf"))
    for number in range(rounds + 3):
        for name, run in runs.items():
            started = time.perf_counter()
            run(feed)
            if number >= 3:
                best[name] = min(best[name], time.perf_counter() - started)
    return best


def rows(zoo: Any, item: str, rounds: int, folder: Path) -> list[Row]:
    sizes, feeds = shapes(zoo, item), list(zoo.feeds(item, "calib", 32))
    fixed = load_model(str(zoo.model(item)), inputs=sizes)
    canonicalize(fixed)
    ir.save(fixed, folder / "float.onnx")
    variants = {"onnxruntime float": session(folder / "float.onnx")}
    opened = []
    for bits, calibration in ((32, None), (8, feeds), (4, feeds)):
        options = Options(bits=bits, calibration=calibration, inputs=sizes, verify=False)
        targets = ["tflite"] if bits == 32 else ["onnxruntime", "tflite"]
        for bundle in convert_all(zoo.model(item), targets, options, folder / str(bits)):
            model = edgeq_runtime.load(bundle.path if bundle.path.is_dir() else folder / str(bits), threads=1)
            opened.append(model)
            kind = "float" if bits == 32 else f"{bits} bits"
            variants[f"{bundle.manifest.target} {kind}"] = model.run
    static = peer(zoo, item, folder)
    if static is not None:
        variants["quantize_static"] = session(static)
    times = least(variants, feeds[0], rounds)
    for model in opened:
        model.close()
    return [Row(item, name, 1e3 * seconds, times[f"{name.split()[0]} float" if " " in name else "onnxruntime float"]
                / seconds, times["quantize_static"] / seconds if static is not None else None)
            for name, seconds in times.items()]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--items", default=",".join(SIX))
    options.add_argument("--rounds", type=int, default=30)
    chosen = options.parse_args()
    zoo = open_zoo(chosen.models)
    found = []
    for item in chosen.items.split(","):
        with tempfile.TemporaryDirectory() as folder:
            found += rows(zoo, item, chosen.rounds, Path(folder))
    report(found, "latency of one sample, one thread, least of the rounds", chosen.json)


if __name__ == "__main__":
    main()
