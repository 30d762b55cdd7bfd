"""The check of a bundle that exists: its files, its self-test, and how far it is from its float model."""
from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

import edgeq_runtime
from edgeq.errors import UsageError
from edgeq.frontends import load_model
from edgeq.inference.columns import apart
from edgeq.inference.reference import Arrays, run_onnx
from edgeq.passes import canonicalize
from edgeq.passes.images import arrays_channels_last, channels_first_shape, make_channels_last, name_channels_first
from edgeq.quant.feeds import InputSpec
from edgeq.quant.samples import open_samples
from edgeq.state import filled
from edgeq.verification.compare import Difference, compare
from edgeq.verification.interface import as_float, as_given, as_taken
from edgeq.verification.layers import LayerComparison, compare_layers
from edgeq.verification.row_sets import in_one_order, row_sets
from edgeq_runtime.manifest import Manifest, TensorSpec
from edgeq_runtime.predict import steps
from edgeq_runtime.preprocess import Preprocess
from edgeq_runtime.selftest import FILE_NAME as SELFTEST
from edgeq_runtime.selftest import SelfTestResult, read_selftest
from edgeq_runtime.sound import LogMel


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found. files: how many have the sha256 of the manifest (all of them, or verify_bundle had raised).

    self_test: None where the bundle has none and was compared instead. against_float: each output against the float
    model's, over `samples` samples. finite: no output is NaN or infinite where the float model's is not. accuracy: what
    the conversion measured. layers: where that was asked for.
    """

    files: int
    engine: str
    accelerator: str
    self_test: SelfTestResult | None
    accuracy: Mapping[str, Any]
    against_float: tuple[Difference, ...] = ()
    samples: int = 0
    finite: bool = True
    layers: LayerComparison | None = None

    @property
    def passed(self) -> bool:
        """A distance from the float model is a measurement, not a verdict; NaN where there was none is one."""
        return (self.self_test is None or self.self_test.ok) and self.finite

    def to_json(self) -> dict[str, Any]:
        found = {"passed": self.passed, **asdict(replace(self, layers=None))}
        del found["layers"]
        return found if self.layers is None else found | self.layers.to_json()


def verify_bundle(bundle: Path, data: Any = None, reference: Any = None, limit: int | None = None, *,
                  layers: bool = False, example_inputs: Any = None, trust: bool = False) -> Checked:
    """Check a bundle. data: samples as `convert` takes them, or None for the self-test's. reference: the float model.
    layers: compare value by value. example_inputs: of a reference that is a torch module. trust: as of `load_model`.

    Raises:
        BundleError: damaged, or without a self-test when there is nothing else to check. UsageError: data or layers
            without a reference. EdgeqError: the engine, the float model or the samples cannot be used.
    """
    if layers and reference is None:
        raise UsageError("--layers compares with the float model: add --reference MODEL")
    if data is not None and reference is None:
        raise UsageError("--data alone cannot be judged: add --reference MODEL, the float model to compare with")
    with edgeq_runtime.load(bundle, verify=True) as model:
        has_selftest = data is None or (bundle / SELFTEST).is_file()
        result = Checked(len(model.manifest.files), model.engine, model.accelerator,
                         model.self_test() if has_selftest else None, model.manifest.accuracy)
        if reference is None:
            return result
        transposed = transposed_names(model.manifest)
        manifest = model.manifest
        feeds = _feeds(bundle, manifest, data, limit, transposed)
        outputs = [as_float(manifest, model.run(as_taken(manifest, feed))) for feed in feeds]
    network = float_network(reference, manifest, transposed, example_inputs, trust)
    expected, outputs = in_one_order(list(run_onnx(network, feeds)), outputs, row_sets(network.graph))
    against = compare(expected, outputs, parts=apart(network.graph, expected))
    return replace(result, against_float=against, samples=len(feeds),
                   finite=_is_finite_where(expected, outputs),
                   layers=compare_layers(bundle, network, filled(feeds, expected, manifest.state)) if layers else None)


def _feeds(bundle: Path, manifest: Manifest, data: Any, limit: int | None, transposed: frozenset[str]) -> list[Arrays]:
    """As the float model takes them, in the bundle's layout."""
    if data is None:
        return [as_given(manifest, case.inputs) for case in islice(read_selftest(bundle / SELFTEST)[0], limit)]
    samples = open_samples(data, source_specs(manifest), limit=limit, preprocess=source_preprocess(manifest))
    return [arrays_channels_last(feed, transposed) for feed in samples]


def source_specs(manifest: Manifest) -> dict[str, InputSpec]:
    """The inputs as the float model takes them."""
    return {spec.name: InputSpec(spec.dtype if spec.scale is None else "float32", _source_shape(spec),
                                 manifest.state.get(spec.name, ""))
            for spec in manifest.inputs}


def source_preprocess(manifest: Manifest) -> Preprocess | LogMel | None:
    """The declared preprocessing into what the float model takes."""
    declared = steps(manifest)[0]
    if isinstance(declared, Preprocess):
        declared = replace(declared, pixels=False)
    if declared is None or transposed_names(manifest).isdisjoint(source_specs(manifest)):
        return declared
    return replace(declared, layout=name_channels_first(declared.layout))


def transposed_names(manifest: Manifest) -> frozenset[str]:
    """The inputs and outputs that the float model has channels first and the bundle channels last."""
    return frozenset(spec.name for spec in (*manifest.inputs, *manifest.outputs) if spec.source_layout)


def _source_shape(spec: TensorSpec) -> tuple[Any, ...]:
    return channels_first_shape(spec.shape) if spec.source_layout else spec.shape


def float_network(reference: Any, manifest: Manifest, transposed: Collection[str], example_inputs: Any = None,
                  trust: bool = False) -> ir.Model:
    """With the interface of the bundle. transposed: what is channels last in it; nothing keeps the source's layout."""
    shapes = {spec.name: _source_shape(spec) for spec in manifest.inputs
              if not any(isinstance(d, str) for d in spec.shape)}
    network = load_model(reference, inputs=shapes, example_inputs=example_inputs, state=manifest.state,
                         open_sizes=True, trust=trust)
    canonicalize(network)
    make_channels_last(network, transposed)
    for kind, values, specs in (("inputs", network.graph.inputs, manifest.inputs),
                                ("outputs", network.graph.outputs, manifest.outputs)):
        ours, theirs = [spec.name for spec in specs], [value.name or "" for value in values]
        if not set(ours) <= set(theirs):
            raise UsageError(f"--reference {reference} is another model: its {kind} are {', '.join(theirs)}, "
                             f"the bundle's {', '.join(ours)}")
    return network


def _is_finite_where(expected: Sequence[Arrays], got: Sequence[Arrays]) -> bool:
    """Whether every output is finite at the places where the float model's is."""
    return all(bool(np.isfinite(array[np.isfinite(reference[name])]).all())
               for reference, outputs in zip(expected, got, strict=True)
               for name, array in outputs.items() if array.dtype.kind == "f")
