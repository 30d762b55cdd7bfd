"""What the bundles of one conversion are compared with: the float network and the quantized graph on the same feeds."""
from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from itertools import islice
from typing import Final

import onnx_ir as ir

from edgeq.errors import ModelError
from edgeq.external_weights import is_large
from edgeq.inference.reference import Arrays, run_onnx
from edgeq.quant.samples import InputSpec
from edgeq.verify.inputs import cover_sizes, generated_feeds

SAMPLES: Final = 8  # enough to see a wrong layout or a broken kernel, not to measure an accuracy


class References:
    """The outputs of both graphs, computed once, and only when asked for.

    A backend that refuses nodes names them better than the reference that fails on them.
    """

    def __init__(self, network: ir.Model, graph: ir.Model, specs: Mapping[str, InputSpec],
                 samples: Iterable[Arrays] | None):
        self._network, self._graph, self._specs = network, graph, specs
        self.large = is_large(network)
        self.real = samples is not None
        self.inputs = "calibration samples" if samples is not None else "generated (no samples were given)"
        # An integer may be a divisor, which 0 is not; or an index into one element, which 1 is not.
        self._choices: list[Iterable[Arrays]] = [samples] if samples is not None else [
            generated_feeds(specs), generated_feeds(specs, integers=(1, 1)), generated_feeds(specs, integers=(0, 0))]

    @cached_property
    def _run(self) -> tuple[list[Arrays], list[Arrays]]:
        """Feeds that the float network takes, and what it makes of them."""
        feeds = list(islice(self._choices[0], SAMPLES))
        if self.real:
            feeds = cover_sizes(feeds, self._specs)
        try:
            return feeds, list(run_onnx(self._network, feeds))
        except ModelError:
            for choice in self._choices[1:]:
                with suppress(ModelError):
                    feeds = list(choice)
                    return feeds, list(run_onnx(self._network, feeds))
            raise

    @property
    def feeds(self) -> list[Arrays]:
        return self._run[0]

    @property
    def float(self) -> list[Arrays]:
        return self._run[1]

    @cached_property
    def graph(self) -> list[Arrays]:
        return self.float if self._graph is self._network else list(run_onnx(self._graph, self.feeds))
