"""The self-test of a bundle: a few samples, what devices must make of them, how far these may be off, and why.

    what is computed             on another processor
    ---------------------------  -----------------------------------------------------------------------------------
    integers from end to end     the same bits where the engine says so; else its kernels round in other places
    integers and floats in turn  a float near a tie rounds to the other step, and later layers follow
    4-bit blocks                 activations rounded to int8 where there are instructions for it
    floats                       sums in another order
    half precision               sums in another order, and kernels that the device chooses

Which of them an engine computes is `Backend.arithmetic`. `benchmarks/boards.py` measures it on Cortex-A7, A53, A72, A76
and A710 against the machine that converts.
"""
from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.backend import Arithmetic, Artifact
from edgeq.graph import constant, moved_from
from edgeq.inference.reference import Arrays
from edgeq.ops import KEEPING_ALL
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE
from edgeq.verification.compare import Difference
from edgeq.verification.verify_artifact import Verification
from edgeq_runtime.manifest import TensorSpec
from edgeq_runtime.selftest import Case, Tolerance

SAMPLES: Final = 2
BYTES: Final = 1 << 18  # of inputs, beyond the first sample: the proof should not outgrow the model
FLOAT_ERROR: Final = 1e-4  # of an output's largest value
HALF_ERROR: Final = 2.0 ** -8  # the same in half precision, whose numbers are 2**-11 apart


def selftest_cases(feeds: Sequence[Arrays], outputs: Sequence[Arrays]) -> list[Case]:
    """The samples that a device will repeat."""
    size = sum(array.nbytes for array in feeds[0].values())
    count = max(1, min(SAMPLES, BYTES // max(1, size)))
    return [Case(feed, output) for feed, output in zip(feeds[:count], outputs[:count], strict=True)]


def selftest_tolerance(graph: ir.Model, artifact: Artifact, arithmetic: Arithmetic, verification: Verification,
                       outputs: Sequence[Arrays]) -> Tolerance:
    """How far another device may be from these outputs; the table at the top says why. graph: the quantized one.
    arithmetic: of the backend that wrote the artifact.
    """
    largest = {name: max(_largest(sample[name]) for sample in outputs) for name in outputs[0]}
    steps = {str(value.name): _step(value) for value in graph.graph.outputs}
    if arithmetic.same_bits(graph.graph, artifact):
        tails = {name: FLOAT_ERROR * value for name, value in largest.items() if not steps[name]}
        return Tolerance("integer kernels give the same bits on every processor" + (
            "; the floats behind them may differ by 1e-4 of the largest" if tails else ""), error=tails)
    if not _rounds(graph.graph, artifact, arithmetic):
        share = HALF_ERROR if arithmetic.half else FLOAT_ERROR
        return Tolerance(f"floats are summed in another order on another processor: {share:.1g} of the largest value",
                         error={name: share * value for name, value in largest.items()})
    floor = {name: (HALF_ERROR if arithmetic.half else 0.0) * value for name, value in largest.items()}
    quantized, engine = (_noise(found, outputs) for found in (verification.quantized, verification.graph))
    measured = {name: max(one.max_abs for one in found) for name, found in _whole(verification.graph, largest).items()}
    return Tolerance(
        "another processor rounds in other places: one step of the output, and twice what this engine differs from the "
        "graph run op by op or, if that is more, what quantization itself adds on average",
        error={name: max(2 * measured[name], quantized[name], floor[name]) + steps[name] for name in largest},
        noise={name: max(2 * engine[name], quantized[name], floor[name]) + steps[name] for name in largest})


def in_steps(tolerance: Tolerance, specs: Iterable[TensorSpec]) -> Tolerance:
    """The same, where outputs are integers of a grid."""
    scales = {spec.name: spec.scale for spec in specs}

    def stepped(limits: Mapping[str, float]) -> dict[str, float]:
        return {name: limit / (scales[name] or 1.0) for name, limit in limits.items()}

    return replace(tolerance, error=stepped(tolerance.error), noise=stepped(tolerance.noise))


def _noise(found: Sequence[Difference], outputs: Sequence[Arrays]) -> dict[str, float]:
    """Root mean square of the differences of each output; 0 where they are not numbers."""
    sizes = {name: sum(sample[name].size for sample in outputs) for name in outputs[0]}
    return {name: math.sqrt(sum(one.noise for one in parts if one.noise >= 0) / sizes[name])
            for name, parts in _whole(found, sizes).items()}


def _whole(found: Sequence[Difference], names: Collection[str]) -> dict[str, list[Difference]]:
    """By output: one difference, or those of its columns, "y[0:4]" and "y[4:84]", which were measured apart."""
    return {name: [one for one in found if one.output == name or (
        one.output not in names and one.output.startswith(f"{name}["))] for name in names}


def _largest(array: NDArray[Any]) -> float:
    return float(np.abs(np.nan_to_num(array.astype(np.float64), posinf=0.0, neginf=0.0)).max(initial=0.0))


def _step(value: ir.Value) -> float:
    """The step of an output that leaves the integers last, 0 for one that does not."""
    producer = moved_from(value, KEEPING_ALL).producer()
    scale = constant(producer.inputs[1]) if producer is not None and producer.op_type == DEQUANTIZE else None
    return 0.0 if scale is None else float(scale.max())


def _rounds(graph: ir.Graph, artifact: Artifact, arithmetic: Arithmetic) -> bool:
    if arithmetic.rounds is not None:
        return arithmetic.rounds(graph, artifact)
    return any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in graph)
