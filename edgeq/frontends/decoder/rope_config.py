"""Rotary positions as a config.json describes them, in its old form and in its new one."""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from edgeq.errors import ModelError
from edgeq.frontends.decoder.spec import Linear, Llama3, LongRope, Rotary, Scaling, Yarn


def rotary_of(config: Mapping[str, Any], head_size: int, *, local: bool) -> Rotary:
    """local: of a layer with a sliding window, which in Gemma 3 has a base of its own and no scaling.

    Raises:
        ModelError: a scaling that is not known, or one that lacks a number.
    """
    given = dict(config.get("rope_parameters") or {})
    by_kind = given.get("sliding_attention" if local else "full_attention")
    if isinstance(by_kind, Mapping):
        given = dict(by_kind)
    elif local and "rope_local_base_freq" in config:
        given = {"rope_theta": config["rope_local_base_freq"]}
    else:
        given = {**(config.get("rope_scaling") or {}), **given}
    base = float(given.get("rope_theta") or config.get("rope_theta") or 10000.0)
    share = given.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    size = int(head_size * (1.0 if share is None else float(share)))
    kind = str(given.get("rope_type") or given.get("type") or "default")
    if kind not in _KINDS:
        raise ModelError(f"config.json: rotary positions scaled by '{kind}'; edgeq knows {', '.join(_KINDS)}")
    try:
        return Rotary(base, size, _KINDS[kind](given, config))
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"config.json: rotary scaling '{kind}' lacks {error}") from None


def _original(given: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    return int(given.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
               or config["max_position_embeddings"])


def _llama3(given: Mapping[str, Any], config: Mapping[str, Any]) -> Scaling:
    return Llama3(float(given["factor"]), float(given["low_freq_factor"]), float(given["high_freq_factor"]),
                  _original(given, config))


def _yarn(given: Mapping[str, Any], config: Mapping[str, Any]) -> Scaling:
    attention = given.get("attention_factor")
    return Yarn(float(given["factor"]), _original(given, config), float(given.get("beta_fast") or 32),
                float(given.get("beta_slow") or 1), None if attention is None else float(attention))


def _longrope(given: Mapping[str, Any], config: Mapping[str, Any]) -> Scaling:
    original = _original(given, config)
    factor = float(given.get("factor") or config["max_position_embeddings"] / original)
    attention = given.get("attention_factor")
    if attention is None:
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return LongRope(tuple(map(float, given["short_factor"])), tuple(map(float, given["long_factor"])), original,
                    float(attention))


_KINDS: Final[Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Any]], Scaling]]] = MappingProxyType({
    "default": lambda given, config: None,
    "linear": lambda given, config: Linear(float(given["factor"])),
    "llama3": _llama3, "yarn": _yarn, "longrope": _longrope, "su": _longrope,
})
