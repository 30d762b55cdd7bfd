"""Which ops of a quantized network run in float on a target all the same, and why: told before anything is written.

Only the backend knows, so the network is quantized and written for it, into nowhere. The ranges come from generated
inputs. What a range decides in a backend is whether it ends at the bounds of an activation, and those it finds anyway.
What real samples make `--method auto` keep in float besides is part of the plan by then, and not told here.
"""
from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import onnx_ir as ir

from edgeq.backend import Artifact, EmitOptions, backend_named
from edgeq.dimensions import dimensions, free_dimensions
from edgeq.errors import EdgeqError
from edgeq.external_weights import is_large
from edgeq.graph import real_inputs
from edgeq.options import Options, scheme_of
from edgeq.quant.calibrate import CALIBRATORS, Statistics, calibrate
from edgeq.quant.plan import QuantPlan, make_plan
from edgeq.quant.quantize import quantize
from edgeq.quant.rounding import nearest
from edgeq.quant.samples import InputSpec
from edgeq.targets import Target
from edgeq.verify.references import References


def float_ops(model: ir.Model, targets: Iterable[Target]) -> dict[str, list[dict[str, str]] | None]:
    """Target -> what `convert --calibration` will report of it as float_on_this_engine; None where it cannot be told.

    It cannot where the network is too large to be run for this, where generated inputs do not fit, and where the target
    refuses nodes.
    """
    asked = Options(calibration="samples")
    plans = {target.name: make_plan(model, [target], scheme_of(asked, symmetric=target.symmetric))
             for target in targets}
    try:
        statistics = _statistics(model, plans.values())
    except EdgeqError:
        return dict.fromkeys(plans)
    return {name: None if statistics is None else _float_ops(name, model, plan, statistics)
            for name, plan in plans.items()}


def emitted(target: str, model: ir.Model) -> Artifact:
    """Write a model for a target, into nowhere -> the backend's Artifact.

    Raises:
        EdgeqError: the target refuses it, or its extra is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
        return backend_named(target).emit(model, Path(folder), EmitOptions())


def _statistics(model: ir.Model, plans: Iterable[QuantPlan]) -> Statistics | None:
    if is_large(model):
        return None
    free = free_dimensions(model)
    specs = {value.name or "": InputSpec(value.dtype.numpy(), dimensions(value, free))
             for value in real_inputs(model.graph) if value.dtype is not None}
    feeds = References(model, model, specs, None).feeds
    values = dict.fromkeys(name for plan in plans for name in plan.sources)
    return calibrate(model, list(values), feeds[:1]) if values else Statistics({}, 0)


def _float_ops(target: str, model: ir.Model, plan: QuantPlan, statistics: Statistics) -> list[dict[str, str]] | None:
    try:
        artifact = emitted(target, quantize(model, plan, statistics, CALIBRATORS["minmax"], nearest))
    except EdgeqError:
        return None
    return [asdict(node) for node in artifact.float_beyond(kept.node for kept in plan.kept)]
