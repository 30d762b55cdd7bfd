"""What a decoder is, once its configuration is read: numbers and kinds, nothing of the file that they came from."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Linear:
    """Every frequency divided by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3:
    """Long wave lengths divided by `factor`, short ones kept, those between blended. original: trained context."""

    factor: float
    low: float
    high: float
    original: int


@dataclass(frozen=True, slots=True)
class Yarn:
    """Peng et al. 2023, arXiv:2309.00071. attention: what cos and sin are multiplied with, None for the paper's."""

    factor: float
    original: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention: float | None = None


@dataclass(frozen=True, slots=True)
class LongRope:
    """Ding et al. 2024, arXiv:2402.13753: a factor for each frequency, `short` within the trained context, `long`
    beyond. attention: as of Yarn.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original: int
    attention: float


Scaling: TypeAlias = Linear | Llama3 | Yarn | LongRope | None


@dataclass(frozen=True, slots=True)
class Rotary:
    """base: of the frequencies. size: how many of a head's numbers are rotated."""

    base: float
    size: int
    scaling: Scaling = None


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Mean and variance, with a bias."""


@dataclass(frozen=True, slots=True)
class RMSNorm:
    """offset: what is added to the stored weight (Gemma stores weight - 1)."""

    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Layer:
    """What may differ from layer to layer. rotary: None without positions. window: tokens that attention looks back
    over, itself included; None for all.
    """

    rotary: Rotary | None
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Spec:
    """A decoder.

    hidden, inner: widths of the residual stream and inside an MLP. heads, kv_heads, head_size: of attention. norm: its
    kind; epsilon: of every norm. pre_norm, post_norm: in front of and behind attention and MLP. qk_norm: of queries and
    keys, over each head or over all at once. biases: which linear layers have one, by role. gated: act(gate) * up
    instead of act(up). attention_scale: of the products of queries and keys. attention_cap, logit_cap: x becomes
    cap * tanh(x / cap). embedding_scale, residual_scale, logit_scale: factors. learned_positions: rows of a table of
    positions that is added to the embedding, 0 without.
    """

    architecture: str
    vocabulary: int
    context: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_size: int
    layers: tuple[Layer, ...]
    norm: LayerNorm | RMSNorm
    epsilon: float
    attention_scale: float
    activation: Literal["silu", "gelu", "gelu_tanh"]
    gated: bool = True
    pre_norm: bool = True
    post_norm: bool = False
    qk_norm: Literal["head", "all"] | None = None
    biases: frozenset[str] = frozenset()
    tied: bool = False
    attention_cap: float | None = None
    logit_cap: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    learned_positions: int = 0
