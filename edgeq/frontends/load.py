"""One door for every kind of source: read it, bring it to opset 21, check it, infer its shapes; and remember how
somebody else computes it.
"""
from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, Union

import onnx
import onnx_ir as ir

from edgeq.dimensions import Shape
from edgeq.errors import ModelError, UsageError
from edgeq.frontends.decoder.checkpoint import is_checkpoint
from edgeq.frontends.network import check_model, check_values
from edgeq.frontends.onnx import from_ir, from_proto, read_onnx
from edgeq.frontends.qoperator import qoperator_to_qdq
from edgeq.frontends.reference import Reference, onnx_reference, torch_reference
from edgeq.frontends.transformer.source import is_transformer, limits_of, open_folder
from edgeq.frontends.types import long_indices
from edgeq.frontends.versions import to_opset
from edgeq.graph import IR_VERSION, OPSET, real_inputs
from edgeq.passes.interface import Tell, forget_no_names
from edgeq.passes.shapes import fix_shapes
from edgeq.state import check_state, mark_state

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.nn import Module

Source: TypeAlias = Union[str, Path, onnx.ModelProto, ir.Model, "ExportedProgram", "Module"]


def load_model(source: Source, *, inputs: Mapping[str, Shape] = {}, tell: Tell | None = None,
               example_inputs: Any = None, state: Mapping[str, str] | None = None, open_sizes: bool = False,
               exact: bool = False, trust: bool = False) -> ir.Model:
    """Read a network; see `load_source`."""
    return load_source(source, inputs=inputs, tell=tell, example_inputs=example_inputs, state=state,
                       open_sizes=open_sizes, exact=exact, trust=trust)[0]


def load_source(source: Source, *, inputs: Mapping[str, Shape] = {}, tell: Tell | None = None,
                example_inputs: Any = None, state: Mapping[str, str] | None = None, open_sizes: bool = False,
                exact: bool = False, trust: bool = False) -> tuple[ir.Model, Reference | None]:
    """Read a network -> it, and the source as an engine computes that has seen no rewrite of ours (None where its
    weights are too large for that).

    source: a path (.onnx, with external data beside it or without; .pt2; the folder of a text encoder's checkpoint),
        "module:function" returning a torch module and its example inputs, an onnx.ModelProto, an onnx_ir.Model (left as
        it is: a copy is returned), a torch ExportedProgram, or a torch module.
    example_inputs: of a torch module, which is exported with them: a tensor or a tuple (positional) or a dict (by
        name), of torch or numpy.
    inputs: shapes of graph inputs, by name. Only free dimensions need one; a free batch axis (the first) is 1 without.
        What is given as a range or choice stays free.
    tell: knows the sizes of which nothing is said, as the samples do; see `edgeq.passes.interface`.
    state: input -> the output that it is in the next step; None: found, see `edgeq.state`.
    open_sizes: sizes that depend on the data (of NonZero, NonMaxSuppression, a computed Slice) may stay open.
    trust: read pickles in a .pt2 file, which can run any code.
    exact: bfloat16 is rounded inside an Attention too; it costs time, and below 32 bits nothing is left of it.

    Raises:
        ModelError: the source is not a network, a file is missing or damaged, weights hold NaN, or a shape stays open.
        UnsupportedModel: nodes that opset 21 cannot express; lists all of them.
        MissingExtra: a torch source without torch. UsageError: example inputs for what needs none.
    """
    model, reference = _read(source, example_inputs, trust)
    inputs = {**limits_of(source), **inputs} if is_transformer(source) else inputs
    forget_no_names(model)
    to_opset(model, OPSET, exact=exact)
    model.ir_version = IR_VERSION
    qoperator_to_qdq(model)
    long_indices(model)
    check_model(model)
    _check_interface(model.graph)
    mark_state(model, state)
    fix_shapes(model, inputs, tell=tell, open_sizes=open_sizes)
    check_state(model, state)
    _check_interface(model.graph)  # again: a file may call a sequence a tensor
    check_values(model)
    return model, reference(model)


def check_there(source: object) -> None:
    """Before any question about its kind: a folder of weights that is not there is no network for the wrong target.

    Raises:
        ModelError: a path, neither .onnx nor .pt2 (whose readers say it) nor module:function, that leads nowhere.
    """
    if isinstance(source, str | Path) and Path(source).suffix not in (".onnx", ".pt2") and ":" not in str(source) \
            and not Path(source).exists():
        raise ModelError(f"no such file or folder: {source}")


def is_language_model(source: Any) -> TypeGuard[str | Path]:
    """Whether a source of a conversion is a decoder's checkpoint: a folder, which may lack files, or a .gguf."""
    return is_checkpoint(source) and not is_transformer(source)


def is_torch_module(source: object) -> bool:
    """Without importing torch, which whoever holds a module has done."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.nn.Module)


def _check_interface(graph: ir.Graph) -> None:
    """Bundles take and give tensors of numbers."""
    for value in graph.inputs:
        if isinstance(value.type, ir.OptionalType) and isinstance(value.type.elem_type, ir.TensorType):
            value.type = value.type.elem_type  # a bundle's inputs are always given
    for kind, values in (("input", real_inputs(graph)), ("output", graph.outputs)):
        for value in values:
            if value.type is not None and not isinstance(value.type, ir.TensorType):
                raise ModelError(f"{kind} '{value.name}' is no tensor but {value.type}; give and return its tensors")
            if value.dtype == ir.DataType.STRING:
                raise ModelError(f"{kind} '{value.name}' holds text, bundles hold numbers; do the step from or to text "
                                 "in the application")


def _read(source: Source, example_inputs: Any, trust: bool,
          ) -> tuple[ir.Model, Callable[[ir.Model], Reference | None]]:
    """-> the network as it came, and what makes its reference of the network that it becomes."""
    if is_torch_module(source):
        from edgeq.frontends.torch import from_module
        return _with_torch_reference(*from_module(source, example_inputs))
    if example_inputs is not None:
        raise UsageError("example inputs are for a torch module, which is exported with them; leave them out")
    if isinstance(source, ir.Model):
        return _with_onnx_reference(from_ir(source), source)
    if isinstance(source, onnx.ModelProto):
        return _with_onnx_reference(from_proto(source, "the given ModelProto"), source)
    if not isinstance(source, str | Path):
        from edgeq.frontends.torch import from_exported
        return _with_torch_reference(*from_exported(source))
    path = Path(source)
    if path.suffix == ".onnx":
        return _with_onnx_reference(read_onnx(path), path)
    if path.suffix == ".pt2":
        from edgeq.frontends.torch import read_pt2
        return _with_torch_reference(*read_pt2(path, trust=trust))
    if ":" in str(source) and not path.exists():
        from edgeq.frontends.torch import from_function
        return _with_torch_reference(*from_function(str(source)))
    check_there(source)
    if is_transformer(path):
        made = open_folder(path).encoder()
        return _with_onnx_reference(from_ir(made), made)
    if is_checkpoint(path):
        raise ModelError(f"{source} is a language model's checkpoint, which is converted and estimated; what was lost "
                         "is told by edgeq eval of its bundle")
    raise ModelError(f"cannot tell what {source} is: a model is a .onnx file, a .pt2 file or module:function")


def _with_onnx_reference(model: ir.Model, source: Path | onnx.ModelProto | ir.Model,
                         ) -> tuple[ir.Model, Callable[[ir.Model], Reference | None]]:
    kinds = {value.name or "": value.dtype for value in (*real_inputs(model.graph), *model.graph.outputs)
             if value.dtype is not None}
    return model, partial(onnx_reference, source, kinds)


def _with_torch_reference(model: ir.Model, program: ExportedProgram,
                          ) -> tuple[ir.Model, Callable[[ir.Model], Reference | None]]:
    return model, partial(torch_reference, program)
