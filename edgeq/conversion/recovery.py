"""`--recover`: its samples, and what of a conversion it changes."""
from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from edgeq import policy
from edgeq.conversion.metadata import input_specs
from edgeq.conversion.quantization import QuantizedNetwork
from edgeq.conversion.request import Request
from edgeq.errors import MissingExtra, UsageError
from edgeq.inference.session import Arrays
from edgeq.quant.samples import Samples, digest_of, open_samples
from edgeq.state import state_pairs


def check_recovery(network: ir.Model, request: Request) -> None:
    """Before anything is quantized.

    Raises:
        MissingExtra: torch is not there. UsageError: the model keeps state. UnsupportedModel: see `TorchNetwork.of`.
    """
    if request.options.recover is None:
        return
    try:
        from edgeq.recovery.network import TorchNetwork
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtra("--recover", "recover") from None
    if state_pairs(network):
        raise UsageError("--recover learns from samples one by one, and a streaming model's state follows from those "
                         "before: leave it out, or take --state none")
    TorchNetwork.of(network)


def recovered(network: ir.Model, result: QuantizedNetwork, request: Request, unseen: Samples | None,
              paths: Mapping[str, Path]) -> QuantizedNetwork:
    """The same with what the quantized graph has learned, where that gains. unseen: samples that figures come from,
    and that nothing is learned from therefore. paths: of the bundles; learning is kept beside the first.

    Raises:
        EdgeqError: see `edgeq.recovery.recover`. What was learned by then stays, for --resume.
    """
    options = request.options
    if options.recover is None or result.plan is None:
        return result
    from edgeq.recovery.recover import StateFile, recover

    samples = open_samples(options.recover, input_specs(network), preprocess=request.preprocess)
    kept = list(itertools.islice(_without(samples, unseen), policy.RECOVERY_SAMPLES.value))
    state = StateFile(_state_path(paths), options.resume)
    graph, figures = recover(result.network, result.graph, kept, "weights" if options.recover_weights else "scales",
                             request.progress, None if options.dry_run else state)
    return replace(result, graph=graph, recovery=figures.to_json())


def forget_learning(paths: Mapping[str, Path]) -> None:
    """The bundles are written: nothing is left to resume."""
    _state_path(paths).unlink(missing_ok=True)


def _state_path(paths: Mapping[str, Path]) -> Path:
    path = next(iter(paths.values()))
    return path.parent / f".{path.name}.recovery"


def _without(samples: Samples, unseen: Samples | None) -> Iterator[Arrays]:
    excluded = set() if unseen is None else {digest_of(feed) for feed in unseen}
    return (feed for feed in samples if digest_of(feed) not in excluded)
