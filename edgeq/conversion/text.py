"""What a text encoder's bundle holds beside the network, and texts as its samples."""
from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgeq.conversion.options import Options
from edgeq.errors import CalibrationError, MissingExtra, ModelError
from edgeq.frontends.transformer.source import is_transformer, open_folder
from edgeq_runtime.errors import BundleError, EngineError
from edgeq_runtime.language.embedding import TextEncoder
from edgeq_runtime.language.text import open_tokenizer
from edgeq_runtime.manifest import Text

TOKENIZER: Final = "tokenizer.json"
_TEXTS: Final = (".txt", ".jsonl")


def text_of(source: Any) -> Text | None:
    """None where a source is no folder of a text encoder."""
    if not is_transformer(source):
        return None
    folder = open_folder(Path(source))
    return Text(folder.sentence.context, folder.stack().vocabulary, TOKENIZER)


def copy_text_files(source: Any, folder: Path) -> None:
    """The tokenizer, into a bundle."""
    if is_transformer(source):
        shutil.copyfile(Path(source) / TOKENIZER, folder / TOKENIZER)


def with_text_samples(source: Any, options: Options) -> Options:
    """With a text file as samples of tokens, a text each, where the source is a text encoder, whose tokenizer is looked
    at in any case.

    Raises:
        ModelError: there is no tokenizer, or it is damaged. MissingExtra: tokenizers is not installed.
        CalibrationError: the file holds no texts.
    """
    if not is_transformer(source):
        return options
    encoder = _encoder(Path(source))
    given = options.calibration
    if not isinstance(given, str | Path) or Path(given).suffix not in _TEXTS:
        return options
    samples = [{"input_ids": np.asarray([encoder.tokens(text, truncate=True)], np.int64)}
               for text in _texts(Path(given))]
    if not samples:
        raise CalibrationError(f"--calibration {given} holds no texts: one a line")
    return replace(options, calibration=samples)


def _encoder(source: Path) -> TextEncoder:
    text = text_of(source)
    assert text is not None
    checked_tokenizer(source, text.vocabulary)
    return TextEncoder(str(source), text, lambda inputs: {})


def checked_tokenizer(source: Path, vocabulary: int) -> None:
    """Raises:
        ModelError: the folder has no tokenizer, or a damaged one. MissingExtra: tokenizers is not installed.
    """
    if not (source / TOKENIZER).is_file():
        raise ModelError(f"{source} holds no {TOKENIZER}; save it with transformers: "
                         "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)")
    try:
        open_tokenizer(str(source / TOKENIZER), vocabulary)
    except EngineError:
        raise MissingExtra("a tokenizer", "decoder") from None
    except BundleError as error:
        raise ModelError(f"{source}: {error}") from None


def _texts(path: Path) -> Iterator[str]:
    """Of a .txt file the lines, of a .jsonl file the objects' "text"."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CalibrationError(f"cannot read --calibration {path}: {error}") from None
    for number, line in enumerate(filter(str.strip, lines), 1):
        if path.suffix == ".txt":
            yield line
            continue
        try:
            yield str(json.loads(line)["text"])
        except (ValueError, KeyError, TypeError):
            raise CalibrationError(f'--calibration {path}, text {number} is no {{"text": "..."}}') from None
