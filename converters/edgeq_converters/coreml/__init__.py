"""Core ML: the QDQ graph as a MIL program in an .mlpackage, built with coremltools' MIL builder on any system."""
from __future__ import annotations

from pathlib import Path
from typing import Literal

import onnx_ir as ir

from edgeq.errors import MissingExtra, UsageError
from edgeq.quiet import quiet
from edgeq_converters.contract import Artifact, EmitOptions
from edgeq_converters.lowered import expand_unhandled, lower_form

ENTRY = "model.mlpackage"


def emit(model: ir.Model, folder: Path, options: EmitOptions) -> Artifact:
    """Write folder/model.mlpackage; see edgeq_converters.contract.

    Floats are float32 and integers int32 at the interface; inside, floats have `options.precision`. A rank-0 input
    is [1].
    `options.compute` is not part of a package: it is told to the engine at load.

    Raises:
        UnsupportedModel: nodes that Core ML cannot run.
        MissingExtra: coremltools is not installed.
    """
    if options.min_os not in (16, 17, 18):
        raise UsageError(f"--min-os {options.min_os}: Core ML programs are written for iOS 16, 17 or 18")
    return write_package(model, folder / ENTRY, options, options.precision)


def write_package(model: ir.Model, path: Path, options: EmitOptions,
                  precision: Literal["float16", "float32"] = "float16") -> Artifact:
    """As `emit`, at any path."""
    try:
        with quiet("coremltools"):  # it lists the versions of torch and others that it was not tested with
            import coremltools  # noqa: F401
    except ImportError:
        raise MissingExtra("Core ML conversion", "coreml") from None
    from edgeq_converters.coreml.loose import plain_quantization
    from edgeq_converters.coreml.lowering import lower
    from edgeq_converters.coreml.ops import TABLE
    from edgeq_converters.coreml.package import write

    model = model.clone()
    plain_quantization(model.graph)  # before the general forms, which need float32 and would be computed in float16
    expand_unhandled(model, TABLE.handlers)
    folded = lower_form(model)
    with quiet("coremltools"):
        lowered = lower(folded.graph, options, precision)
    write(lowered, path, options)
    return Artifact(entry=path.name, engine="coreml", engine_version=f">={options.min_os}", names=lowered.names,
                    options={"compute_units": options.compute, "min_os": options.min_os})
