"""Why a written .mlpackage may leave the Neural Engine: rules from Apple's documents and from people who measured it.

Advice only. Where an op runs is decided by the device and its version of the system; the sources even contradict each
other about quantized weights (https://github.com/kasper0406/stablehlo-coreml/issues/110). What counts is a measurement
on the device: Xcode's performance report, or coremltools' MLComputePlan.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgeq.backend import Finding
from edgeq.verification.mlpackage.load import open_package
from edgeq.verification.mlpackage.program import Output, Program, Reference, Step, TensorSpec

GUIDE: Final = "https://apple.github.io/coremltools/docs-guides/source/"
RULES_OF_APPLE: Final = "https://github.com/apple/coreai-models (neural_engine_rules.md)"
HOLLANCE: Final = "https://github.com/hollance/neural-engine/blob/master/docs/unsupported-layers.md"

ROW_BYTES: Final = 64  # the last axis is stored in multiples of it
WASTE: Final = 1 << 16  # bytes; less padding than this is not worth a word
LARGE_INTERFACE: Final = 1 << 20  # bytes of float32 that are cast at every prediction
LARGE_MODEL: Final = 1 << 30  # bytes
LARGEST_NUMBER: Final = 4e4  # two of them still add up to a float16
FEW_LAYERS: Final = 2

ON_CPU: Final = frozenset({
    "lstm", "gru", "rnn", "gather", "gather_along_axis", "gather_nd", "topk", "non_maximum_suppression", "non_zero",
    "cond", "while_loop", "scatter", "scatter_along_axis", "scatter_nd", "argsort",
})
LAYERS: Final = frozenset({"conv", "conv_transpose", "linear", "matmul", "einsum", "scaled_dot_product_attention"})
CONVOLUTIONS: Final = frozenset({"conv", "conv_transpose"})
POOLS: Final = frozenset({"max_pool", "avg_pool", "l2_pool"})
MOVES: Final = frozenset({"cast", "identity", "quantize", "dequantize"})  # what a float32 interface brings along


Hits = Iterator[tuple[str, str, str]]  # (kind of the op, name of the op, what is the matter)


@dataclass(frozen=True, slots=True)
class Rule:
    name: str
    check: Callable[[View], Hits]
    source: str
    remedy: str


@dataclass(frozen=True)
class View:
    """A package as the rules see it."""

    program: Program
    bytes: int

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        return self.program.steps

    @cached_property
    def interface(self) -> tuple[TensorSpec, ...]:
        return (*self.program.inputs, *self.program.outputs)

    @cached_property
    def outputs(self) -> tuple[tuple[Step, Output], ...]:
        """Every tensor that an op computes."""
        return tuple((step, output) for step in self.steps for output in step.outputs if output.type is not None)

    @cached_property
    def shapes(self) -> Mapping[str, tuple[int | None, ...]]:
        return {spec.name: spec.shape for spec in self.program.inputs} | {
            output.name: output.type.shape for _, output in self.outputs if output.type is not None}

    @cached_property
    def tables(self) -> frozenset[int]:
        """The constants, by identity, that are stored as a table and indices."""
        return frozenset(id(value) for step, value in self.program.compressed if step.op == "constexpr_lut_to_dense")


def lint(package: Path) -> list[Finding]:
    """One finding for every rule and kind of op that a package breaks, the first op named, the others counted.

    Raises:
        BundleError: files that are missing or damaged, or no ML program.
    """
    program = open_package(package, allow_unsupported=True)
    view = View(program, sum(path.stat().st_size for path in package.rglob("*") if path.is_file()))
    return [finding for rule in RULES for finding in _findings(rule, view)]


def _findings(rule: Rule, view: View) -> Iterator[Finding]:
    hits: dict[str, list[tuple[str, str]]] = {}
    for kind, name, message in rule.check(view):
        hits.setdefault(kind, []).append((name, message))
    for found in hits.values():
        (name, message), *more = found
        text = f"{message} (and {len(more)} more)" if more else message
        yield Finding(rule.name, name, text, rule.source, rule.remedy)


# ---------------------------------------------------------------------- the rules
def _cpu_ops(view: View) -> Hits:
    for step in view.steps:
        if step.op in ON_CPU:
            yield step.op, step.name, f"{step.op} usually runs on the CPU"


def _ranks(view: View) -> Hits:
    for step, output in view.outputs:
        assert output.type is not None
        rank = len(output.type.shape)
        if rank > 4:
            yield "rank", step.name, f"{step.op} computes rank {rank}; the Neural Engine is made for 4"


def _free_sizes(view: View) -> Hits:
    for spec in view.program.inputs:
        if None in spec.shape:
            yield "input", spec.name, f"input '{spec.name}' has a free size"


def _sequences(view: View) -> Hits:
    for step in view.steps:
        if step.op == "scaled_dot_product_attention":
            yield step.op, step.name, "fused attention is a form for the GPU"
        elif step.op == "linear" and len(_shape(view, step.inputs.get("x"))) > 2:
            yield step.op, step.name, "a linear layer over a sequence"


def _padding(view: View) -> Hits:
    for spec in view.interface:
        waste = _padding_bytes(spec.shape)
        if waste > WASTE:
            yield "interface", spec.name, (f"the last axis of '{spec.name}' has {spec.shape[-1]} elements; stored in "
                                           f"rows of {ROW_BYTES} bytes, it takes {waste:,} bytes more")


def _padding_bytes(shape: tuple[int | None, ...]) -> int:
    """Of a float16 tensor whose last axis is rounded up to whole rows."""
    if not shape or None in shape:
        return 0
    sizes = [int(size or 0) for size in shape]
    row = sizes[-1] * 2
    return int(np.prod(sizes[:-1])) * (-row % ROW_BYTES)


def _strides(view: View) -> Hits:
    for step in view.steps:
        if step.op not in CONVOLUTIONS:
            continue
        largest = int(np.max(step.inputs.get("strides", 1)))
        if id(step.inputs.get("weight")) in view.tables and largest > 2:
            yield "table", step.name, f"stride {largest} over weights in a table; up to 2 stays"
        elif largest > 2 and _without(largest, 2, 3) > 1:
            yield step.op, step.name, f"stride {largest}; only products of 2 and 3 stay"


def _without(number: int, *factors: int) -> int:
    for factor in factors:
        while number % factor == 0:
            number //= factor
    return number


def _pools(view: View) -> Hits:
    for step in view.steps:
        if step.op not in POOLS:
            continue
        strides, kernel = (np.atleast_1d(step.inputs.get(name, 1)) for name in ("strides", "kernel_sizes"))
        if not set(strides.tolist()) <= {1, 2, 4}:
            yield "stride", step.name, f"{step.op} with strides {strides.tolist()}; 2 and 4 stay"
        if kernel.max() > 13:
            yield "kernel", step.name, f"{step.op} over {kernel.max()} elements; above 13 it may not stay"


def _blocks(view: View) -> Hits:
    for step, value in view.program.compressed:
        factors = step.inputs.get("scale" if step.op == "constexpr_blockwise_shift_scale" else "lut")
        shape = np.shape(factors)[:value.ndim] if isinstance(factors, np.ndarray) else ()
        parts = [part for part in shape if part > 1]
        if len(shape) == value.ndim and (len(parts) > 1 or any(
                1 < part < size for part, size in zip(shape, value.shape, strict=True))):
            yield step.op, step.name, "weights with a scale or table for each block of a channel"


def _nested(view: View) -> Hits:
    for step, _ in view.program.compressed:
        if step.op == "constexpr_blockwise_shift_scale" and id(step.inputs.get("data")) in view.tables:
            yield step.op, step.name, "a scale over weights from a table"


def _zero_points(view: View) -> Hits:
    for step in view.steps:
        if step.op == "quantize" and np.any(step.inputs.get("zero_point", 0)):
            yield step.op, step.name, "activations in 8 bits with a zero point; the fast path multiplies without one"


def _float32_interface(view: View) -> Hits:
    for spec in view.interface:
        size = 4 * int(np.prod([n or 1 for n in spec.shape]))
        if spec.dtype == "float32" and size > LARGE_INTERFACE:
            yield "interface", spec.name, f"'{spec.name}' is float32: {size:,} bytes are cast at every prediction"


def _float32_ops(view: View) -> Hits:
    for step, output in view.outputs:
        assert output.type is not None
        if output.type.element.name == "float32" and step.op not in MOVES:
            yield "float32", step.name, f"{step.op} computes in float32, which the Neural Engine does not"


def _size(view: View) -> Hits:
    if view.bytes > LARGE_MODEL:
        yield "package", "package", f"{view.bytes:,} bytes; above 1 GB a model may not load"


def _numbers(view: View) -> Hits:
    for step in view.steps:
        for name, data in step.inputs.items():
            values = np.asarray(data) if isinstance(data, np.ndarray | float) else np.zeros(0)
            if values.dtype.kind == "f" and values.size and not np.abs(values).max() <= LARGEST_NUMBER:
                yield step.op, step.name, f"the constant {name} of {step.op} has numbers above {LARGEST_NUMBER:g}"


def _few_layers(view: View) -> Hits:
    count = sum(step.op in LAYERS for step in view.steps)
    if count <= FEW_LAYERS:
        yield "package", "package", f"{count} layers; a model so small is usually placed on the CPU"


def _shape(view: View, operand: Any) -> tuple[int | None, ...]:
    return view.shapes.get(operand.name, ()) if isinstance(operand, Reference) else np.shape(operand)


RULES: Final = (
    Rule("ops of the CPU", _cpu_ops, HOLLANCE, "move it to the ends of the model or into the application"),
    Rule("rank", _ranks, "https://github.com/apple/coremltools/issues/2536",
         "fold axes: a batch of 1, or heads, into one"),
    Rule("free sizes", _free_sizes, f"{GUIDE}flexible-inputs.html", "fix them with --input NAME:SHAPE"),
    Rule("sequences", _sequences, "https://machinelearning.apple.com/research/neural-engine-transformers",
         "export 1x1 convolutions over (batch, channels, 1, sequence)"),
    Rule("last axis", _padding, RULES_OF_APPLE, "put an axis of at least 32 elements last"),
    Rule("strides", _strides, RULES_OF_APPLE, "split the stride over two layers; or --bits 8 in place of 4"),
    Rule("pooling", _pools, RULES_OF_APPLE, "pool in two steps"),
    Rule("blocks", _blocks, "https://github.com/apple/coremltools/issues/2510", "--weights per-channel"),
    Rule("nested tables", _nested, "https://github.com/apple/coremltools/pull/2688", "fold the scale into the table"),
    Rule("zero points", _zero_points, f"{GUIDE}opt-quantization-perf.html",
         "signed activations whose range is symmetric; or weights only (no --calibration)"),
    Rule("float32 interface", _float32_interface, f"{GUIDE}typed-execution.html", "smaller inputs and outputs"),
    Rule("float32 ops", _float32_ops, f"{GUIDE}typed-execution.html",
         "--bits 16 in place of 32; what feeds a logarithm of a power belongs into the application"),
    Rule("size", _size, f"{GUIDE}mlmodel-utilities.html", "--bits 4, or split the model"),
    Rule("large numbers", _numbers, "https://github.com/apple/coremltools/pull/2669", "masks of -1e4 in place of -inf"),
    Rule("few layers", _few_layers, "https://github.com/kasper0406/stablehlo-coreml/issues/110", "--compute cpu"),
)
