"""Any ONNX opset from 7 up -> the one that the rest of edgeq knows.

onnx's own version_converter is not used: it leaves the bodies of If and Loop as they are, refuses Upsample and
BatchNormalization-7, and copies the whole model through one protobuf message. What changed between opset 7 and 21 is
two screens of rows.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import (
    InlinePass,
    LiftConstantsToInitializersPass,
    LiftSubgraphInitializersToMainGraphPass,
    RemoveInitializersFromInputsPass,
    ShapeInferencePass,
)

from edgeq.errors import ModelError, Problem, UnsupportedModel
from edgeq.frontends import upgrades
from edgeq.frontends.attention import round_attention
from edgeq.frontends.downgrades import DOWNGRADES, expand_functions
from edgeq.frontends.types import plain_types
from edgeq.graph import label

OLDEST: Final = 7
NEWEST: Final = onnx.defs.onnx_opset_version()


def to_opset(model: ir.Model, version: int, *, exact: bool = False) -> None:
    """Bring a model to one opset, in place: functions inlined, constants lifted, no initializer an overridable input.

    exact: an Attention of bfloat16 rounds after each of its steps, as ONNX says, and not once at the end.

    Raises:
        ModelError: the opset is older than 7, or newer than the installed onnx package knows.
        UnsupportedModel: nodes that the wanted opset cannot express; lists all of them.
    """
    _normalize_domains(model)
    given = model.opset_imports.get("", version)
    if given < OLDEST and all(_unchanged_since(node, given) for node in _nodes(model)):
        given = OLDEST
    if not OLDEST <= given <= NEWEST:
        raise ModelError(f"the model uses ONNX opset {given}; edgeq reads {OLDEST} to {NEWEST}")
    _inline_functions(model)
    RemoveInitializersFromInputsPass()(model)
    _lift_constants(model)
    if exact:
        round_attention(model)
    plain_types(model)
    if given < version:
        _upgrade(model, given, version)
    elif given > version:
        _downgrade(model, version)
    model.opset_imports[""] = version
    _lift_constants(model)
    LiftSubgraphInitializersToMainGraphPass()(model)


def _unchanged_since(node: ir.Node, given: int) -> bool:
    """True for an operator whose form of opset ``given`` is that of `OLDEST` too."""
    if node.domain != "" or not onnx.defs.has(node.op_type, given, ""):
        return False
    then, now = (onnx.defs.get_schema(node.op_type, version, "") for version in (given, OLDEST))
    return bool(then.since_version == now.since_version)


def _normalize_domains(model: ir.Model) -> None:
    for imports in (model.opset_imports, *(function.opset_imports for function in model.functions.values())):
        if "ai.onnx" in imports:
            imports[""] = max(imports.pop("ai.onnx"), imports.get("", 0))
    for node in _nodes(model):
        if node.domain == "ai.onnx":
            node.domain = ""


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from ir.traversal.RecursiveGraphIterator(model.graph)
    for function in model.functions.values():
        yield from ir.traversal.RecursiveGraphIterator(function)


def _inline_functions(model: ir.Model) -> None:
    # A function may import an older opset than its model; what differs is upgraded node by node with the rest.
    for function in model.functions.values():
        for domain in function.opset_imports:
            if domain in model.opset_imports:
                function.opset_imports[domain] = model.opset_imports[domain]
    try:
        InlinePass()(model)
    except (ir.passes.PreconditionError, ir.passes.PassError, ValueError) as error:
        raise ModelError(f"the model's functions cannot be inlined: {error.__cause__ or error}") from error


def _lift_constants(model: ir.Model) -> None:
    sparse = [Problem(label(node), "Constant", "sparse tensors are not supported") for node in _nodes(model)
              if node.op_type == "Constant" and node.domain == "" and "sparse_value" in node.attributes]
    if sparse:
        raise UnsupportedModel("any target", sparse)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def _upgrade(model: ir.Model, given: int, version: int) -> None:
    if given < 13:
        # The ranks decide what a Softmax older than 13 means.
        ShapeInferencePass(check_type=False, strict_mode=False)(model)
    steps = [step for step in upgrades.UPGRADES if given < step.since <= version]
    _adapt(model, steps, version)


def _downgrade(model: ir.Model, version: int) -> None:
    expand_functions(model, version)
    _adapt(model, DOWNGRADES, version)


def _adapt(model: ir.Model, steps: list[upgrades.Step] | tuple[upgrades.Step, ...], version: int) -> None:
    by_op: dict[str, list[Callable[[ir.Node], None]]] = {}
    for step in steps:
        by_op.setdefault(step.op, []).append(step.adapt)
    problems = []
    for node in list(_nodes(model)):
        if node.domain != "":
            continue
        try:
            for adapt in by_op.get(node.op_type, ()):
                adapt(node)
        except upgrades.CannotAdapt as reason:
            problems.append(Problem(label(node), node.op_type, str(reason)))
    if problems:
        raise UnsupportedModel(f"ONNX opset {version}", problems)
