"""llama.cpp's mixes: which type each tensor of a decoder gets, by its role and layer, and where rows do not fit a type.

The rules are those of src/llama-quant.cpp (llama_tensor_get_type_impl, tensor_type_fallback), so that a file of the
same name has the same types in the same places, and differs in its codes alone.
https://github.com/ggml-org/llama.cpp/blob/master/src/llama-quant.cpp
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeAlias

from edgeq.errors import UsageError
from edgeq.quant.formats import FORMATS

FLOATS: Final = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Place:
    """Of a tensor: the layer's number, how many there are, and how many query heads share a key and value head."""

    layer: int
    layers: int
    sharing: int = 1


# layer -> its type, or None for the mix's own
Rule: TypeAlias = Callable[[Place], str | None]


def _always(name: str) -> Rule:
    return lambda place: name


def _first(name: str, count: int) -> Rule:
    return lambda place: name if place.layer < count else None


def _first_share(name: str, divisor: int) -> Rule:
    return lambda place: name if place.layer < place.layers // divisor else None


def _important(name: str) -> Rule:
    """The first and last eighth of the layers, and every third between."""
    def rule(place: Place) -> str | None:
        k, eighth = place.layer, place.layers // 8
        return name if k < eighth or k >= 7 * place.layers // 8 or (k - eighth) % 3 == 2 else None

    return rule


@dataclass(frozen=True, slots=True)
class Mix:
    """number: `general.file_type`. type: what tensors get of which no rule says another. rules: by role; "qkv" where
    queries, keys and values are one tensor.
    """

    name: str
    number: int
    type: str
    rules: Mapping[str, Rule] = field(default_factory=dict)


MIXES: Final[Mapping[str, Mix]] = MappingProxyType({mix.name: mix for mix in (
    Mix("F32", 0, "F32"),
    Mix("F16", 1, "F16"),
    Mix("BF16", 32, "BF16"),
    Mix("Q4_0", 2, "Q4_0"),
    Mix("Q4_1", 3, "Q4_1"),
    Mix("Q8_0", 7, "Q8_0"),
    Mix("Q5_0", 8, "Q5_0"),
    Mix("Q5_1", 9, "Q5_1"),
    Mix("Q2_K", 10, "Q2_K", {"v": lambda place: "Q4_K" if place.sharing >= 4 else "Q3_K", "down": _always("Q3_K"),
                             "o": _always("Q3_K")}),
    Mix("Q3_K_S", 11, "Q3_K"),
    Mix("Q3_K_M", 12, "Q3_K", {"v": lambda place: "Q5_K" if place.layer < 2 else "Q4_K",
                               "down": lambda place: "Q5_K" if place.layer < place.layers // 16 else "Q4_K",
                               "o": _always("Q4_K"), "qkv": _always("Q4_K")}),
    Mix("Q4_K_S", 14, "Q4_K", {"v": _first("Q5_K", 4), "down": _first_share("Q5_K", 8)}),
    Mix("Q4_K_M", 15, "Q4_K", {"v": _important("Q6_K"), "down": _important("Q6_K"), "qkv": _always("Q5_K")}),
    Mix("Q5_K_S", 16, "Q5_K"),
    Mix("Q5_K_M", 17, "Q5_K", {"v": _important("Q6_K"), "down": _important("Q6_K"), "qkv": _always("Q6_K")}),
    Mix("Q6_K", 18, "Q6_K"),
    Mix("IQ4_NL", 25, "IQ4_NL", {"v": lambda place: "Q5_K" if place.sharing >= 4 else None}),
)})
# What a tensor gets whose rows are no whole number of its type's units.
_FALLBACKS: Final[Mapping[str, str]] = MappingProxyType({
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"})


def mix_named(name: str) -> Mix:
    """Raises UsageError: there is none; lists those that there are. "Q3_K" alone is Q3_K_M, and so on."""
    wanted = name.upper()
    found = MIXES.get(wanted) or MIXES.get(f"{wanted}_M")
    if found is None:
        raise UsageError(f"--gguf-type {name}: there are {', '.join(MIXES)}")
    return found


def type_of(mix: Mix, role: str, columns: int, place: Place | None = None, *, tied: bool = False) -> str:
    """The type of one weight. columns: of its rows. place: None for embedding and head. tied: they are one table."""
    if mix.type in FLOATS:
        return mix.type
    if role == "head" or (role == "embedding" and tied):
        wanted = "Q8_0" if mix.type == "Q8_0" or not FORMATS[mix.type].fits(columns) else "Q6_K"
    else:
        rule = mix.rules.get(role)
        wanted = (rule(place) if rule is not None and place is not None else None) or mix.type
    return fitting_type(wanted, columns)


def fitting_type(name: str, columns: int) -> str:
    """The type itself, or the one that takes rows of so many weights in its place."""
    if FORMATS[name].fits(columns):
        return name
    other = _FALLBACKS.get(name, "F16")
    return other if other in FLOATS or FORMATS[other].fits(columns) else "F16"
