"""The values of an .mlpackage, computed by the interpreter."""
from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeq.backend import Seen
from edgeq.inference.reference import Arrays
from edgeq.scheme import QuantParams, QuantType, dequantize
from edgeq.verification.mlpackage import open_package
from edgeq.verification.probe import float_values, rounded_name
from edgeq_runtime.engines.coreml import interface_shape
from edgeq_runtime.manifest import Manifest


class CoreMLProbe:
    """The interpreter's values. An op is named `<value>_<op>`; the last of a value makes it. Outputs keep their names.

    A ReLU that the grid behind it performs is no op: what is rounded there is the ReLU's output.
    """

    def __init__(self, path: Path, network: ir.Model, manifest: Manifest):
        self._program = open_package(path)
        self._inputs = {spec.name: spec.engine_name or spec.name for spec in manifest.inputs}
        outputs = {spec.engine_name or spec.name: spec.name for spec in manifest.outputs}
        known = {_letters(value.name or ""): value for value in float_values(network.graph)}
        keepable = set(self._program.value_names)
        steps = [step for step in self._program.steps if step.outputs and step.outputs[0].name in keepable]
        rounding = {source: (held, grid) for held, source, grid in map(_rounding, steps) if grid is not None}
        self._values: dict[str, tuple[str, QuantParams | None]] = {}
        for step in steps:
            held = step.outputs[0].name
            name = re.sub(r"_\d+$", "", step.name)
            value = known.get(name.removesuffix(f"_{step.op}")) if name.endswith(f"_{step.op}") else None
            if held in outputs:
                self._values[outputs[held]] = held, None
            elif held in rounding and value is not None:
                self._values[rounded_name(value)] = rounding[held]
            elif value is not None and value.producer() is not None and step.op not in ("quantize", "dequantize"):
                self._values[value.name or ""] = held, None

    @property
    def names(self) -> Sequence[str]:
        return list(self._values)

    def run(self, feed: Arrays) -> Mapping[str, Seen]:
        inputs = {self._inputs[name]: array.astype(np.float32 if array.dtype.kind == "f" else np.int32).reshape(
            interface_shape(array.shape)) for name, array in feed.items()}
        state = {spec.name: inputs.pop(spec.name) for spec in self._program.states}
        found = self._program.run(inputs, state, keep=[held for held, _ in self._values.values()])
        return {name: Seen(found[held]) if grid is None else Seen(dequantize(found[held], grid), found[held], grid)
                for name, (held, grid) in self._values.items()}


def _rounding(step: Any) -> tuple[str, str, QuantParams | None]:
    """(the integers' name, the rounded value's name, the grid) of a quantize op; no grid for any other."""
    source = step.inputs.get("input")
    if step.op != "quantize" or not hasattr(source, "name") or np.size(step.inputs["scale"]) != 1:
        return "", "", None
    zero_point = step.inputs.get("zero_point")
    offset = np.array(0 if zero_point is None else zero_point, np.int32).reshape(())
    scale = np.array(step.inputs["scale"], np.float32).reshape(())
    return step.outputs[0].name, source.name, QuantParams(QuantType(8, symmetric=False), scale, offset)


def _letters(name: str) -> str:
    """As the builder writes names: letters, digits and underscores, a letter first."""
    safe = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in name)
    return safe if safe[:1].isalpha() else f"v{safe}"
