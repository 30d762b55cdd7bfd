"""What the bundles of one conversion are compared with: the float network and the quantized graph on the same feeds."""
from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq import policy
from edgeq.errors import ModelError, VerificationError
from edgeq.external_weights import is_large
from edgeq.frontends import Reference
from edgeq.graph import moved_from
from edgeq.inference.columns import Parts, apart, columns_of
from edgeq.inference.reference import Arrays, run_onnx
from edgeq.ops import TAKING, facts
from edgeq.passes.images import arrays_channels_first, arrays_channels_last
from edgeq.quant.feeds import InputSpec
from edgeq.state import filled, state_pairs
from edgeq.verification.compare import compare
from edgeq.verification.inputs import cover_sizes, generated_feeds
from edgeq.verification.row_sets import RowSet, row_sets
from edgeq_runtime.preprocess import Preprocess

# A few units in the last place of 1.0, 2**-23: onnxruntime's and XNNPACK's sigmoid and tanh are polynomials.
# https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/mlas/lib/logistic.cpp
BOUNDED_ERROR: Final = 8 * 2.0 ** -23
_MOVES: Final = TAKING | {"Concat", "DequantizeLinear", "QuantizeLinear"}


@dataclass(frozen=True, slots=True)
class Origin:
    """source: as another engine computes it. network: what the passes made of it, before anything was quantized.
    turned: inputs and outputs that the network has channels last, and the source channels first.
    """

    source: Reference
    network: ir.Model
    turned: Collection[str] = ()

    def run(self, feeds: Sequence[Arrays]) -> list[Arrays]:
        """In the network's layout. Raises ModelError where the engine cannot run the source."""
        found = self.source.run([arrays_channels_first(feed, self.turned) for feed in feeds])
        return [arrays_channels_last(outputs, self.turned) for outputs in found]


class References:
    """The outputs of both graphs, computed once, and only when asked for.

    A backend that refuses nodes names them better than the reference that fails on them.
    """

    def __init__(self, network: ir.Model, graph: ir.Model, specs: Mapping[str, InputSpec],
                 samples: Iterable[Arrays] | None, origin: Origin | None = None, told: str = "calibration samples",
                 pixels: Preprocess | None = None):
        """network: the float one. graph: the quantized one. origin: what the network came from, as somebody else
        computes it; without, the network itself is the reference. told: what the samples are. pixels: what makes the
        only input of them, where a bundle takes them, so that every feed is what some pixels are.
        """
        self._pixels = pixels
        self._origin = origin
        self._network, self._graph, self._specs = network, graph, specs
        self.large, self.pairs = is_large(network), state_pairs(network)
        self.real = samples is not None
        told += ", step by step with its own state" if self.pairs else ""
        self.inputs = told if samples is not None else "generated (no samples were given)"
        # An integer may be a divisor, which 0 is not; or an index into one element, which 1 is not.
        self._choices: list[Iterable[Arrays]] = [samples] if samples is not None else [
            generated_feeds(specs), generated_feeds(specs, integers=(1, 1)), generated_feeds(specs, integers=(0, 0))]

    @cached_property
    def _run(self) -> tuple[list[Arrays], list[Arrays]]:
        """Feeds that the float network takes, and what it makes of them."""
        most = policy.ROLLED_STEPS if self.pairs else policy.VERIFIED_SAMPLES
        feeds = list(islice(self._choices[0], most.value))
        if self.real:
            feeds = cover_sizes(feeds, self._specs)
        feeds = list(map(self._of_pixels, feeds))
        try:
            return feeds, list(run_onnx(self._network, feeds))
        except ModelError:
            for choice in self._choices[1:]:
                with suppress(ModelError):
                    feeds = list(map(self._of_pixels, choice))
                    return feeds, list(run_onnx(self._network, feeds))
            raise

    def _of_pixels(self, feed: Arrays) -> Arrays:
        before = self._pixels
        return feed if before is None else {name: before.of_pixels(before.to_pixels(array))
                                            for name, array in feed.items()}

    @cached_property
    def row_sets(self) -> tuple[RowSet, ...]:
        return row_sets(self._network.graph)

    @cached_property
    def parts(self) -> dict[str, Parts]:
        """Columns of outputs that are measured apart."""
        return apart(self._network.graph, self._run[1])

    @property
    def feeds(self) -> list[Arrays]:
        """Of a streaming model, one stream; see `edgeq.state.fed_back`."""
        return self._run[0]

    @property
    def alone(self) -> list[Arrays]:
        """The same, each with the float network's state, to run by itself."""
        return list(filled(self.feeds, self._run[1], self.pairs))

    @cached_property
    def source(self) -> tuple[list[Arrays] | None, str]:
        """What the source makes of the feeds, None where no other engine runs it; and who computed it, or why nobody.

        Raises:
            VerificationError: the passes changed what the model computes.
        """
        if self._origin is None:
            return None, "edgeq's own graph: the weights are too large to be held twice"
        try:
            outputs = self._origin.run(self.alone)
        except ModelError as error:
            return None, f"edgeq's own graph: {error}"
        by = self._origin.source.by
        network = {id(self._network): self._run[1], id(self._graph): self.graph}.get(id(self._origin.network))
        network = network or list(run_onnx(self._origin.network, self.feeds))
        check_passes(outputs, network, by, self.arithmetic_noise, self.row_sets)
        return outputs, by

    @cached_property
    def arithmetic_noise(self) -> dict[str, float]:
        """Sum of squares, by output, that two correct float32 engines may differ by; empty for large networks.

        Measured: the network with its operators fused, and on inputs moved by one unit in the last place; differences
        of large numbers and long recurrences amplify both. And known: polynomials that approximate bounded functions
        are a few units of 1.0 off, which is much where their result is nearly 0.
        """
        if self.large:
            return {}
        expected = self._run[1]
        moved = [{name: _moved(array) for name, array in feed.items()} for feed in self.feeds]
        others = (run_onnx(self._network, self.feeds, fused=True), run_onnx(self._network, moved))
        found = {name: float(len(expected) * expected[0][name].size * BOUNDED_ERROR ** 2)
                 for name in bounded_outputs(self._network.graph)}
        found |= {name: float(sum(each[name].size for each in columns) * BOUNDED_ERROR ** 2)
                  for columns in [columns_of(expected, self.parts)] for name in columns[0].keys() - expected[0].keys()}
        for other in others:
            for difference in compare(expected, list(other), self.row_sets, self.parts):
                noise = policy.ARITHMETIC_MARGIN.value * (difference.noise if difference.noise >= 0 else 0.0)
                found[difference.output] = found.get(difference.output, 0.0) + noise
        return found

    @property
    def float(self) -> list[Arrays]:
        """Of the source itself, where it is the float model; else of the network without its rounding."""
        outputs = self.source[0]
        is_float = self._origin is not None and self._origin.network is self._network
        return self._run[1] if outputs is None or not is_float else outputs

    @cached_property
    def graph(self) -> list[Arrays]:
        return self._run[1] if self._graph is self._network else list(run_onnx(self._graph, self.feeds))


def _moved(array: NDArray[Any]) -> NDArray[Any]:
    """Every other number one unit in the last place away from zero."""
    if array.dtype.kind != "f":
        return array
    away = np.nextafter(array, np.where(array < 0, -np.inf, np.inf).astype(array.dtype))
    return np.where(np.arange(array.size).reshape(array.shape) % 2, array, away)


def check_passes(source: Sequence[Arrays], network: Sequence[Arrays], by: str, noise: Mapping[str, float],
                 sets: Sequence[RowSet] = ()) -> None:
    """noise: sum of squares, by output, that float arithmetic leaves open. sets: outputs whose rows have no order.

    Raises:
        VerificationError: the network is further from its source than float arithmetic explains.
    """
    wrong = [f"output '{found.output}': {found.sqnr_db:.1f} dB from {by}, {policy.PASSES_DB.value:.0f} dB is the least"
             for found in compare(source, network, sets)
             if not found.noise <= found.signal * 10 ** (-policy.PASSES_DB.value / 10) + noise.get(found.output, 0.0)]
    if wrong:
        raise VerificationError("the network that edgeq prepared does not compute what its source computes. This is a "
                                "bug in edgeq: please report it\n" + "\n".join(f"  - {line}" for line in wrong))


def bounded_outputs(graph: ir.Graph) -> set[str]:
    """The outputs that a function between -1 and 1 ends, directly or through what only moves numbers."""
    ends = {value.name or "": moved_from(value, _MOVES).producer() for value in graph.outputs}
    return {name for name, producer in ends.items() if producer is not None and facts(producer.op_type).bounded}
