"""What samples decide where the user measures nothing: which layers get more bits, and which compute in float."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgeq.mixed_precision.bit_allocation import higher_precision_layers
from edgeq.mixed_precision.fidelity import Fidelity
from edgeq.mixed_precision.float_fallback import float_fallback
from edgeq.mixed_precision.price import Price
from edgeq.mixed_precision.result import Clock, MixedPrecision
from edgeq.mixed_precision.trial_builder import TrialBuilder
from edgeq.quant.plan import Precision
from edgeq.quant.samples import Samples


def choose_precisions(builder: TrialBuilder, samples: Samples, prefer: str | None, *, floats: bool = True,
                      clock: Clock | None = None) -> MixedPrecision:
    """At 4 bits the layers that keep 8, and with integer activations, at any width, the layers that compute in float:
    chosen with 8-bit weights, next to which the rounding of activations shows. prefer: how much time the latter may
    take; None: a share of the work. clock: takes that time; None: it is predicted. floats: False for none of them.
    """
    scheme, fidelity = builder.scheme, Fidelity.of(builder.network, samples)
    fallback = MixedPrecision()
    if floats and scheme.activation is not None:
        eight = builder.with_8_bit_weights()
        fallback = float_fallback(eight, fidelity, Price(eight, prefer, clock))
    if scheme.weight is None or scheme.weight.bits != 4:
        return fallback
    allocated = higher_precision_layers(builder, fidelity)
    return MixedPrecision(_together(allocated.layers, fallback.layers), fallback.float_share,
                          (*allocated.measured, *fallback.measured))


def _together(bits: Mapping[str, Precision], fallback: Mapping[str, Precision]) -> dict[str, Precision]:
    """The bits of weights of the one, the float layers of the other."""
    floats = {name: replace(bits.get(name, Precision()), integer_activations=False, reason=given.reason)
              for name, given in fallback.items() if given.integer_activations is False}
    return {**bits, **floats}
