"""What a bundle says of itself: manifest and report."""
from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx_ir as ir

from edgeq.backend import Artifact, Trial
from edgeq.bundle.folder import sha256
from edgeq.conversion.interface import Public
from edgeq.conversion.quantization import QuantizedNetwork
from edgeq.conversion.request import Request
from edgeq.conversion.text import text_of
from edgeq.conversion.words import source_date
from edgeq.dimensions import dimensions, free_dimensions
from edgeq.errors import ModelError
from edgeq.frontends.transformer.source import is_transformer
from edgeq.graph import real_inputs
from edgeq.mixed_precision import Goal
from edgeq.passes.images import CHANNELS_FIRST, layouts, name_channels_last
from edgeq.quant.calibrate import CALIBRATORS
from edgeq.quant.calibrate.advice import Survey, moves, said_of_moves
from edgeq.quant.calibrate.auto import DEFAULT
from edgeq.quant.feeds import InputSpec
from edgeq.quant.plan import QuantPlan
from edgeq.quant.samples import Samples
from edgeq.scheme import QuantParams
from edgeq.state import state_pairs
from edgeq.verification.verify_artifact import Verification
from edgeq_runtime import __version__
from edgeq_runtime.dimensions import Free
from edgeq_runtime.manifest import Manifest, TensorSpec
from edgeq_runtime.preprocess import Preprocess


@dataclass(frozen=True)
class Metadata:
    """What all bundles of one conversion have in common.

    survey: of all calibration samples. unseen: those that were held out. warnings: of the samples, beside those that
    they show by themselves. transposed: inputs and outputs that are channels first in the source and channels last in
    the bundles. sizes: those that the samples told, for the report.
    """

    source: Any
    request: Request
    quantized: QuantizedNetwork
    survey: Survey | None
    unseen: Samples | None = None
    warnings: Sequence[str] = ()
    goal: Goal | None = None
    transposed: Collection[str] = ()
    sizes: Mapping[str, Any] | None = None

    @property
    def graph(self) -> ir.Model:
        return self.quantized.graph

    @property
    def plan(self) -> QuantPlan | None:
        """None where the source was quantized already."""
        return self.quantized.plan

    def manifest(self, target: str, artifact: Artifact, made: Public) -> Manifest:
        """Everything a device must know, but for the files and the measured accuracy. made: what was emitted."""
        free, known = free_dimensions(self.graph), layouts(self.graph.graph)

        def named(values: Sequence[ir.Value]) -> tuple[TensorSpec, ...]:
            return tuple(replace(
                on_grid(spec, made.grids.get(spec.name)), engine_name=artifact.names.get(spec.name, ""),
                layout=known.get(spec.name, ""),
                source_layout=CHANNELS_FIRST[len(spec.shape)] if spec.name in self.transposed else "",
            ) for spec in specs(values, free))

        postprocess = self.request.postprocess
        manifest = Manifest(
            name=model_name(self.source), target=target, engine=artifact.engine, engine_version=artifact.engine_version,
            entry=artifact.entry, inputs=named(real_inputs(self.graph.graph)),
            outputs=named(list(self.graph.graph.outputs)), files=(), options=dict(artifact.options),
            preprocessing=self.preprocessing(made.pixels),
            postprocessing=None if postprocess is None else postprocess.to_dict(), labels=self.request.labels,
            quantization=self.quantization(artifact), calibration=self.calibration, source_sha256=self.source_sha256,
            edgeq_version=__version__, product=self.request.options.product, version=self.request.options.version,
            state=state_pairs(self.graph), text=text_of(self.source))
        return manifest if self.request.device is None else self.request.device.fitted(manifest)

    def report(self, manifest: Manifest, artifact: Artifact, verification: Verification | None,
               evaluation: Mapping[str, Any] | None, seconds: float, trial: Trial | None) -> dict[str, Any]:
        """What the conversion did and measured. evaluation: of the metric, as in the manifest. seconds: of emitting
        alone. trial: by the device's own engine.
        """
        quantized = self.quantized
        return {
            "target": manifest.target, "name": model_name(self.source), "integer_interface": [
                {key: getattr(spec, key) for key in ("name", "dtype", "scale", "zero_point")}
                for spec in (*manifest.inputs, *manifest.outputs) if spec.scale is not None],
            "emit_seconds": round(seconds, 3), **source_date(),
            "source_bytes": self.source_bytes, "sizes": self.sizes, "quantization": self.quantization(artifact),
            "calibration": self.advice,
            "float_on_this_engine": [asdict(node) for node in artifact.unplanned_float(quantized.kept)],
            "notes": [asdict(note) for note in artifact.notes],
            "verification": None if verification is None else verification.to_json(),
            "mixed_precision": quantized.mixed.to_json(), "recovery": quantized.recovery,
            **({} if not manifest.state else {"state": manifest.state}),
            **({} if evaluation is None else {"evaluation": evaluation}),
            **({} if trial is None else {"device": {"said": trial.said, **trial.facts}}),
        }

    def preprocessing(self, pixels: bool = False) -> dict[str, Any] | None:
        """Into what the bundle takes; that of the request is for samples, which are as the source model takes them.
        pixels: the bundle takes those.
        """
        given = self.request.preprocess
        if given is None:
            return None
        is_transposed = any(value.name in self.transposed for value in self.graph.graph.inputs)
        given = replace(given, layout=name_channels_last(given.layout) if is_transposed else given.layout)
        if isinstance(given, Preprocess) and pixels:
            given = replace(given, pixels=True)
        return given.to_dict()

    def quantization(self, artifact: Artifact) -> dict[str, Any]:
        """How many bits what has in an artifact, and by which methods."""
        if self.plan is None:
            return {"scheme": "as in the source model"}
        activation, said = self.plan.activation, self.request.options
        given = {name: found.weight_bits for name, found in self.quantized.mixed.layers.items()
                 if self.request.is_search and found.weight_bits is not None}
        asked = min(given.values(), default=self.request.weight_bits)
        bits = {weight.node: weight.type.bits for weight in self.plan.weights} | given
        return {
            "weight_bits": asked, "weights": said.weights, "method": said.method,
            "activation_bits": artifact.activation_bits or activation.bits if activation else 32,
            "calibrator": said.calibrator if activation else None,
            "scaled_channels": [asdict(scaled) for scaled in self.quantized.scaled],
            "higher_precision_layers": {name: width for name, width in bits.items() if width != asked},
            "kept_float": [asdict(kept) for kept in self.plan.kept],
        }

    @property
    def calibration(self) -> dict[str, Any] | None:
        """Which data, and the range of each input, which the device watches."""
        if self.survey is None:
            return None
        ranges = {found.name: [found.smallest, found.largest] for found in self.survey.inputs}
        return {"samples": self.survey.samples, "held_out": self._held_out, "sha256": self.survey.sha256,
                "ranges": ranges}

    @cached_property
    def advice(self) -> dict[str, Any] | None:
        """Which data, what it looks like, what is suspicious about it, and whether more would help."""
        if self.survey is None:
            return None
        calibrator = self.request.calibrator or CALIBRATORS[DEFAULT]
        moved = moves(self.quantized.statistics, calibrator)
        return {**asdict(self.survey), "warnings": [*self.warnings, *self.survey.warnings],
                "held_out": self._held_out, "moved": [asdict(move) for move in moved],
                "movement": said_of_moves(self.quantized.statistics, moved)}

    @property
    def _held_out(self) -> int:
        """Samples that only figures come from."""
        return 0 if self.unseen is None else self.unseen.count

    @cached_property
    def source_sha256(self) -> str:
        return sha256(Path(self.source)) if _is_file(self.source) else ""

    @property
    def source_bytes(self) -> int | None:
        """Bytes of a source file with its external data, or of a folder's tensors."""
        if is_transformer(self.source):
            return sum(path.stat().st_size for path in Path(self.source).glob("*.safetensors"))
        if not _is_file(self.source):
            return None
        return sum(path.stat().st_size for path in (Path(self.source), Path(f"{self.source}.data")) if path.is_file())


def model_name(source: Any) -> str:
    """The file's name without its ending, the function's name, or "model"."""
    if not isinstance(source, (str, Path)):
        return "model"
    path = Path(source)
    if path.is_dir():
        return path.resolve().name
    return path.stem if path.suffix else str(source).rpartition(":")[2]


def said_path(source: Any) -> str:
    """What a user calls a model: its path, or "model" where it is in memory."""
    return str(source) if isinstance(source, (str, Path)) else "model"


def _is_file(source: Any) -> bool:
    return isinstance(source, (str, Path)) and Path(source).is_file()


def on_grid(spec: TensorSpec, grid: QuantParams | None) -> TensorSpec:
    """A tensor of the float model as integers."""
    if grid is None:
        return spec
    dtype = "int8" if grid.type.signed else "uint8"
    return replace(spec, dtype=dtype, scale=float(grid.scale), zero_point=int(grid.zero_point))


def input_specs(network: ir.Model) -> dict[str, InputSpec]:
    """What every input of a network expects: dtype and shape, and where a state comes from."""
    pairs = state_pairs(network)
    return {spec.name: InputSpec(spec.dtype, spec.shape, pairs.get(spec.name, ""))
            for spec in specs(real_inputs(network.graph), free_dimensions(network))}


def specs(values: Iterable[ir.Value], free: Mapping[str, Free] = {}) -> tuple[TensorSpec, ...]:
    """Inputs or outputs as a user sees them. free: the limits of free dimensions, by name.

    Raises:
        ModelError: a shape or dtype is not known.
    """
    found = []
    for value in values:
        if value.dtype is None or value.shape is None:
            raise ModelError(f"the shape of '{value.name}' is not known: behind an operator of another domain, "
                             "the model must declare it")
        found.append(TensorSpec(value.name or "", value.dtype.numpy().name, dimensions(value, free)))
    return tuple(found)
