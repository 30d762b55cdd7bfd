"""An encoder and the decoder behind it: a source is read once, then written about token by token."""
from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Sequence

import numpy as np

from edgeq_runtime.errors import InputError
from edgeq_runtime.integrity import inside

from .text import checked_text, open_tokenizer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeq_runtime.manifest import EncoderDecoder, Manifest, TensorSpec

Run = Callable[[Mapping[str, Any]], Dict[str, Any]]
# logits float32 [vocabulary], which may be changed; tokens so far -> the next token
Choose = Callable[["NDArray[Any]", Sequence[int]], int]


class Pair:
    """One text at a time: whoever comes in between from another thread waits.

    encoder: runs the network of `EncoderDecoder.encoder`. decoder: runs that of the manifest.
    """

    def __init__(self, manifest: Manifest, encoder: Run, decoder: Run) -> None:
        assert manifest.encoder_decoder is not None
        self.about: EncoderDecoder = manifest.encoder_decoder
        self._encoder, self._decoder = encoder, decoder
        self._past: Dict[str, NDArray[Any]] = {
            spec.name: np.zeros([size for size in spec.shape if isinstance(size, int)], spec.dtype)
            for spec in manifest.inputs if spec.name.startswith("past.")}
        self._lock = Lock()

    def write(self, source: Mapping[str, Any], start: Sequence[int], choose: Choose, most: int) -> List[int]:
        """Tokens behind `start`, without the one that ends them. most: how many there may be."""
        tokens = list(start)
        with self._lock:
            read = self._encoder(source)
            logits = self._fed(read, tokens, 0)
            while len(tokens) < min(self.about.context, len(start) + most):
                token = choose(logits[-1].copy(), tokens[len(start):])
                if token in self.about.eos:
                    break
                tokens.append(token)
                logits = self._fed(read, tokens[-1:], len(tokens) - 1)
        return tokens[len(start):]

    def logits(self, source: Mapping[str, Any], tokens: Sequence[int]) -> NDArray[Any]:
        """float32 [tokens, vocabulary]: behind each of the tokens."""
        with self._lock:
            return self._fed(self._encoder(source), tokens, 0)

    def _fed(self, read: Mapping[str, Any], tokens: Sequence[int], place: int) -> NDArray[Any]:
        """place: of the first token. The keys and values of all go into the past."""
        rows = []
        for position, token in enumerate(tokens, place):
            found = self._decoder({"input_ids": np.array([[token]], np.int64),
                                   "position": np.array([position], np.int64), **read, **self._past})
            rows.append(found.pop("logits")[0])
            for name, value in found.items():
                self._past[f"past.{name[4:]}"][:, :, position:position + 1] = value  # new.{k}.{kind}
        return np.stack(rows)


class PairTest:
    """A pair as the self-test runs it: a source and tokens in, the logits behind each of these out."""

    def __init__(self, folder: str, pair: Pair, logits: TensorSpec) -> None:
        self.folder, self._pair, self.outputs = folder, pair, (logits,)

    def run(self, inputs: Mapping[str, Any]) -> Dict[str, Any]:
        source = dict(inputs)
        return {"logits": self._pair.logits(source, source.pop("tokens").tolist())}


def likeliest(about: EncoderDecoder) -> Choose:
    """Of the tokens that may be written."""
    def choose(logits: NDArray[Any], tokens: Sequence[int]) -> int:
        logits[list(about.suppressed)] = -np.inf
        if not tokens:
            logits[list(about.suppressed_first)] = -np.inf
        return int(logits.argmax())

    return choose


class Translator:
    """Texts to texts."""

    def __init__(self, folder: str, pair: Pair, context: int) -> None:
        """context: tokens that the encoder reads at most."""
        self._pair, self._context = pair, context
        self._tokenizer = open_tokenizer(inside(folder, pair.about.tokenizer), pair.about.vocabulary)

    def translate(self, text: str, *, max_tokens: Optional[int] = None) -> str:
        """The likeliest token every time. max_tokens: None for as many as the context holds.

        Raises:
            InputError: no text, or more tokens than the encoder reads. EngineError: the engine failed.
        """
        if max_tokens is not None and (type(max_tokens) is not int or max_tokens < 1):
            raise InputError(f"max_tokens must be a whole number above 0, got {max_tokens!r}")
        ids = self._tokenizer.encode(checked_text(text, "a text")).ids
        if not ids or len(ids) > self._context:
            raise InputError(f"a text has {len(ids)} tokens, and the encoder reads 1 to {self._context}")
        about = self._pair.about
        found = self._pair.write({"input_ids": np.asarray([ids], np.int64)}, about.start, likeliest(about),
                                 max_tokens or about.context)
        said: str = self._tokenizer.decode(found, skip_special_tokens=True)
        return said.strip()


