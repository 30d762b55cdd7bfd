"""Core ML: the QDQ graph as a MIL program in an .mlpackage, built with coremltools' MIL builder on any system."""
from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnx_ir as ir

from edgeq.backend import Artifact, EmitOptions
from edgeq.dimensions import dimensions, free_dimensions, witnesses
from edgeq.errors import MissingExtra, UsageError
from edgeq.graph import real_inputs
from edgeq.passes.dynamic import without_dynamic_rounding
from edgeq.quiet import quiet
from edgeq_converters.coreml.target import SYSTEMS
from edgeq_converters.prepare import specialized_form
from edgeq_runtime.dimensions import Free

if TYPE_CHECKING:
    from edgeq_converters.coreml.lowering import Lowered
    from edgeq_converters.mil.builder import Precision

ENTRY = "model.mlpackage"
NEWEST_OPS: Final = 18  # a package for iOS 26 is made of the ops of 18: it has no newer ones that a handler wants
# coremltools keeps the block that ops are added to in one list of the process, whichever thread adds:
# https://github.com/apple/coremltools/blob/main/coremltools/converters/mil/mil/block.py (BLOCK_STACK)
ONE_AT_A_TIME: Final = threading.Lock()


def emit(model: ir.Model, folder: Path, options: EmitOptions) -> Artifact:
    """Write folder/model.mlpackage; see edgeq.backend.

    Floats are float32 and integers int32 at the interface; inside, floats have `options.precision`. A rank-0 input
    is [1].
    `options.compute` is not part of a package: it is told to the engine at load.

    Raises:
        UnsupportedModel: nodes that Core ML cannot run.
        MissingExtra: coremltools is not installed.
    """
    if options.min_os not in SYSTEMS:
        raise UsageError(f"--min-os {options.min_os}: Core ML programs are written for iOS "
                         f"{', '.join(map(str, SYSTEMS[:-1]))} or {SYSTEMS[-1]}")
    return write_package(model, folder / ENTRY, options, options.precision)


def write_package(model: ir.Model, path: Path, options: EmitOptions,
                  precision: Precision = "float16") -> Artifact:
    """As `emit`, at any path."""
    try:
        with quiet("coremltools"):  # it lists the versions of torch and others that it was not tested with
            import coremltools  # noqa: F401
    except ImportError:
        raise MissingExtra("Core ML conversion", "coreml") from None
    from edgeq_converters.coreml.package import PASSES, fresh_names, tidy, write

    said = options.min_os
    options = replace(options, min_os=min(said, NEWEST_OPS),
                      largest=cache(options.largest))  # once, however many sizes there are
    model = without_dynamic_rounding(model)  # products of integers overflow float16, the only numbers there are
    free = free_dimensions(model)
    with ONE_AT_A_TIME, fresh_names(), quiet("coremltools"):
        if free:
            lowered = _for_all_sizes(model, free, options, precision)
        else:
            lowered = _lowered(model.clone(), options, precision)
            tidy(lowered.program, PASSES)
        write(lowered, path, options)
    return Artifact(entry=path.name, engine="coreml", engine_version=f">={said}", names=lowered.names,
                    options={"compute_units": options.compute, "min_os": said,
                             **({"images": dict(options.images)} if options.images else {}),
                             **({"states": list(lowered.states)} if lowered.states else {})},
                    float_nodes=lowered.float_nodes, activation_bits=16 if lowered.float_nodes else None,
                    notes=lowered.notes)


def _lowered(model: ir.Model, options: EmitOptions, precision: Precision) -> Lowered:
    """model: is used up."""
    from edgeq_converters.coreml.builder import MAX_RANK
    from edgeq_converters.coreml.lowering import lower
    from edgeq_converters.coreml.table import TABLE
    from edgeq_converters.mil.prepare import folded

    return lower(folded(model, TABLE.handlers, options, precision, MAX_RANK), options, precision)


def _for_all_sizes(model: ir.Model, free: Mapping[str, Free], options: EmitOptions, precision: Precision) -> Lowered:
    """What the programs for a few sizes have in common, with the limits of the sizes."""
    from edgeq_converters.coreml.flexible import declare_limits, flexible, refuse_endless, refuse_many_axes
    from edgeq_converters.coreml.package import FIXED_SIZES, PASSES, UNUSED, tidy

    shapes = {value.name or "": dimensions(value, free) for value in real_inputs(model.graph)}
    refuse_endless(shapes)
    refuse_many_axes([*real_inputs(model.graph), *model.graph.outputs])
    seen = witnesses(free)
    found = [_lowered(specialized_form(model, sizes), options, precision) for sizes in seen]
    for lowered in found:
        tidy(lowered.program, [name for name in PASSES if name != FIXED_SIZES])
    flexible([lowered.program for lowered in found], found[0].nodes, free)
    tidy(found[0].program, [UNUSED])
    declare_limits(found[0].program, {found[0].names.get(name, name): shape for name, shape in shapes.items()}, seen[0])
    return found[0]
