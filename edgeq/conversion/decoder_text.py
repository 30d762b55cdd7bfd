"""The tokens that a language model's weights are fitted to and judged by: a user's text, or what the model itself says.

Text that is unlike what the model will meet throws most of the fit away; what a model samples from itself did as well
as text of its own domain (benchmarks/decoder_kl.py).
"""
from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeq import policy
from edgeq.backend import DecoderWords, backends
from edgeq.conversion.decoder_fit import nearest_decoder
from edgeq.errors import CalibrationError, EdgeqError, ModelError, UnsupportedModel
from edgeq.frontends.decoder.checkpoint import Checkpoint
from edgeq.inference.session import open_session
from edgeq.progress import Progress
from edgeq_runtime.language.text import Tokenizer
from edgeq_runtime.manifest import Language

Tokens: TypeAlias = NDArray[np.int64]
SAMPLED: Final = "text that the model sampled from itself"


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """Sequences of tokens. fitted, judged: those that weights are fitted to, and others, which figures come from.
    source: what they are, in words. left: tokens of the user's text that were more than needed.
    """

    fitted: tuple[Tokens, ...]
    judged: tuple[Tokens, ...]
    source: str
    left: int = 0

    @property
    def warnings(self) -> list[str]:
        tokens, enough = sum(map(len, self.fitted)), policy.FEW_TOKENS.value
        return [f"{tokens} tokens are few to fit weights to; {enough} lose less"] if tokens < enough else []

    def to_json(self) -> dict[str, Any]:
        return {"source": self.source, "sequences": len(self.fitted), "tokens": sum(map(len, self.fitted)),
                "held_out": len(self.judged), "held_out_tokens": sum(map(len, self.judged)), "left": self.left,
                "warnings": self.warnings}


def text_of_file(path: Path, folder: Path, language: Language, sequences: int | None) -> Text:
    """Tokens of a .txt file, or of a .jsonl file whose lines hold "text" or "messages". folder: with the tokenizer.

    Every fifth sequence is judged by, none of the others.

    Raises:
        CalibrationError: the file cannot be read, or holds too little.
    """
    tokenizer = _tokenizer(folder, language)
    ids: list[int] = []
    for text, special in _texts(path, tokenizer):
        ids += tokenizer.encode(text, special=special)
    count = sequences or policy.FITTED_SEQUENCES.value
    held = max(1, round(count / policy.JUDGED_ONE_IN.value))
    length = min(policy.FITTED_TOKENS.value, language.context, len(ids) // 3)
    if length < policy.SHORTEST_SEQUENCE.value:
        raise CalibrationError(f"--calibration {path}: {len(ids)} tokens are too few to fit weights to and to judge "
                               f"them by; {count} x {policy.FITTED_TOKENS.value} are enough")
    cut = [np.asarray(ids[start:start + length], np.int64) for start in range(0, len(ids) - length + 1, length)]
    chosen = cut[:count + held]
    judged = chosen[1::max(2, round(len(chosen) / min(held, len(chosen) // 2)))]
    kept = {id(row) for row in judged}
    fitted = [row for row in chosen if id(row) not in kept]
    return Text(tuple(fitted), tuple(judged), path.name, max(0, len(cut) - len(chosen)) * length)


def text_of_model(checkpoint: Checkpoint, folder: Path, language: Language, sequences: int | None, progress: Progress,
                  ) -> Text:
    """What the network samples from itself, from the beginning of a text, at temperature 1; the same every time on one
    processor. folder: with the tokenizer.
    """
    count = sequences or policy.FITTED_SEQUENCES.value
    held = max(1, round(count / policy.JUDGED_ONE_IN.value))
    length = min(policy.FITTED_TOKENS.value, language.context)
    rows: list[Tokens] = []
    generator = np.random.default_rng(0)
    batch = policy.SAMPLED_AT_ONCE.value
    with tempfile.TemporaryDirectory(prefix="edgeq-") as temporary:
        session = _sampler(checkpoint, folder, Path(temporary))
        for start in range(0, count + held, batch):
            progress("the model writes its calibration text", start, count + held)
            rows += _sampled(session, language, min(batch, count + held - start), length, generator)
    return Text(tuple(rows[:count]), tuple(rows[count:]), SAMPLED)


def _sampler(checkpoint: Checkpoint, folder: Path, temporary: Path) -> Any:
    """A session of the network on its nearest levels in 8 bits, in a file in `temporary`: a third of float32's memory,
    and faster where sequences are written side by side. In float32 where no kernels take the network.
    """
    spec, words = checkpoint.spec, DecoderWords(bits=8)
    for target in (backend.decoder for backend in backends()):
        if target is not None and target.is_graph:
            with suppress(UnsupportedModel):
                target.check(checkpoint, folder, words)
                decoder = nearest_decoder(spec, checkpoint.weights, target.types(spec, words))
                artifact = target.emit(checkpoint, folder, decoder, temporary, words)
                return open_session(temporary / artifact.entry, fused=True, arena=False,
                                    entries=artifact.options["session_options"])
    return open_session(checkpoint.float_graph(), fused=True)


def _sampled(session: Any, language: Language, count: int, length: int, generator: np.random.Generator,
             ) -> list[Tokens]:
    """Sequences of so many tokens. A text begins with its first token, or where the model has none with any."""
    inputs = [value.name for value in session.get_inputs()]
    names = [name for name in inputs if name.startswith("past_key_values.")]
    empty = np.zeros((count, language.kv_heads, 0, language.head_size), np.float32)
    past: dict[str, NDArray[Any]] = dict.fromkeys(names, empty)
    begin = language.bos if language.bos is not None else next(iter(language.eos), None)
    first = generator.integers(0, language.vocabulary, count) if begin is None else np.full(count, begin)
    tokens = [first.astype(np.int64)]
    for held in range(1, length):
        mask = {"attention_mask": np.ones((count, held), np.int64)} if "attention_mask" in inputs else {}
        logits, *present = session.run(None, {"input_ids": tokens[-1][:, None], **mask, **past})
        past = dict(zip(names, present, strict=True))
        noise = generator.gumbel(size=(count, language.vocabulary)).astype(np.float32)
        tokens.append((logits[:, -1] + noise).argmax(1))  # a draw from the softmax
    return list(np.stack(tokens, axis=1))


def _tokenizer(folder: Path, language: Language) -> Tokenizer:
    try:
        return Tokenizer(str(folder), language)
    except EdgeqError as error:
        raise ModelError(str(error)) from None


def _texts(path: Path, tokenizer: Tokenizer) -> Iterator[tuple[str, bool]]:
    """Each text, and whether its first token is to be put in front; a template does so itself."""
    try:
        whole = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CalibrationError(f"--calibration {path} is no text in UTF-8") from None
    except OSError as error:
        raise CalibrationError(f"--calibration {path}: {error.strerror}") from None
    if path.suffix != ".jsonl":
        yield whole, True
        return
    for number, line in enumerate(whole.splitlines(), 1):
        if line.strip():
            yield _line(f"--calibration {path}, line {number}", line, tokenizer)


def _line(where: str, line: str, tokenizer: Tokenizer) -> tuple[str, bool]:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise CalibrationError(f"{where} is no JSON: {error}") from None
    text = found.get("text") if isinstance(found, dict) else None
    if isinstance(text, str):
        return text, True
    messages: Sequence[Any] | None = found.get("messages") if isinstance(found, dict) else None
    if not isinstance(messages, list):
        raise CalibrationError(f'{where}: give {{"text": "..."}} or {{"messages": [{{"role": "user", "content": "..."}}'
                               ", ...]}")
    try:
        return tokenizer.chat(messages, add_generation_prompt=False), False
    except EdgeqError as error:
        raise CalibrationError(f"{where}: {error}") from None
