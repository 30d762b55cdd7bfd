"""Plants faults in copies of packages."""
from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def edit_model(package: Path, copy: Path, change: Callable[[Any], None]) -> Path:
    """A copy of the package whose program ``change`` has edited (its main block, as protobuf)."""
    from coremltools.proto.Model_pb2 import Model

    shutil.copytree(package, copy)
    path = copy / "Data/com.apple.CoreML/model.mlmodel"
    model = Model()
    model.ParseFromString(path.read_bytes())
    function = model.mlProgram.functions["main"]
    change(function.block_specializations[function.opset])
    path.write_bytes(model.SerializeToString())
    return copy


def find_ops(block: Any, kind: str) -> list[Any]:
    return [operation for operation in block.operations if operation.type == kind]


def wrong_byte(package: Path, copy: Path, offset: int) -> Path:
    """A copy of the package with one bit of weight.bin changed: bit 6 of the byte at ``offset``."""
    shutil.copytree(package, copy)
    path = copy / "Data/com.apple.CoreML/weights/weight.bin"
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x40
    path.write_bytes(data)
    return copy
