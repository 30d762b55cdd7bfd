"""The values inside an .aimodel, by Apple's runtime: the program is loaded and given further outputs."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir

from edgeq.backend import Seen
from edgeq.inference.reference import Arrays
from edgeq.scheme import dequantize
from edgeq.verification.probe import float_values, rounded_name
from edgeq_converters.coreai.dialect import Stored, inner_values, with_outputs
from edgeq_runtime.engines.coreai import Child
from edgeq_runtime.manifest import Manifest


class CoreAIProbe:
    """The operators of a node carry the name of its output; the last of them makes the value.

    What is quantized is shown as its integers too, under the name of the value that is rounded.
    """

    def __init__(self, path: Path, network: ir.Model, manifest: Manifest):
        self._path = path
        self._inputs = {spec.name: spec.engine_name or spec.name for spec in manifest.inputs}
        known = {value.name or "": value for value in float_values(network.graph)}
        self._values: dict[str, Stored] = {}
        for name, stored in inner_values(path).items():
            value = known.get(name)
            if value is None:
                continue
            if stored.grid is not None:
                self._values[rounded_name(value)] = stored
            elif value.producer() is not None:
                self._values[name] = stored

    @property
    def names(self) -> Sequence[str]:
        return list(self._values)

    def run(self, feed: Arrays) -> Mapping[str, Seen]:
        wanted = {name: stored.place for name, stored in self._values.items()}
        with TemporaryDirectory() as folder:
            copy = Path(folder, "probe.aimodel")
            asked = with_outputs(self._path, copy, list(wanted.values()))
            child = Child()
            try:
                child.open(copy)
                found = child.run({self._inputs[name]: np.asarray(array) for name, array in feed.items()})
            finally:
                child.close()
        seen = {}
        for name, stored in self._values.items():
            array, grid = found[asked[stored.place]], stored.grid
            seen[name] = Seen(array) if grid is None else Seen(dequantize(array, grid), array, grid)
        return seen
