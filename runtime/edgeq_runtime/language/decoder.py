"""What an engine gives of a language model: the logits behind some tokens, over a cache of keys and values."""
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Dict, Optional, Protocol, Sequence, Union

from edgeq_runtime.errors import BundleError, InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgeq_runtime.manifest import Manifest

# engine of the manifest -> the module whose `open_decoder(folder, manifest, threads)` opens it
MODULES: Dict[str, str] = {"litertlm": "litertlm", "llamacpp": "llamacpp", "onnxruntime": "onnxruntime"}


class Decoder(Protocol):
    """An opened language model with a cache of keys and values, for one sequence of tokens and one thread at a time.

    description: engine and version. context: the most tokens that the cache holds. vocabulary: logits of a token.
    """

    description: str
    context: int
    vocabulary: int

    def logits(self, tokens: Sequence[int], every: bool = False) -> NDArray[Any]:
        """Feed tokens behind what the cache holds.

        Returns:
            float32 [1, vocabulary] behind the last token, or with `every` [len(tokens), vocabulary]; the caller's own.

        Raises:
            EngineError: the engine failed; what the cache holds is unknown then, so that keep(0) is next.
        """
        ...

    def keep(self, count: int) -> None:
        """Forget what the cache holds behind its first `count` tokens."""
        ...

    def close(self) -> None: ...


def check_tokens(tokens: Union[Sequence[int], NDArray[Any]], held: int, decoder: Decoder) -> None:
    """Raises InputError: tokens that cannot be fed behind the `held` ones of a decoder's cache."""
    if not len(tokens):
        raise InputError("no tokens: there are logits behind a token only")
    if held + len(tokens) > decoder.context:
        raise InputError(f"{held + len(tokens)} tokens are more than the context of {decoder.context}")
    if min(tokens) < 0 or max(tokens) >= decoder.vocabulary:
        raise InputError(f"a token is outside the vocabulary of {decoder.vocabulary}")


def open_decoder(folder: str, manifest: Manifest, threads: Optional[int]) -> Decoder:
    """Open the decoder of a bundle with the engine that it names.

    Raises:
        BundleError: no language model. EngineError: the engine is not installed, too old, or refuses the file.
    """
    if manifest.language is None:
        raise BundleError(f"'{manifest.name}' is no language model: its manifest has no `language`; "
                          "use `run` or `predict`")
    if manifest.engine not in MODULES:
        raise BundleError(f"this runtime generates text with {', '.join(MODULES)}, not with '{manifest.engine}': "
                          "update edgeq-runtime")
    decoder: Decoder = import_module(f".{MODULES[manifest.engine]}", __package__).open_decoder(
        folder, manifest, threads)
    return decoder
