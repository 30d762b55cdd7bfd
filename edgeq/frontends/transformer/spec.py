"""What a stack of transformer blocks is, once its configuration is read."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class Learned:
    """A table of `rows` positions in the file, of which the first `skipped` stand for no token (RoBERTa's padding)."""

    rows: int
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Sinusoidal:
    """A table that follows from its size: sines in the first half of a row, cosines in the second."""

    rows: int


Positions: TypeAlias = Learned | Sinusoidal | None


@dataclass(frozen=True, slots=True)
class Relative:
    """What is added to the scores follows from a bucket of the distance between query and key (Raffel et al. 2020,
    arXiv:1910.10683): half of the buckets are distances, the others grow with their logarithm up to `furthest`.
    """

    buckets: int
    furthest: int = 128


@dataclass(frozen=True, slots=True)
class Stack:
    """An encoder or a decoder.

    context: tokens, or frames behind the convolutions of speech. hidden, inner: widths of the residual stream and
    inside an MLP. heads, head_size: of attention. rms: norms are without mean and bias. pre_norm: in front of attention
    and MLP, and one behind the last block; else behind each. gated: act(gate) * up instead of act(up). biases: the
    linear layers that have one, by role. scale: of the products of queries and keys. embedding_norm: a norm behind
    the embedding. kinds: rows of a table of kinds of token, of which the first is meant. mels: channels of the sound
    that an encoder of speech reads, 0 for one of tokens. logit_scale: of what enters the head.
    """

    vocabulary: int
    context: int
    hidden: int
    inner: int
    heads: int
    head_size: int
    layers: int
    epsilon: float
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"]
    positions: Positions
    relative: Relative | None = None
    rms: bool = False
    pre_norm: bool = False
    gated: bool = False
    biases: frozenset[str] = frozenset()
    scale: float = 1.0
    embedding_scale: float = 1.0
    embedding_norm: bool = False
    kinds: int = 0
    mels: int = 0
    logit_scale: float = 1.0
    head_bias: bool = False
