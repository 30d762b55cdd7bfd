"""What a written language model holds and computes, beside what was meant."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq import policy
from edgeq.conversion.decoder_figures import logits_of
from edgeq.conversion.decoder_fit import last_states
from edgeq.conversion.decoder_text import Text, Tokens
from edgeq.errors import EngineError, VerificationError
from edgeq.frontends.decoder.checkpoint import Checkpoint
from edgeq.quant.decoder import QuantizedDecoder
from edgeq.verification.language import kl_divergence, log_softmax
from edgeq_runtime.manifest import Manifest
from edgeq_runtime.selftest import FILE_NAME, Case, Tolerance, write_selftest
from edgeq_runtime.session import open_model

TOKENS: Final = 16  # of the self-test
_SOURCE: Final = ("another processor rounds activations in other places: twice what the engine on the converting "
                  "machine differs from its weights computed in float")


@dataclass(frozen=True, slots=True)
class EngineRun:
    """engine: who ran it, or why none did. kl: of what it says from what the file's weights say in float32, in nats a
    token; error: the largest difference of a logit. None where it did not run.
    """

    engine: str
    kl: float | None = None
    error: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def check_written(target: str, decoder: QuantizedDecoder, read: Callable[[str, int | None], NDArray[Any]]) -> None:
    """Every weight that a reader finds in the file, bit for bit.

    Raises:
        VerificationError: names those that are not as they were meant.
    """
    wrong = [f"{role} of layer {layer}" if layer is not None else role
             for (role, layer), matrix in decoder.matrices.items()
             if not np.array_equal(read(role, layer), matrix.real())]
    if wrong:
        raise VerificationError(f"{target}: {len(wrong)} weights are not read as they were written: "
                                f"{', '.join(wrong[:5])}")


def run_engine(folder: Path, manifest: Manifest, checkpoint: Checkpoint,
               read: Callable[[str, int | None], NDArray[Any]], text: Text | None) -> EngineRun:
    """Run the bundle's engine on a few tokens and write the self-test. Where the engine is not installed, what its
    weights say in float32 is what devices will be held to.

    Raises:
        VerificationError: the engine says something else than the weights do.
    """
    spec = checkpoint.spec
    tokens = _tokens(spec.vocabulary, text)
    states = last_states(spec, checkpoint.weights, read, [tokens])[0][0]
    expected = logits_of(spec, states, read("embedding" if spec.tied else "head", None))
    feed = _feed(manifest, tokens)
    try:
        with open_model(str(folder), manifest) as model:
            engine, outputs = model.engine, dict(model.run(feed))
    except EngineError as error:
        error_of = float(np.abs(expected).max()) * policy.LANGUAGE_UNRUN_ERROR.value
        _write(folder, feed, {"logits": expected[None]}, error_of)
        return EngineRun(f"not run: {error}")
    got = outputs["logits"][0]
    kl = float(kl_divergence(log_softmax(expected), log_softmax(got)).mean())
    if not kl <= policy.ENGINE_KL.value:
        raise VerificationError(f"{manifest.target}: {engine} does not say what the weights of the file do: "
                                f"{kl:.3g} nats a token apart")
    error_of = float(np.abs(got - expected).max())
    _write(folder, feed, outputs, policy.LANGUAGE_ERROR_FACTOR.value * error_of)
    return EngineRun(engine, kl, error_of)


def _tokens(vocabulary: int, text: Text | None) -> Tokens:
    """Of the text that figures come from, or such as lie evenly in the vocabulary."""
    return np.linspace(0, vocabulary - 1, TOKENS).astype(np.int64) if text is None else text.judged[0][:TOKENS]


def _feed(manifest: Manifest, tokens: Tokens) -> dict[str, NDArray[Any]]:
    """The tokens, behind an empty past where the bundle takes one."""
    feed: dict[str, NDArray[Any]] = {}
    for spec in manifest.inputs:
        if spec.name in ("input_ids", "attention_mask"):
            feed[spec.name] = tokens[None] if spec.name == "input_ids" else np.ones((1, len(tokens)), np.int64)
        else:
            sizes = [size if isinstance(size, int) else int(size == "batch") for size in spec.shape]
            feed[spec.name] = np.zeros(sizes, spec.dtype)
    return feed


def _write(folder: Path, feed: dict[str, NDArray[Any]], outputs: dict[str, NDArray[Any]], error: float) -> None:
    largest = dict.fromkeys(outputs, error)
    write_selftest(folder / FILE_NAME, [Case(feed, outputs)], Tolerance(_SOURCE, error=largest))
