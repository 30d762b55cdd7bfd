"""What ONNX Runtime computes on another processor: the same bits, where it is integers from end to end."""
from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from edgeq.backend import Artifact
from edgeq.graph import is_constant
from edgeq.ops import LIMITING
from edgeq.quant.qdq import DEQUANTIZE, QUANTIZE


def rounds(graph: ir.Graph, artifact: Artifact) -> bool:
    """Whether anything is rounded while it runs: lone integer weights become floats again at load, unless they come in
    blocks.
    """
    operators = {node.op_type for node in graph}
    return QUANTIZE in operators or (DEQUANTIZE in operators and bool(artifact.options.get("session_options")))


def same_bits(graph: ir.Graph, artifact: Artifact) -> bool:
    """Whether every rounding of an activation ends a kernel that begins with integers, or is that of an input, and
    this processor computes those as all others do.
    """
    roundings = [node for node in graph if node.op_type == QUANTIZE]
    return bool(roundings) and not artifact.float_nodes and not artifact.options and all(
        _begins_with_integers(node.inputs[0]) for node in roundings) and not saturates_here()


def _begins_with_integers(value: ir.Value | None) -> bool:
    producer = value.producer() if value is not None else None
    if producer is None:
        return True
    if producer.op_type in LIMITING:  # by the kernel in front of it
        return _begins_with_integers(producer.inputs[0])
    sources = [read.producer() for read in producer.inputs if read is not None and not is_constant(read)]
    return all(source is not None and source.op_type == DEQUANTIZE for source in sources)


def saturates_here(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor adds products of bytes in 16 bits: x86 with AVX2 and without VNNI.

    vpmaddubsw, in core/mlas/lib/amd64/QgemmU8S8KernelAvx2.asm of onnxruntime: not the bits of other processors.
    """
    try:
        flags = set(cpuinfo.read_text().partition("flags")[2].partition("\n")[0].split())
    except OSError:
        return False
    return "avx2" in flags and not flags & {"avx512_vnni", "avx_vnni"}
