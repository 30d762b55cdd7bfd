"""torch modules and exported programs -> onnx_ir.Model, through torch's dynamo exporter."""
from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir

from edgeq.errors import MissingExtra, ModelError, UsageError, first_line
from edgeq.frontends.pt2 import copy_without_pickles
from edgeq.graph import OPSET
from edgeq.quiet import quiet

if TYPE_CHECKING:
    from torch.export import ExportedProgram
    from torch.nn import Module

# They report that torchvision is absent, and the traceback of what they raise.
_LOGGERS: Final = ("torch.onnx", "torch.export")


def read_pt2(path: Path, *, trust: bool = False) -> tuple[ir.Model, ExportedProgram]:
    """Read a .pt2 file, as torch.export.save writes it -> its network, and what torch computes it with.

    trust: let torch read pickles in it, which can run any code.

    Raises:
        ModelError: the file is missing, damaged, holds pickles that are not trusted, or operators that torch cannot
            export to ONNX.
        MissingExtra: torch is not installed.
    """
    torch = _torch()
    if not path.is_file():
        raise ModelError(f"no such file: {path}")
    if trust:
        return from_exported(_loaded(torch, path, path))
    with tempfile.TemporaryDirectory(prefix="edgeq-") as folder:
        copy = Path(folder) / path.name
        copy_without_pickles(path, copy)
        return from_exported(_loaded(torch, copy, path))


def _loaded(torch: Any, file: Path, path: Path) -> Any:
    try:
        with quiet(*_LOGGERS):
            return torch.export.load(str(file))
    except Exception as error:  # zipfile, pickle and torch each raise their own
        raise ModelError(f"{path} is not a torch.export file: {first_line(error)}") from error


def from_function(source: str) -> tuple[ir.Model, ExportedProgram]:
    """"module:function" -> the model, as `read_pt2`.

    The function takes nothing and returns (torch module, example inputs).

    Example inputs are a tuple (positional) or a dict (by name). The current folder is searched first, as with
    `python -m`.

    Raises:
        ModelError: the module or function is missing, fails, or returns something else.
        MissingExtra: torch is not installed.
    """
    torch = _torch()
    module_name, _, function_name = source.partition(":")
    made = _call(_function(module_name, function_name), source)
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], torch.nn.Module)):
        raise ModelError(f"{source} must return (torch module, example inputs), got {type(made).__name__}")
    return from_module(*made)


def from_module(module: Module, examples: Any) -> tuple[ir.Model, ExportedProgram]:
    """A torch module and example inputs of its forward, a tensor or a tuple (positional) or a dict (by name) -> the
    model, as `read_pt2`.

    It is exported as it evaluates; whether its parts were training is as before then.

    Raises:
        UsageError: no examples. ModelError: torch cannot export it. MissingExtra: onnxscript is not installed.
    """
    torch = _torch()
    if examples is None:
        raise UsageError("a torch module is exported with inputs to look at: add example_inputs=, a tensor, or a tuple "
                         "or dict of tensors, as its forward takes them")

    def tensor(value: Any) -> Any:
        return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

    args = () if isinstance(examples, Mapping) else tuple(map(tensor, _as_tuple(examples)))
    kwargs = {name: tensor(value) for name, value in examples.items()} if isinstance(examples, Mapping) else {}
    training = [part for part in module.modules() if part.training]
    try:
        return _export(module.eval(), args, kwargs)
    finally:
        for part in training:
            part.training = True


def from_exported(program: ExportedProgram) -> tuple[ir.Model, ExportedProgram]:
    """A torch.export.ExportedProgram -> the model, as `read_pt2`.

    Raises:
        ModelError: it is not one, or it holds operators that torch cannot export to ONNX.
        MissingExtra: torch is not installed.
    """
    torch = _torch()
    if not isinstance(program, torch.export.ExportedProgram):
        raise ModelError(f"cannot read a {type(program).__name__} as a network: give a path, an onnx or onnx_ir model, "
                         "a torch ExportedProgram, or a torch module with example_inputs")
    return _export(program, (), {})


def _torch() -> Any:
    try:
        import onnxscript  # noqa: F401  the exporter needs it, and says so late
        import torch
    except ImportError:
        raise MissingExtra("A torch model", "torch") from None
    return torch


def _export(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[ir.Model, ExportedProgram]:
    torch = _torch()
    try:
        with quiet(*_LOGGERS):
            program = torch.onnx.export(model, args, kwargs=kwargs or None, dynamo=True, opset_version=OPSET,
                                        verbose=False)
    except Exception as error:  # the exporter wraps whatever the module raises in one of many types
        raise ModelError(f"torch cannot export this module to ONNX: {first_line(_cause(error))}") from error
    return program.model, program.exported_program


def _cause(error: BaseException) -> BaseException:
    """What the module itself raised, below the exporter's own wrappers and their advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _function(module_name: str, function_name: str) -> Any:
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ModelError(f"cannot import {module_name}: {error}") from error
    finally:
        sys.path.remove(folder)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ModelError(f"{module_name} has no function '{function_name}'")
    return function


def _call(function: Any, source: str) -> Any:
    try:
        return function()
    except Exception as error:  # the user's own code
        raise ModelError(f"{source} failed: {type(error).__name__}: {first_line(error)}") from error


def _as_tuple(examples: Any) -> tuple[Any, ...]:
    return tuple(examples) if isinstance(examples, tuple | list) else (examples,)
