"""Apple's protobuf classes without the rest of coremltools.

``import coremltools`` takes seconds (it imports torch where there is one) and prints warnings; the generated classes
in its folder ``proto`` need protobuf only. They are loaded as a package of our own name; protobuf itself recognises
the second loading of a schema, so the classes are the same objects when coremltools is imported before or after.
"""
from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from edgeq.errors import MissingExtra

_PACKAGE = "_edgeq_coreml_proto"


def new_model() -> Any:
    """An empty message of Core ML's Model.proto.

    Raises:
        MissingExtra: coremltools (for its schema) or protobuf is not installed.
    """
    return _module("Model_pb2").Model()


def _module(name: str) -> ModuleType:
    if _PACKAGE not in sys.modules:
        found = importlib.util.find_spec("coremltools")
        if found is None or not found.submodule_search_locations:
            raise MissingExtra("Reading a Core ML package", "coreml")
        package = ModuleType(_PACKAGE)
        package.__path__ = [str(Path(found.submodule_search_locations[0]) / "proto")]
        sys.modules[_PACKAGE] = package
    try:
        return importlib.import_module(f"{_PACKAGE}.{name}")
    except ImportError as error:
        raise MissingExtra("Reading a Core ML package", "coreml") from error
