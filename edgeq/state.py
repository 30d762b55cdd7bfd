"""State: an input of a streaming model that is an output of the step before, such as a GRU's hidden state or the last
frames that a convolution keeps. Which inputs are state stands on them, and comes along with every copy of the model.
"""
from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.external_weights import is_large
from edgeq.graph import reads, real_inputs

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Predict: TypeAlias = Callable[[Arrays], dict[str, NDArray[Any]]]

_STATE: Final = "edgeq.state"  # key of an input's metadata: the output that it is in the next step

# What names say beside the name of a state, of the step before and of the one that is computed. Those that speak of
# time make a state of anything; the others only of what is called one.
_BEFORE: Final = frozenset({"prev", "previous", "past", "old", "last"})
_AFTER: Final = frozenset({"next", "new", "present", "updated"})
_IN: Final = _BEFORE | {"in", "input", "init", "initial", "i"}
_OUT: Final = _AFTER | {"out", "output", "final", "n", "o"}
_STATES: Final = frozenset({"state", "states", "hidden", "cell", "cache", "caches", "mem", "memory", "h", "c", "hx",
                            "cx", "rnn", "gru", "lstm", "buf", "buffer", "ctx", "context", "kv"})
_SHORT: Final = {"hn": ("h",), "cn": ("c",), "ht": ("h",), "ct": ("c",)}  # as torch's documentation calls them


def state_pairs(model: ir.Model) -> dict[str, str]:
    """Input -> the output that it is in the next step, of a model that gives all of these."""
    given = {value.name for value in model.graph.outputs}
    pairs = {value.name or "": state_of(value) for value in real_inputs(model.graph) if state_of(value)}
    return pairs if given.issuperset(pairs.values()) else {}


def zero_state(model: ir.Model) -> dict[str, NDArray[Any]]:
    """What a stream begins with."""
    return {value.name or "": np.zeros(value.shape.numpy(), value.dtype.numpy()) for value in real_inputs(model.graph)
            if value.name in state_pairs(model) and value.shape is not None and value.dtype is not None}


def state_of(value: ir.Value) -> str:
    """The output that an input is in the next step, or ""."""
    return value.metadata_props.get(_STATE, "")


def mark_state(model: ir.Model, said: Mapping[str, str] | None = None) -> None:
    """Let `state_pairs` find these, in place. said: what somebody says; None: those that names, types, ranks and sizes
    tell, in the order of inputs and outputs.

    Raises:
        ModelError: of what is said, a name is none of the model's, or names one thing twice.
    """
    inputs = {value.name or "": value for value in real_inputs(model.graph)}
    outputs = {value.name or "": value for value in model.graph.outputs}
    for name, output in (said or {}).items():
        if name not in inputs or output not in outputs or list((said or {}).values()).count(output) > 1:
            raise ModelError(f"--state {name}={output}: give an input and the output that it is in the next step; the "
                             f"inputs are {', '.join(inputs)}, the outputs {', '.join(outputs)}, each once")
    for name, output in (_found(inputs, outputs) if said is None else said).items():
        inputs[name].metadata_props[_STATE] = output


def check_state(model: ir.Model, said: Mapping[str, str] | None = None) -> None:
    """With all shapes known, in place: what only names told, and is none, is forgotten; inputs that are called a state,
    and have no namesake, are the last outputs where these have their types in their order, as torch names outputs.

    Raises:
        ModelError: what was said has two shapes or types, or a free size, so that nothing can be fed back; or weights
            that are too large to run them step by step.
    """
    outputs = {value.name or "": value for value in model.graph.outputs}
    inputs = {value.name or "": value for value in real_inputs(model.graph)}
    for name, value in inputs.items():
        after = outputs.get(state_of(value))
        if after is None or (_is_one_type(value, after) and not is_large(model)):
            continue
        if said is None:
            del value.metadata_props[_STATE]
            continue
        if is_large(model):
            raise ModelError(f"--state {name}={after.name}: the weights are too large to run them step by step: give "
                             "samples with a state each, and take --state none")
        raise ModelError(f"--state {name}={after.name}: '{name}' is {_type(value)} and '{after.name}' {_type(after)}; "
                         "what is fed back has one type and one fixed shape: pair others, or take --state none and "
                         "carry it yourself")
    if said is None and not state_pairs(model) and not is_large(model):
        called = [value for name, value in inputs.items() if not _STATES.isdisjoint(_words(name))]
        last = list(outputs.values())[-len(called):] if len(called) < min(len(inputs), len(outputs)) else []
        if called and last and all(map(_is_one_type, called, last)):
            for value, after in zip(called, last, strict=True):
                value.metadata_props[_STATE] = after.name or ""


def fed_back(predict: Predict, model: ir.Model) -> Predict:
    """The same for one stream of feeds in the order of time: a state that a feed leaves out is what the run before gave
    of it, and zeros at first.
    """
    pairs, kept = state_pairs(model), zero_state(model)
    if not pairs:
        return predict

    def step(feed: Arrays) -> dict[str, NDArray[Any]]:
        outputs = predict({**kept, **feed})
        kept.update({name: outputs[after] for name, after in pairs.items()})
        return outputs

    return step


def filled(feeds: Iterable[Arrays], outputs: Iterable[Arrays], pairs: Mapping[str, str],
           ) -> list[dict[str, NDArray[Any]]]:
    """The feeds of one stream, each with the state that it was run with. outputs: of each, by whatever ran it."""
    found, kept = list[dict[str, NDArray[Any]]](), dict[str, NDArray[Any]]()
    for feed, given in zip(feeds, outputs, strict=True):
        found.append({**kept, **feed})
        kept = {name: given[after] for name, after in pairs.items()}
    return found


def _type(value: ir.Value) -> str:
    sizes = ",".join(str(d) for d in value.shape or ())
    return f"{value.dtype.numpy().name if value.dtype is not None else '?'}[{sizes}]"


def loop_nodes(model: ir.Model) -> list[ir.Node]:
    """The nodes through which states come back to themselves, directly or by other states; of a cache of frames those
    that move frames, not the layers that read them.
    """
    pairs, outputs = list(state_pairs(model).items()), {value.name: value for value in model.graph.outputs}
    names = {name: number for number, (name, _) in enumerate(pairs)}
    behind = {value: {names[value.name]} for value in model.graph.inputs if value.name in names}
    for node in model.graph:
        found = set[int]().union(*(behind.get(value, ()) for value in reads(node)))
        behind |= dict.fromkeys(node.outputs, found)
    ahead: dict[ir.Value, set[int]] = {}
    for number, (_, after) in enumerate(pairs):
        ahead.setdefault(outputs[after], set()).add(number)
    for node in reversed(model.graph):
        found = set[int]().union(*(ahead.get(value, ()) for value in node.outputs))
        for value in reads(node):
            ahead[value] = ahead.get(value, set()) | found
    leads = {(state, number) for number, (_, after) in enumerate(pairs) for state in behind.get(outputs[after], ())}
    while more := {(one, last) for one, middle in leads for first, last in leads if first == middle} - leads:
        leads |= more
    return [node for node in model.graph if any((number, state) in leads for state in behind[node.outputs[0]]
                                                for value in node.outputs for number in ahead.get(value, ()))]


def _is_one_type(before: ir.Value, after: ir.Value) -> bool:
    return before.shape is not None and before.shape.is_static() and _type(before) == _type(after)


def _found(inputs: Mapping[str, ir.Value], outputs: Mapping[str, ir.Value]) -> dict[str, str]:
    """Nothing where no input would be left to say something new."""
    found: dict[str, str] = {}
    for name in sorted(inputs, key=lambda name: _BEFORE.isdisjoint(_words(name))):  # prev_x before x, of next_x
        for output, after in outputs.items():
            if output not in found.values() and _is_named(name, output) and _may_be(inputs[name], after):
                found[name] = output
                break
    return found if len(found) < len(inputs) else {}


def _is_named(before: str, after: str) -> bool:
    """stateN after state, hn after h0, new_cache_1 after cache_1."""
    first, second = _words(before), _words(after)
    name = [word for word in first if word not in _IN]
    named = [word for word in second if word not in _OUT]
    is_timed = not _BEFORE.isdisjoint(first) or not _AFTER.isdisjoint(second)
    same = named in (name, name[:-1] if name[-1:] == ["0"] else name)
    return bool(named) and same and before != after and (is_timed or not _STATES.isdisjoint(named))


def _words(name: str) -> list[str]:
    """Of hidden_state, hiddenState, h0 and layers.0.cache, in small letters."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    return [part for word in words for part in _SHORT.get(word.lower(), (word.lower(),))]


def _may_be(before: ir.Value, after: ir.Value) -> bool:
    """By what is known so far."""
    if before.dtype != after.dtype or before.shape is None:
        return False
    return after.shape is None or (len(before.shape) == len(after.shape) and all(
        one == other for one, other in zip(before.shape, after.shape, strict=True)
        if isinstance(one, int) and isinstance(other, int)))
