"""Weights that stay on disk: a network may be larger than the memory that its conversion takes."""
from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

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

    def head(self) -> bytes:
        """The first bytes, which tell most tensors from each other."""
        return self._read(min(_HEAD_BYTES, self.nbytes)).tobytes()

    def _read(self, count: int) -> NDArray[np.uint8]:
        return np.fromfile(self.path, np.uint8, count, offset=self.offset or 0)


def keep_on_disk(model: ir.Model) -> None:
    """Leave every large initializer of an external file there, and read the small ones, in place."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                on_disk = DiskTensor(tensor)
                value.const_value = on_disk if tensor.nbytes > SMALL_BYTES else ir.tensor(
                    on_disk.numpy(), dtype=tensor.dtype, name=tensor.name)


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
