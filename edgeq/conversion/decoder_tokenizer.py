"""The files of a checkpoint that say what its tokens mean, as a bundle holds them."""
from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from edgeq.errors import MissingExtra, ModelError
from edgeq.frontends.decoder.checkpoint import Checkpoint
from edgeq.frontends.decoder.gguf_source import GgufWeights
from edgeq.frontends.decoder.tokenizer_json import tokenizer_config_of_gguf, tokenizer_json_of_gguf
from edgeq_runtime.manifest import Language

TOKENIZER: Final = "tokenizer.json"
TEMPLATE: Final = "chat_template.jinja"
CONFIG: Final = "config.json"  # for the back ends; no bundle holds it
_WORDS, _GENERATION = "tokenizer_config.json", "generation_config.json"
BUNDLED: Final = (TOKENIZER, _WORDS, TEMPLATE, _GENERATION)
# Of generation_config.json; `do_sample` says whether the others count.
_DEFAULTS: Final = ("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@contextmanager
def tokenizer_files(checkpoint: Checkpoint) -> Iterator[Path]:
    """A folder with the files of BUNDLED that a checkpoint has, and its config.json; it vanishes afterwards.

    Raises:
        ModelError: there is no tokenizer, or it is damaged.
    """
    with tempfile.TemporaryDirectory(prefix="edgeq-") as name:
        folder = Path(name)
        if isinstance(checkpoint.weights, GgufWeights):
            metadata = checkpoint.weights.file.metadata
            (folder / TOKENIZER).write_text(tokenizer_json_of_gguf(metadata), encoding="utf-8")
            _write(folder / _WORDS, tokenizer_config_of_gguf(metadata))
        else:
            if not (checkpoint.path / TOKENIZER).is_file():
                raise ModelError(f"{checkpoint.path} holds no {TOKENIZER}; save it with transformers: "
                                 "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)")
            for file in BUNDLED:
                if (checkpoint.path / file).is_file():
                    shutil.copyfile(checkpoint.path / file, folder / file)
        _write(folder / CONFIG, checkpoint.config)
        template = read_json(folder / _WORDS).get("chat_template")
        if isinstance(template, str) and not (folder / TEMPLATE).is_file():
            (folder / TEMPLATE).write_text(template, encoding="utf-8")
        yield folder


def copy_bundled(tokenizer: Path, folder: Path) -> None:
    """Into a bundle."""
    for file in BUNDLED:
        if (tokenizer / file).is_file():
            shutil.copyfile(tokenizer / file, folder / file)


def language_of(checkpoint: Checkpoint, tokenizer: Path) -> Language:
    """What a device must know of the model beside its tensors. tokenizer: of `tokenizer_files`.

    Raises:
        ModelError: tokenizer.json is damaged, or has more tokens than the network. MissingExtra: tokenizers is not
            installed.
    """
    spec, found = checkpoint.spec, _opened(tokenizer / TOKENIZER)
    count = found.get_vocab_size(with_added_tokens=True)
    if count > spec.vocabulary:
        raise ModelError(f"{TOKENIZER} has {count} tokens and the network {spec.vocabulary}: they are not of one model")
    words, generation = read_json(tokenizer / _WORDS), read_json(tokenizer / _GENERATION)
    bos = _identity(found, words, "bos", generation, checkpoint.config)
    said = words.get("add_bos_token")
    begun = found.encode("a").ids[:1] if bos is not None else []
    return Language(
        context=spec.context, vocabulary=spec.vocabulary, layers=len(spec.layers), kv_heads=spec.kv_heads,
        head_size=spec.head_size, bos=bos, eos=_ends(found, words, generation, checkpoint.config),
        add_bos=bos is not None and (begun == [bos] if said is None else bool(said)),
        template=TEMPLATE if (tokenizer / TEMPLATE).is_file() else "",
        defaults={key: generation[key] for key in _DEFAULTS if generation.get(key) is not None})


def _opened(path: Path) -> Any:
    try:
        import tokenizers
    except ImportError:
        raise MissingExtra("a tokenizer", "decoder") from None
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises bare Exception
        raise ModelError(f"{TOKENIZER} is damaged: {error}") from None


def _ends(tokenizer: Any, words: dict[str, Any], generation: dict[str, Any], config: dict[str, Any],
          ) -> tuple[int, ...]:
    """A text ends with any of these; generation_config.json knows more than one of chat models."""
    listed = [generation.get("eos_token_id"), config.get("eos_token_id"),
              _identity(tokenizer, words, "eos", generation, config)]
    flat = [token for one in listed if one is not None for token in (one if isinstance(one, list) else [one])]
    return tuple(dict.fromkeys(int(token) for token in flat))


def _identity(tokenizer: Any, words: dict[str, Any], word: str, generation: dict[str, Any], config: dict[str, Any],
              ) -> int | None:
    """Of a special token: as tokenizer_config.json names it, else by its number elsewhere."""
    named = words.get(f"{word}_token")
    content = named.get("content") if isinstance(named, dict) else named
    found = None if content is None else tokenizer.token_to_id(content)
    if found is None:
        found = next((one for one in (generation.get(f"{word}_token_id"), config.get(f"{word}_token_id"))
                      if isinstance(one, int)), None)
    return found


def read_json(path: Path) -> dict[str, Any]:
    """{} for a file that is not there.

    Raises:
        ModelError: it holds no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path.name} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path.name} is damaged: it is no JSON object")
    return found


def _write(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
