"""A decoder's weights as integers, fitted layer by layer to calibration tokens: in memory lie one layer and the hidden
states of all tokens, twice, as the float network and as the quantized one in front of that layer make them; what is
large of these lies on the disk.
"""
from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeq import policy
from edgeq.conversion.decoder_states import States, kept
from edgeq.conversion.decoder_store import InMemory, Store
from edgeq.errors import UsageError
from edgeq.frontends.decoder.builder import Matrix, float_parts
from edgeq.frontends.decoder.spec import Spec
from edgeq.frontends.decoder.steps import PAST, Step, build_step, takes_past
from edgeq.frontends.decoder.weights import linear_roles
from edgeq.inference.session import open_session
from edgeq.progress import Progress, silent
from edgeq.quant.decoder import Key, Layered, QuantizedDecoder, Stored, StoredMatrix
from edgeq.quant.formats import FORMATS
from edgeq.quant.formats.fit import fit_codes
from edgeq.quant.solve.layer import DEFAULT, best_correction
from edgeq.quant.solve.moments import Moments, objective

Array: TypeAlias = NDArray[np.float32]
Tokens: TypeAlias = NDArray[np.int64]
Kept: TypeAlias = Mapping[Key, Stored]
NONE_KEPT: Final[Kept] = MappingProxyType({})
Types: TypeAlias = Callable[[str, "int | None"], str]  # role, layer -> a name of FORMATS, or F32, F16, BF16


class DecoderWeights(Protocol):
    """Read one at a time, by role and layer."""

    def matrix(self, role: str, layer: int | None = None) -> Array: ...

    def vector(self, role: str, part: str, layer: int | None = None) -> Array: ...


def nearest_decoder(spec: Spec, weights: DecoderWeights, types: Types, importance: Mapping[Key, Array] | None = None,
                    progress: Progress = silent, store: Store | None = None, kept: Kept = NONE_KEPT,
                    ) -> QuantizedDecoder:
    """Every weight on the nearest level of its type. importance: of the columns, by role and layer, where known. kept:
    weights that are quantized already.
    """
    known, kept_in = importance or {}, InMemory() if store is None else store
    groups = key_groups(spec)
    for number, keys in enumerate(groups):
        progress("quantizing layers", number, len(groups))
        if left := [key for key in keys if key not in kept]:
            kept_in.keep({key: _nearest(types(*key), weights.matrix(*key), known.get(key)) for key in left})
    return QuantizedDecoder(Layered(kept_in, kept), weights.vector)


def fit_decoder(spec: Spec, weights: DecoderWeights, types: Types, tokens: Sequence[Tokens],
                progress: Progress = silent, store: Store | None = None, kept: Kept = NONE_KEPT) -> QuantizedDecoder:
    """Codes that lose the least of each linear layer's output on tokens [T] of every sequence.

    A layer's inputs are those of the network with all layers in front quantized, and what it aims at is the float
    layer's output in the float network (GPTAQ, see `solve.moments.objective`), as far as sequences that took no part
    confirm. Embedding and head take their nearest levels, a head of its own by the squares of what enters it. Which
    type rows take that fit no blocks is the caller's to choose. kept: as of `nearest_decoder`.

    Raises:
        UsageError: fewer than two sequences.
    """
    if len(tokens) < 2:
        raise UsageError("fitting a decoder takes at least two sequences of tokens: one judges what another taught")
    made = InMemory() if store is None else store
    found = Layered(made, kept)
    if ("embedding", None) not in found:
        made.keep({("embedding", None): _nearest(types("embedding", None), weights.matrix("embedding", None), None)})
    exact = embedded(spec, weights, weights.matrix, tokens)
    seen = embedded(spec, weights, lambda role, layer: found[role, layer].real(), tokens)
    for layer in range(len(spec.layers)):
        progress("fitting layers", layer, len(spec.layers))
        if all((role, layer) in found for role in linear_roles(spec)):  # kept, or of an earlier conversion
            exact = _behind(spec, weights, weights.matrix, layer, exact)
            seen = _behind(spec, weights, _real(found), layer, seen)
        else:
            exact, seen = _Block(spec, weights, types, layer, made, kept).fitted(exact, seen)
    if not spec.tied and ("head", None) not in found:
        importance = _squares(head_inputs(spec, weights, seen))
        made.keep({("head", None): _nearest(types("head", None), weights.matrix("head", None), importance)})
    return QuantizedDecoder(found, weights.vector)


def key_groups(spec: Spec) -> list[list[Key]]:
    """All quantized weights, in the order of computation: the embedding, each layer's, and a head of its own."""
    found: list[list[Key]] = [[("embedding", None)]]
    found += [[(role, layer) for role in linear_roles(spec)] for layer in range(len(spec.layers))]
    return found if spec.tied else [*found, [("head", None)]]


def last_states(spec: Spec, weights: DecoderWeights, matrix: Matrix, tokens: Sequence[Tokens],
                progress: Progress = silent) -> States:
    """What enters the head [1, tokens, width] of a network with these matrices, and the norms and biases of weights."""
    x = embedded(spec, weights, matrix, tokens)
    for layer in range(len(spec.layers)):
        progress("comparing with the float network", layer, len(spec.layers))
        x = _behind(spec, weights, matrix, layer, x)
    return head_inputs(spec, weights, x)


def head_inputs(spec: Spec, weights: DecoderWeights, states: States) -> States:
    """States behind the last layer -> what enters the head."""
    return _run(spec, weights, weights.matrix, "head_input", 0, states)


def _real(store: Mapping[Key, Stored]) -> Matrix:
    return lambda role, layer: store[role, layer].real()


def embedded(spec: Spec, weights: DecoderWeights, matrix: Matrix, tokens: Sequence[Tokens]) -> States:
    """What enters the first layer [1, tokens, width] of each sequence."""
    table = matrix("embedding", None)
    return _run(spec, weights, lambda role, layer: table, "embedding", 0,
                [np.asarray(row, np.int64)[None] for row in tokens])


def _behind(spec: Spec, weights: DecoderWeights, matrix: Matrix, layer: int, states: States) -> States:
    return states_behind(spec, weights, {role: matrix(role, layer) for role in linear_roles(spec)}, layer, states)


def states_behind(spec: Spec, weights: DecoderWeights, matrices: Mapping[str, Array], layer: int, states: States,
                  ) -> States:
    """Through one layer with these matrices, by role."""
    return [passed for *_, passed in _passed(spec, weights, matrices, layer, states)][-1]


def input_squares(spec: Spec, weights: DecoderWeights, tokens: Sequence[Tokens]) -> dict[Key, Array]:
    """The mean square of what enters every linear layer of the float network [n], by role and layer: the "importance
    matrix" of llama.cpp. Of a tied table it is the head's.
    """
    x = embedded(spec, weights, weights.matrix, tokens)
    found: dict[Key, Array] = {}
    for layer in range(len(spec.layers)):
        matrices = {role: weights.matrix(role, layer) for role in linear_roles(spec)}
        for passed in _passed(spec, weights, matrices, layer, x):
            roles, inputs, x = passed
            found |= {(role, layer): _squares(inputs) for role in roles}
    head = _squares(head_inputs(spec, weights, x))
    return found | {("embedding" if spec.tied else "head", None): head}


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    """One layer of the network. store: takes up what is quantized. kept: what is already."""

    spec: Spec
    weights: DecoderWeights
    types: Types
    layer: int
    store: Store
    kept: Kept

    def fitted(self, exact: States, seen: States) -> tuple[States, States]:
        """States in front of the layer, of the float network and of the quantized one -> those behind it."""
        floats = {role: self.weights.matrix(role, self.layer) for role in linear_roles(self.spec)}
        quantized: dict[str, Array] = {}
        stored: dict[Key, StoredMatrix] = {}
        ahead = _passed(self.spec, self.weights, floats, self.layer, exact)
        behind = _passed(self.spec, self.weights, quantized, self.layer, seen)
        for true, real in zip(ahead, behind, strict=True):
            (roles, inside, exact), (_, seen_inside, seen) = true, real
            for role, matrix in self._fit(roles, inside, seen_inside, floats):
                quantized[role] = matrix.real()
                if isinstance(matrix, StoredMatrix) and (role, self.layer) not in self.kept:
                    stored[role, self.layer] = matrix
            del true, real, inside, seen_inside
        self.store.keep(stored)
        return exact, seen

    def _fit(self, roles: tuple[str, ...], true: States, real: States, floats: Mapping[str, Array],
             ) -> Iterator[tuple[str, Stored]]:
        """Roles that read the same inputs and have the same type are solved together: their rows are independent."""
        yield from ((role, self.kept[role, self.layer]) for role in roles if (role, self.layer) in self.kept)
        roles = tuple(role for role in roles if (role, self.layer) not in self.kept)
        if not roles:
            return
        training, validation = (_moments(true, real, held_out) for held_out in (False, True))
        both = training.merge(validation)
        for type in dict.fromkeys(self.types(role, self.layer) for role in roles):
            same = [role for role in roles if self.types(role, self.layer) == type]
            weight = np.concatenate([floats[role] for role in same])
            found = _fitted(type, weight, training, validation, both)
            ends = np.cumsum([len(floats[role]) for role in same])
            for role, data in zip(same, np.split(found.data, ends[:-1]), strict=True):
                yield role, StoredMatrix(type, data, found.columns)


def _passed(spec: Spec, weights: DecoderWeights, matrices: Mapping[str, Array], layer: int, states: States,
            ) -> Iterator[tuple[tuple[str, ...], States, States]]:
    """States through one layer -> (roles, what enters them, the residual stream), in order of computation; the last
    has no roles, and the stream behind the layer. The matrices of roles are read after these were given out.
    """
    def run(step: Step, *inputs: States) -> States:
        return _run(spec, weights, lambda role, number: matrices[role], step, layer, *inputs)

    inside = run("attention_input", states)
    yield ("q", "k", "v"), inside, states
    inside = run("attention", inside)
    yield ("o",), inside, states
    states = run("attention_output", inside, states)
    inside = run("mlp_input", states)
    yield ("gate", "up") if spec.gated else ("up",), inside, states
    inside = run("mlp", inside)
    yield ("down",), inside, states
    yield (), inside, run("mlp_output", inside, states)


def _run(spec: Spec, weights: DecoderWeights, matrix: Matrix, step: Step, layer: int, *inputs: States) -> States:
    model = build_step(spec, float_parts(matrix, weights.vector, tied=spec.tied), step, layer)
    session = open_session(model, fused=True)
    past = np.zeros((1, spec.kv_heads, 0, spec.head_size), np.float32)
    extra = dict.fromkeys(PAST, past) if takes_past(step) else {}
    return kept(session.run(["y"], {f"x{k}": part for k, part in enumerate(parts)} | extra)[0]
                for parts in zip(*inputs, strict=True))


def _moments(true: States, real: States, held_out: bool) -> Moments:
    found = Moments.empty(1, true[0].shape[-1])
    for number, (exact, seen) in enumerate(zip(true, real, strict=True)):
        is_held_out = number % policy.FIT_VALIDATION_ONE_IN.value == 1
        if is_held_out == held_out:
            found.add(np.swapaxes(seen, 1, 2), np.swapaxes(exact, 1, 2))
    return found


def _fitted(type: str, weight: Array, training: Moments, validation: Moments, both: Moments) -> StoredMatrix:
    if type not in FORMATS:
        return StoredMatrix.of_floats(type, weight)
    correction = best_correction(weight[None], training, validation, False, DEFAULT)
    problem = objective(weight[None], both, free_bias=False, correction=correction)
    format, target, gram = FORMATS[type], problem.target[0], problem.hessian[0]
    data = _side_by_side(lambda rows: format.pack(*fit_codes(format, rows, gram)), target, policy.FITTED_PART.value)
    return StoredMatrix(type, data, weight.shape[1])


def _nearest(type: str, weight: Array, importance: Array | None) -> StoredMatrix:
    if type not in FORMATS:
        return StoredMatrix.of_floats(type, weight)
    data = _side_by_side(lambda rows: FORMATS[type].quantize(rows, importance), weight, policy.NEAREST_PART.value)
    return StoredMatrix(type, data, weight.shape[1])


def _side_by_side(packed: Callable[[Array], NDArray[np.uint8]], weight: Array, size: int) -> NDArray[np.uint8]:
    """Parts of about `size` weights, which no other row counts for, in threads: numpy lets go of Python's lock. The
    parts do not depend on the machine.
    """
    step = max(1, size // weight.shape[1])
    with ThreadPoolExecutor(os.cpu_count(), "edgeq-quantize") as pool:
        return np.concatenate(list(pool.map(packed, (weight[k:k + step] for k in range(0, len(weight), step)))))


def _squares(states: States) -> Array:
    """The mean square of each number of the states [width]."""
    count = sum(state.shape[1] for state in states)
    return np.asarray(sum(np.square(state, dtype=np.float32).sum((0, 1), dtype=np.float64) for state in states) / count,
                      np.float32)

