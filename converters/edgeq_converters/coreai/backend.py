"""Core AI: the QDQ graph as an .aimodel, written with Apple's own package on any system that it is there for."""
from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnx_ir as ir

from edgeq.backend import Artifact, EmitOptions
from edgeq.dimensions import free_dimensions, witnesses
from edgeq.passes.dynamic import without_dynamic_rounding
from edgeq_converters.coreai.target import COREAI, SYSTEM
from edgeq_converters.prepare import specialized_form
from edgeq_runtime.dimensions import Free

if TYPE_CHECKING:
    from edgeq_converters.coreai.lowering import Lowered

ENTRY: Final = "model.aimodel"
RELEASE: Final = ">=1.0"  # of coreai-core
ANY_RANK: Final = 64
ONE_AT_A_TIME: Final = threading.Lock()  # the package keeps its place of insertion for the thread, not for the program


def emit(model: ir.Model, folder: Path, options: EmitOptions) -> Artifact:
    """Write folder/model.aimodel; see edgeq.backend.

    Inputs and outputs have ONNX's types, names and shapes; inside, floats have `options.precision`.

    Raises:
        UnsupportedModel: nodes that Core AI cannot run.
        MissingExtra: coreai-core is not installed.
    """
    from edgeq_converters.coreai.dialect import require_package

    require_package()
    model = without_dynamic_rounding(model)
    free = free_dimensions(model)
    options = replace(options, min_os=SYSTEM, largest=cache(options.largest))
    with ONE_AT_A_TIME:
        lowered = _for_all_sizes(model, free, options) if free else _lowered(model.clone(), options)
        try:
            lowered.program.save(folder / ENTRY, options.about)
        except BaseException:
            shutil.rmtree(folder / ENTRY, ignore_errors=True)
            raise
    return Artifact(entry=ENTRY, engine="coreai", engine_version=RELEASE, options={"min_os": SYSTEM},
                    notes=lowered.notes)


def _for_all_sizes(model: ir.Model, free: Mapping[str, Free], options: EmitOptions) -> Lowered:
    """What the programs for a few sizes have in common. The format holds no limits: the manifest does."""
    from edgeq_converters.coreai.flexible import flexible

    found = [_lowered(specialized_form(model, sizes), options, traced=True) for sizes in witnesses(free)]
    return replace(found[0], program=flexible(COREAI.name, [lowered.program.trace for lowered in found], free))


def _lowered(model: ir.Model, options: EmitOptions, *, traced: bool = False) -> Lowered:
    """model: is used up."""
    from edgeq_converters.coreai.lowering import lower
    from edgeq_converters.coreai.table import TABLE
    from edgeq_converters.mil.prepare import folded

    graph = folded(model, TABLE.handlers, options, options.precision, ANY_RANK)
    return lower(graph, options, options.precision, traced=traced)
