"""Whole architectures on every target, in float and in 8 bits, against onnxruntime: the table of docs/architectures.md.

    python benchmarks/architectures.py [--only REGEX] [--targets tflite,...] [--cache FOLDER] [--document FILE]

Needs `pip install -r benchmarks/requirements.txt`. Every net is built with random weights (nothing is downloaded),
exported by torch's dynamo exporter, and measured in a process of its own. Exports and measurements stay in the cache,
build/architectures; with --only, the table is written again from those measured now and the cached rest.

Float: converted at 32 bits; the largest difference from onnxruntime on the exported file, relative to the largest
output, is to be 1e-4 at most. 8 bits: weights and activations, calibrated with 8 generated samples with structure in
them, since random weights have no real data; the distance from float (mean over samples of the root mean square) of
what was written, divided by that of onnxruntime on the same QDQ file, is to be 1.05 at most. Both on 16 other samples,
for the worst output; a ratio beyond its limit is measured again, on 192 others.
"""
from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))  # for `nets`, also when a test imports this file

ROOT: Final = Path(__file__).resolve().parents[1]
TARGETS: Final = ("onnxruntime", "tflite", "coreml")
BITS: Final = (32, 8)
CALIBRATION: Final = 8
SAMPLES: Final = 16
MORE_SAMPLES: Final = 192  # when the ratio is beyond its limit: of 16 samples it varies by a tenth or two by chance
SECONDS: Final = 600  # for one net
FLOAT_LIMIT, RATIO_LIMIT = 1e-4, 1.05


@dataclass(frozen=True)
class Cell:
    """One net, one target, one kind.

    status: good, off (beyond the limit), refused, failed. value: error or ratio. sqnr_db: of the 8-bit outputs against
    float. peer_db: the same of onnxruntime's own quantizer. transposes: TRANSPOSE operators in the .tflite. float_ops:
    ops of the 8-bit artifact that compute in float.
    """

    net: str
    target: str
    bits: int
    status: str
    value: float | None = None
    sqnr_db: float | None = None
    peer_db: float | None = None
    transposes: int | None = None
    float_ops: int | None = None
    seconds: float = 0.0
    reason: str = ""


def export(net: Any, path: Path) -> None:
    """Write the net as ONNX, with the input names of the catalogue."""
    import onnx_ir as ir
    import torch

    from edgeq.frontends.torch import from_exported

    example = tuple(torch.from_numpy(array) for array in net.samples(1, seed=0)[0].values())
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # torch warns about its own recurrent layers
        model, _ = from_exported(torch.export.export(net.module(), example))
    for value, name in zip(model.graph.inputs, net.inputs, strict=True):
        value.name = name
    unfinished = path.with_suffix(".part")
    ir.save(model, unfinished)
    unfinished.replace(path)


def run_file(path: Path, feeds: Sequence[Any]) -> list[list[Any]]:
    """onnxruntime, op by op: fused kernels round elsewhere, and some are wrong on random nets (see the document)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [session.run(None, {i.name: feed[i.name] for i in session.get_inputs()}) for feed in feeds]


def largest_error(expected: Sequence[Sequence[Any]], got: Sequence[Sequence[Any]]) -> float:
    """Largest difference / largest value, over samples, of the worst output."""
    errors = []
    for e, g in zip(zip(*expected, strict=True), zip(*got, strict=True), strict=True):
        a, b = np.stack(e).astype(np.float64), np.stack(g).astype(np.float64)
        errors.append(float(np.abs(a - b).max() / max(np.abs(a).max(), 1e-30)))
    return float(np.max(errors))  # NaN wins


def distance_ratio(exact: Sequence[Sequence[Any]], graph: Sequence[Sequence[Any]], got: Sequence[Sequence[Any]],
                   ) -> tuple[float, float]:
    """(distance of `got` from float / distance of `graph` from float, SQNR of `got` in dB), of the worst output.

    A distance is the mean over samples of the root mean square. An error of FLOAT_LIMIT is added to both: outputs that
    stayed float have no quantization error to divide by.
    """
    ratios, sqnr = [], []
    for outputs in zip(zip(*exact, strict=True), zip(*graph, strict=True), zip(*got, strict=True), strict=True):
        e, q, g = (np.stack(o).reshape(len(exact), -1).astype(np.float64) for o in outputs)
        floor = FLOAT_LIMIT * _rms(e).mean()
        ratios.append((_rms(g - e).mean() + floor) / (_rms(q - e).mean() + floor))
        sqnr.append(20 * np.log10(_rms(e).mean() / (_rms(g - e).mean() + floor)))
    return float(np.max(ratios)), float(np.min(sqnr))


def _rms(samples: Any) -> Any:
    """[samples, values] -> [samples]."""
    return np.sqrt((samples ** 2).mean(1))


def run_bundle(path: Path, feeds: Sequence[Any]) -> list[list[Any]]:
    import edgeq_runtime

    with edgeq_runtime.load(path, threads=1) as model:
        return [list(model.run(feed).values()) for feed in feeds]


def transposes(path: Path) -> int:
    """How many TRANSPOSE operators a .tflite has."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    return sum(codes[op.opcodeIndex] == schema.BuiltinOperator.TRANSPOSE
               for graph in model.subgraphs for op in graph.operators)


def compared(model: Path, qdq: Path, bundle: Path, feeds: Sequence[Any]) -> tuple[float, float | None]:
    """(error, None) of a float bundle, (ratio of distances, SQNR in dB) of one with a QDQ graph."""
    exact, got = run_file(model, feeds), run_bundle(bundle, feeds)
    if not qdq.exists():
        return largest_error(exact, got), None
    return distance_ratio(exact, run_file(qdq, feeds), got)


def peer(net: Any, path: Path) -> float | None:
    """SQNR in dB of what onnxruntime's quantize_static makes of the same file and samples; None where it fails."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(net.samples(CALIBRATION, seed=1))

        def get_next(self) -> Any:
            return next(self.feeds, None)

    feeds = net.samples(SAMPLES, seed=2)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "made.onnx"
        try:
            quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
            quantize_static(str(prepared), str(made), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
                            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
            exact, got = run_file(path, feeds), run_file(made, feeds)
        except Exception:
            return None
    return distance_ratio(exact, got, got)[1]


def measure(net: Any, path: Path, target: str, bits: int) -> Cell:
    """Convert, run, compare; what goes wrong is the cell's reason."""
    from edgeq import convert
    from edgeq.errors import EdgeqError

    calibration = net.samples(CALIBRATION, seed=1)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        more = {"calibration": calibration, "keep_qdq": folder / "qdq.onnx"} if bits == 8 else {}
        try:
            bundle = convert(path, target=target, bits=bits, output=folder / "out", verify=False, **more)
            seconds = time.perf_counter() - started
            value, sqnr = compared(path, folder / "qdq.onnx", bundle.path, net.samples(SAMPLES, seed=2))
            if bits == 8 and value > RATIO_LIMIT:
                value, sqnr = compared(path, folder / "qdq.onnx", bundle.path, net.samples(MORE_SAMPLES, seed=3))
        except EdgeqError as error:
            return Cell(net.name, target, bits, "refused", seconds=time.perf_counter() - started, reason=str(error))
        except Exception:
            return Cell(net.name, target, bits, "failed", reason=traceback.format_exc()[-700:])
        good = value <= (RATIO_LIMIT if bits == 8 else FLOAT_LIMIT)
        report = bundle.report
        return Cell(net.name, target, bits, "good" if good else "off", value, sqnr, None,
                    transposes(bundle.path / bundle.manifest.entry) if target == "tflite" else None,
                    len(report["float_on_this_engine"]) + len(report["quantization"].get("kept_float", ()))
                    if bits == 8 else None, seconds=seconds)


def _worker(net: Any, cache: Path, targets: Sequence[str], pipe: Connection, quiet: bool) -> None:
    import torch

    torch.set_num_threads(1)
    with open(os.devnull, "w") as null, contextlib.ExitStack() as stack:
        if quiet:
            stack.enter_context(contextlib.redirect_stdout(null))
            stack.enter_context(contextlib.redirect_stderr(null))
            os.dup2(null.fileno(), 1)
            os.dup2(null.fileno(), 2)
        path = cache / f"{net.name}.onnx"
        if not path.exists():
            try:
                export(net, path)
            except Exception:
                reason = "export: " + traceback.format_exc()[-700:]
                for target in targets:
                    for bits in BITS:
                        pipe.send(Cell(net.name, target, bits, "failed", reason=reason))
                return
        for target in targets:
            for bits in BITS:
                cell = measure(net, path, target, bits)
                pipe.send(replace(cell, peer_db=peer(net, path)) if (target, bits) == ("onnxruntime", 8) else cell)


def isolated(net: Any, cache: Path, targets: Sequence[str], quiet: bool = True) -> list[Cell]:
    """The cells of one net, from a forked process; those that it did not live to give are failures."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_worker, args=(net, cache, targets, theirs, quiet))
    process.start()
    theirs.close()
    cells: list[Cell] = []
    end, reason = time.monotonic() + SECONDS, f"no answer in {SECONDS} seconds"
    try:
        while len(cells) < len(targets) * len(BITS) and ours.poll(max(0.0, end - time.monotonic())):
            cells.append(ours.recv())
    except EOFError:
        process.join()
        reason = f"the process died with exit code {process.exitcode}"
    finally:
        process.kill()
        process.join()
    done = {(cell.target, cell.bits) for cell in cells}
    return cells + [Cell(net.name, target, bits, "failed", reason=reason)
                    for target in targets for bits in BITS if (target, bits) not in done]


def measure_all(nets: Sequence[Any], cache: Path, targets: Sequence[str], quiet: bool = True) -> Iterator[list[Cell]]:
    for module in ("torch.onnx", "transformers", "onnxruntime", "onnxscript", "edgeq.conversion.pipeline",
                   "edgeq_runtime", "ai_edge_litert.interpreter", "coremltools", "edgeq.verification.mlpackage"):
        with open(os.devnull, "w") as null, contextlib.redirect_stderr(null):
            importlib.import_module(module)  # once, before the processes fork
    for net in nets:
        cells = isolated(net, cache, targets, quiet)
        store = cache / f"{net.name}.json"
        kept = [cell for cell in load(store) if cell.target not in targets]
        store.write_text(json.dumps([asdict(cell) for cell in kept + cells], indent=1) + "\n")
        yield cells


def load(path: Path) -> list[Cell]:
    return [Cell(**row) for row in json.loads(path.read_text())] if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a regular expression on the names of the nets")
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "architectures")
    parser.add_argument("--document", type=Path, default=ROOT / "docs" / "architectures.md")
    parser.add_argument("--loud", action="store_true", help="let the nets' processes print")
    options = parser.parse_args()
    from nets.catalogue import NETS
    from nets.document import document

    options.cache.mkdir(parents=True, exist_ok=True)
    chosen = [net for net in NETS if re.search(options.only, net.name)]
    for cells in measure_all(chosen, options.cache, options.targets.split(","), not options.loud):
        for cell in cells:
            value = f"{cell.value:.3g}" if cell.value is not None else cell.reason
            print(f"{cell.net:18} {cell.target:12} {cell.bits:2} {cell.status:8} {value} sqnr={cell.sqnr_db or 0:.1f} "
                  f"T={cell.transposes} F={cell.float_ops} {cell.seconds:.1f}s", flush=True)
    found = [(net, load(options.cache / f"{net.name}.json")) for net in NETS]
    missing = [net.name for net, cells in found if len(cells) < len(TARGETS) * len(BITS)]
    if missing:
        print(f"{options.document.name} is not written: not measured yet are {', '.join(missing)}")
        return
    options.document.write_text(document(found))
    print(f"wrote {options.document}")


if __name__ == "__main__":
    main()
