"""Weights that stay on disk: a network may be larger than the memory that its conversion takes."""
from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.errors import ModelError

IN_MEMORY_BYTES: Final = 2**30  # of all weights: a network up to here is read as a whole, which is faster
SMALL_BYTES: Final = 2**20  # a tensor up to here is held in any case
_HEAD_BYTES: Final = 4096


class DiskTensor(ir.ExternalTensor):
    """A tensor in a file, read anew whenever it is asked for and held by nobody but the one who asked.

    onnx_ir's own external tensor maps its file and keeps the mapping, whose pages count as memory once they are read.
    """

    __slots__ = ("_folder",)

    def __init__(self, tensor: ir.ExternalTensor, folder: tempfile.TemporaryDirectory[str] | None = None):
        """folder: what to delete together with the tensor."""
        super().__init__(tensor.location, tensor.offset, tensor.length, tensor.dtype, shape=tensor.shape,
                         name=tensor.name, base_dir=tensor.base_dir)
        self._folder = folder

    def numpy(self) -> NDArray[Any]:
        raw = self._read(self.nbytes)
        if self.dtype.bitwidth < 8:
            return ir.PackedTensor(raw, self.dtype, shape=self.shape).numpy()
        return raw.view(np.dtype(self.dtype.numpy()).newbyteorder("<")).reshape(self.shape.numpy())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.numpy(), dtype)

    def tobytes(self) -> bytes:
        return self._read(self.nbytes).tobytes()

    def held(self) -> ir.TensorProtocol:
        """The same tensor in memory."""
        return ir.tensor(self.numpy(), dtype=self.dtype, name=self.name)

    def head(self) -> bytes:
        """The first bytes, which tell most tensors from each other."""
        return self._read(min(_HEAD_BYTES, self.nbytes)).tobytes()

    def _read(self, count: int) -> NDArray[np.uint8]:
        return np.fromfile(self.path, np.uint8, count, offset=self.offset or 0)


def resolve(model: ir.Model, source: str, folder: Path | None = None) -> None:
    """Replace every tensor in another file, wherever in a model it is, by one that was read or is read when needed.

    The only place that follows what a model says of other files: weights of graphs, of the bodies of control flow and
    of functions, and tensors among attributes. Up to 1 GB in all is read now; above, large tensors stay where they are.

    source: names the model in messages. folder: of the model's file; tensors of a model in memory have one each, by
    default the current folder.

    Raises:
        ModelError: a file is missing, too short, or not inside the folder.
    """
    found = [(slot, _located(slot.tensor, slot.name, source, folder)) for slot in _slots(model)
             if isinstance(slot.tensor, ir.ExternalTensor)]
    hold = sum(tensor.nbytes for _, tensor in found) <= IN_MEMORY_BYTES
    for slot, tensor in found:
        slot.put(tensor.held() if hold or tensor.nbytes <= SMALL_BYTES else tensor)


def resolved(tensor: ir.TensorProtocol, name: str, source: str, folder: Path | None) -> ir.TensorProtocol:
    """A tensor that stands alone, as `resolve` does it; one that is in memory as it is."""
    return _located(tensor, name, source, folder).held() if isinstance(tensor, ir.ExternalTensor) else tensor


@dataclass(frozen=True, slots=True)
class _Slot:
    """A place in a model that holds a tensor. put: replaces it."""

    name: str
    tensor: ir.TensorProtocol
    put: Callable[[ir.TensorProtocol], None]


def _slots(model: ir.Model) -> Iterator[_Slot]:
    graphs = [*model.graphs(), *(graph for function in model.functions.values()
                                 for graph in (function.graph, *function.subgraphs()))]
    for graph in graphs:
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield _Slot(str(value.name), value.const_value, partial(setattr, value, "const_value"))
        for node in graph:
            for name, attribute in node.attributes.items():
                yield from _of_attribute(node, name, attribute)


def _of_attribute(node: ir.Node, name: str, attribute: ir.Attr) -> Iterator[_Slot]:
    where = node.name or str(node.outputs[0].name if node.outputs else name)
    if attribute.is_ref():
        return
    if attribute.type is ir.AttributeType.TENSOR:
        yield _Slot(where, attribute.as_tensor(),
                    lambda tensor: node.attributes.__setitem__(name, ir.AttrTensor(name, tensor)))
    elif attribute.type is ir.AttributeType.TENSORS:
        tensors = list(attribute.as_tensors())

        def put(index: int, tensor: ir.TensorProtocol) -> None:
            tensors[index] = tensor
            node.attributes[name] = ir.AttrTensors(name, tensors)

        for index, tensor in enumerate(tensors):
            yield _Slot(where, tensor, partial(put, index))


def _located(tensor: ir.ExternalTensor, name: str, source: str, folder: Path | None) -> DiskTensor:
    """A tensor in a file that is there, long enough, and inside the model's folder."""
    if isinstance(tensor, DiskTensor) and folder is None:
        return tensor
    location = str(tensor.location)
    home = (Path(str(tensor.base_dir) or ".") if folder is None else folder).absolute()
    file = home / location
    if not _is_inside(location, home):
        raise ModelError(f"{source}: the weights of '{name}' lie outside its folder: {location}")
    if not file.is_file():
        raise ModelError(f"{source}: its file of weights is missing: {file}")
    offset, length = tensor.offset or 0, tensor.length
    if offset < 0 or (length is not None and length != tensor.nbytes):
        raise ModelError(f"{source}: the weights of '{name}' take {tensor.nbytes} bytes; it says that {length} "
                         f"bytes are at {offset} of {location}")
    if file.stat().st_size < offset + tensor.nbytes:
        raise ModelError(f"{source}: its file of weights is cut short: {file} ends before '{name}'")
    return DiskTensor(ir.ExternalTensor(location, offset, tensor.nbytes, tensor.dtype, shape=tensor.shape,
                                      name=tensor.name or name, base_dir=home))


def _is_inside(location: str, home: Path) -> bool:
    """No absolute path (of Windows neither), no way up, no link that leads out. A second hard link is no way out: only
    who may read a file can make one."""
    path = PurePosixPath(location)
    if "\0" in location or path.is_absolute() or PureWindowsPath(location).anchor or ".." in (
            *path.parts, *PureWindowsPath(location).parts):
        return False
    try:
        return (home / location).resolve().is_relative_to(home.resolve())
    except (OSError, RuntimeError):  # a link to itself
        return False


def derived(data: NDArray[Any], sources: Iterable[ir.Value | None], name: str | None = None) -> ir.TensorProtocol:
    """A tensor of what was computed from others: on disk where one of these is, in a file that goes with it."""
    tensor = ir.tensor(data, name=name)
    if tensor.nbytes <= SMALL_BYTES or not any(map(_is_on_disk, sources)):
        return tensor
    folder = tempfile.TemporaryDirectory(prefix="edgeq-", ignore_cleanup_errors=True)
    with open(Path(folder.name) / "tensor", "wb") as file:
        file.write(tensor.tobytes())
    return DiskTensor(ir.ExternalTensor("tensor", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(data.shape),
                                        name=name or "", base_dir=folder.name), folder)


def _is_on_disk(value: ir.Value | None) -> bool:
    """True where the numbers are read from disk, or computed from others, whenever they are needed."""
    return value is not None and isinstance(value.const_value, (DiskTensor, ir.LazyTensor))


def is_large(model: ir.Model) -> bool:
    """True for a network whose weights do not belong into memory all at once, as the float numbers that they become."""
    return 4 * sum(value.const_value.size for graph in model.graphs() for value in graph.initializers.values()
                   if value.const_value is not None) > IN_MEMORY_BYTES
