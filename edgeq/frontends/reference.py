"""The source as somebody else computes it: what every check is held against, behind no pass of ours.

    .onnx, ModelProto, ir.Model      onnxruntime on the model as it came, each op on its own
    .pt2, module:function, program   torch
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.external_weights import is_large
from edgeq.inference.reference import Arrays, predictor

Predict: TypeAlias = Callable[[Sequence[Arrays]], list[dict[str, NDArray[Any]]]]


@dataclass(frozen=True, slots=True)
class Reference:
    """by: who computes. run: feeds by input name -> outputs by name, in the interface of the canonical network.

    `run` raises ModelError where that engine cannot run the source: an operator without a kernel, say.
    """

    by: str
    run: Predict


def onnx_reference(source: Path | onnx.ModelProto | ir.Model, kinds: Mapping[str, ir.DataType], network: ir.Model,
                   ) -> Reference | None:
    """onnxruntime's own reading of a source; None where its weights are too large to be held a second time.

    kinds: the types of the source's inputs and outputs. network: what the frontend made of it, whose types hold at the
    interface.
    """
    if is_large(network):
        return None
    import onnxruntime

    def run(feeds: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
        predict = predictor(source.SerializeToString() if isinstance(source, onnx.ModelProto) else source)
        return [_typed(_named(predict({name: array.astype(kinds[name].numpy(), copy=False)
                                       for name, array in feed.items()}), kinds), network) for feed in feeds]

    return Reference(f"onnxruntime {onnxruntime.__version__} on the source", run)


def torch_reference(program: Any, network: ir.Model) -> Reference:
    """torch's own outputs. program: a torch.export.ExportedProgram; its inputs and outputs keep their order in ONNX."""
    import torch
    from torch.utils import _pytree as pytree

    module, examples = program.module(), program.example_inputs
    given, _ = pytree.tree_flatten(examples)
    names = [value.name or "" for value in network.graph.inputs]

    def arguments(feed: Arrays) -> tuple[Any, Mapping[str, Any]]:
        left = iter([torch.from_numpy(np.array(feed[name])) for name in names])
        flat = [next(left).to(old.dtype) if isinstance(old, torch.Tensor) else old for old in given]
        args, kwargs = pytree.tree_unflatten(flat, program.call_spec.in_spec)
        return args, kwargs

    def run(feeds: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
        with torch.no_grad():
            return [_typed(_by_name(module, *arguments(feed), network), network) for feed in feeds]

    return Reference(f"torch {torch.__version__.partition('+')[0]}", run)


def _by_name(module: Any, args: Any, kwargs: Any, network: ir.Model) -> dict[str, NDArray[Any]]:
    import torch
    from torch.utils import _pytree as pytree

    try:
        outputs, _ = pytree.tree_flatten(module(*args, **kwargs))
    except Exception as error:  # whatever the module raises
        raise ModelError(f"torch cannot run the model: {error}") from error
    tensors = [output for output in outputs if isinstance(output, torch.Tensor)]
    values = network.graph.outputs
    if len(tensors) != len(values):
        raise ModelError(f"torch gives {len(tensors)} tensors, the exported network {len(values)}")
    return {value.name or "": tensor.to(torch.float32 if tensor.dtype == torch.bfloat16 else tensor.dtype).numpy()
            for value, tensor in zip(values, tensors, strict=True)}


def _named(outputs: Mapping[str, NDArray[Any]], kinds: Mapping[str, ir.DataType]) -> dict[str, NDArray[Any]]:
    """numpy has no 8-bit floats of its own, so onnxruntime gives their bits as uint8."""
    return {name: array.view(kinds[name].numpy()) if name in kinds and array.dtype == np.uint8 else array
            for name, array in outputs.items()}


def _typed(outputs: Mapping[str, NDArray[Any]], network: ir.Model) -> dict[str, NDArray[Any]]:
    """With the types of the network's interface, in its order."""
    found: dict[str, NDArray[Any]] = {}
    for value in network.graph.outputs:
        name = value.name or ""
        if name not in outputs:
            raise ModelError(f"the source has no output '{name}'")
        array = np.asarray(outputs[name])
        found[name] = array if value.dtype is None else array.astype(value.dtype.numpy(), copy=False)
    return found
