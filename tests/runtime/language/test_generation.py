"""Text in the making: pieces, stop strings, the cache, limits, cancelling; with logits that are known."""
from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from language_bundles import CONTEXT, ScriptedDecoder
from numpy.typing import NDArray

from edgeq_runtime import BundleError, EngineError, InputError, Manifest, Model, load
from edgeq_runtime.language import cache as caches
from edgeq_runtime.language.cache import TokenCache
from edgeq_runtime.language.model import LanguageModel
from edgeq_runtime.language.text import StopStrings, Tokenizer, TokenText
from edgeq_runtime.manifest import Language

TEXTS = ("Hello world", " two  spaces", "für Größe, façade", "Привет, мир", "你好，世界。",
         "👩\u200d👩\u200d👧 🎉 🇩🇪", "Ω∑ 🚀漢", "\ufffd?")
Made = tuple[LanguageModel, ScriptedDecoder]


@pytest.fixture(scope="module")
def language(language_bundle: Path) -> Language:
    found = Manifest.read(language_bundle).language
    assert found is not None
    return found


@pytest.fixture(scope="module")
def tokenizer(language_bundle: Path, language: Language) -> Tokenizer:
    return Tokenizer(str(language_bundle), language)


def scripted(folder: Path, language: Language, function: Callable[[Sequence[int]], NDArray[Any]]) -> Made:
    decoder = ScriptedDecoder(function, language.vocabulary)
    return LanguageModel(str(folder), language, TokenCache(decoder)), decoder


def saying(folder: Path, language: Language, tokens: Sequence[int]) -> Made:
    """A model that says these tokens behind whatever prompt, and then its end."""
    start: list[int] = []

    def function(text: Sequence[int]) -> NDArray[Any]:
        start[:] = start or [len(text)]
        place = len(text) - start[0]
        return np.eye(language.vocabulary)[tokens[place] if place < len(tokens) else language.eos[0]]

    return scripted(folder, language, function)


def wandering(language: Language) -> Callable[[Sequence[int]], NDArray[Any]]:
    """Logits that depend on every token so far, and never on an end."""
    def function(text: Sequence[int]) -> NDArray[Any]:
        logits = np.random.default_rng(list(text)).normal(0, 2, language.vocabulary)
        logits[list(language.eos)] = -99
        return logits

    return function


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_and_together_the_text(text: str, language_bundle: Path, language: Language,
                                                            tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(text)
    model, _ = saying(language_bundle, language, tokens)
    stream = model.generate("Say:")
    pieces = list(stream)
    assert "".join(pieces) == text == stream.result.text
    assert stream.result.tokens == tuple(tokens)
    assert stream.result.finish_reason == "stop"
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces), pieces


def test_a_character_that_is_cut_is_shown_in_the_end(language_bundle: Path, language: Language, tokenizer: Tokenizer,
                                                     ) -> None:
    tokens = next(found for found in map(tokenizer.encode, "ßéñü€") if len(found) > 1)[:1]
    model, _ = saying(language_bundle, language, tokens)
    assert list(model.generate("Say:")) == ["\ufffd"]


def test_a_space_in_front_is_kept(tokenizer: Tokenizer) -> None:
    """As decoders of SentencePiece take it away from the first token of a text."""
    class Strips:
        def decode(self, tokens: Sequence[int], special: bool = False) -> str:
            return "".join(("", " a", " b")[token] for token in tokens).lstrip()

    behind, alone = TokenText(Strips(), [1]), TokenText(Strips())  # type: ignore[arg-type]
    assert [behind.add(2), behind.add(1), behind.add(2)] == [" b", " a", " b"]
    assert [alone.add(2), alone.add(1), alone.add(2)] == ["b", " a", " b"]


@pytest.mark.parametrize(("stop", "pieces", "shown", "found"), [
    ((), ["a", "b"], ["a", "b"], False),
    (("lo",), ["hel", "lo you"], ["he", "l"], True),
    (("<end>",), ["a<e", "nd", ">b"], ["a", "", ""], True),
    (("<end>",), ["a<e", "nde", "r<"], ["a", "<ende", "r<"], False),
    (("\n\n", "stop"), ["a\n", "b\n", "\nc"], ["a", "\nb", ""], True),
    (("aab",), ["a", "a", "a", "b"], ["", "", "a", ""], True),
    (("abc", "b"), ["ab"], ["a"], True),
], ids=str)
def test_stop_strings(stop: tuple[str, ...], pieces: list[str], shown: list[str], found: bool) -> None:
    stops = StopStrings(stop)
    given = [stops.add(piece) for piece in pieces]
    given[-1] += stops.end()
    assert given == shown
    assert stops.found is found


def test_a_stop_string_ends_a_text_across_tokens(language_bundle: Path, language: Language, tokenizer: Tokenizer,
                                                 ) -> None:
    model, _ = saying(language_bundle, language, tokenizer.encode("Hello world, done it is"))
    result = model.generate("Say:", stop=["ne i", "never"], stream=False)
    assert (result.text, result.finish_reason) == ("Hello world, do", "stop")


def test_limits(language_bundle: Path, language: Language, tokenizer: Tokenizer) -> None:
    model, decoder = scripted(language_bundle, language, wandering(language))
    prompt = len(tokenizer.encode("Say:"))
    short = model.generate("Say:", max_tokens=5, stream=False)
    assert (len(short.tokens), short.finish_reason, short.prompt_tokens) == (5, "length", prompt)
    full = model.generate("Say:", stream=False)
    assert (len(full.tokens), full.finish_reason) == (CONTEXT - prompt, "length")
    assert len(decoder.held) == CONTEXT - 1, "the last token is not read any more"
    assert full.tokens[:5] == short.tokens


def test_the_cache_goes_on_behind_what_texts_share(language_bundle: Path, language: Language) -> None:
    model, decoder = scripted(language_bundle, language, wandering(language))
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
    first = model.generate(messages, max_tokens=6, stream=False)
    assert decoder.fed == first.prompt_tokens + 5
    messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "world"}]
    second = model.generate(messages, max_tokens=6, stream=False)
    assert second.cached_tokens >= first.prompt_tokens
    assert decoder.fed == first.prompt_tokens + 5 + second.prompt_tokens - second.cached_tokens + 5
    again = model.generate(messages, max_tokens=6, stream=False)
    assert again.cached_tokens == again.prompt_tokens - 1, "the last token's logits are wanted"
    assert again.tokens == second.tokens
    fresh, _ = scripted(language_bundle, language, wandering(language))
    assert fresh.generate(messages, max_tokens=6, stream=False).tokens == second.tokens


def test_texts_that_take_turns_are_right(language_bundle: Path, language: Language) -> None:
    model, _ = scripted(language_bundle, language, wandering(language))
    prompts = ("Hello", "Hello world", "other")
    alone = [model.generate(prompt, max_tokens=7, stream=False).tokens for prompt in prompts]
    streams = [model.generate(prompt, max_tokens=7) for prompt in prompts]
    for _ in range(7):
        for stream in streams:
            next(stream, None)
    assert [stream.result.tokens for stream in streams] == alone


def test_threads(language_bundle: Path, language: Language) -> None:
    model, _ = scripted(language_bundle, language, wandering(language))
    prompts = [f"Hello {k}" for k in range(4)]
    alone = [model.generate(prompt, max_tokens=9, stream=False).text for prompt in prompts]
    found: dict[str, str] = {}
    threads = [threading.Thread(target=lambda prompt=prompt: found.update(
        {prompt: model.generate(prompt, max_tokens=9, stream=False).text})) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[prompt] for prompt in prompts] == alone


def test_cancelling(language_bundle: Path, language: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    model, decoder = scripted(language_bundle, language, wandering(language))
    stream = model.generate("Hello")
    threading.Thread(target=lambda: (next(stream), stream.cancel())).run()
    result = stream.result
    assert result.finish_reason == "cancelled"
    assert 1 <= len(result.tokens) < 10
    assert model.generate("Hello", max_tokens=9, stream=False).tokens[:1] == result.tokens[:1]
    monkeypatch.setattr(caches, "CHUNK", 4)
    before = decoder.fed
    amid = model.generate("another long prompt that is read in parts", stream=False,
                          unwanted=lambda: decoder.fed > before + 6)
    assert (amid.finish_reason, amid.tokens, amid.text) == ("cancelled", (), "")
    assert decoder.fed - before == 8, "a prompt is read on after it was cancelled"
    assert amid.seconds_to_first_token is None


def test_after_a_failure_the_cache_is_empty(language_bundle: Path, language: Language) -> None:
    model, decoder = scripted(language_bundle, language, wandering(language))
    good = model.generate("Hello", max_tokens=4, stream=False)
    function = decoder.function

    def fails(text: Sequence[int]) -> NDArray[Any]:
        raise EngineError("out of memory")

    decoder.function = fails
    with pytest.raises(EngineError, match="out of memory"):
        model.generate("Hello world", stream=False)
    decoder.function = function
    again = model.generate("Hello", max_tokens=4, stream=False)
    assert (again.tokens, again.cached_tokens) == (good.tokens, 0)


def test_a_cache_that_cannot_forget_a_part(language_bundle: Path, language: Language, monkeypatch: pytest.MonkeyPatch,
                                           ) -> None:
    model, decoder = scripted(language_bundle, language, wandering(language))
    good = [model.generate(prompt, max_tokens=4, stream=False).tokens for prompt in ("Hello", "Hello world")]

    def keep(count: int) -> None:
        if count:
            raise EngineError("cannot forget a part")
        decoder.held.clear()

    monkeypatch.setattr(decoder, "keep", keep)
    assert [model.generate(prompt, max_tokens=4, stream=False).tokens for prompt in ("Hello", "Hello world")] == good


def test_a_greedy_text_is_the_argmax_of_the_engines_logits(model: Model) -> None:
    """The whole way through llama.cpp, against one run over the finished text."""
    result = model.generate("Hello world", max_tokens=24, stream=False)
    tokens = model.language.tokenizer.encode("Hello world") + list(result.tokens)
    logits = model.run({"input_ids": np.array([tokens])})["logits"][0]
    assert logits.argmax(-1)[result.prompt_tokens - 1:-1].tolist() == list(result.tokens)
    assert model.generate("Hello world", max_tokens=24, stream=False, seed=3, temperature=1).tokens != result.tokens


@pytest.mark.parametrize(("prompt", "words", "message"), [
    ("", {}, "the prompt is empty"), (3, {}, "must be text or a list of messages, got int"),
    (None, {}, "got NoneType"), (b"x", {}, "got bytes"), ([], {}, "at least one"), ("\ud800", {}, "no Unicode text"),
    ("word " * 200, {}, "and the context holds 96 with the answer: shorten it"),
    ("Hi", {"max_tokens": 0}, "max_tokens must be a whole number above 0"), ("Hi", {"max_tokens": 2.0}, "got 2.0"),
    ("Hi", {"max_tokens": 96}, "a context of 96 has room for"), ("Hi", {"stop": ""}, "none empty"),
    ("Hi", {"stop": [3]}, "stop must be"), ("Hi", {"stop": 3}, "stop must be"), ("Hi", {"temperature": -1}, "temperat"),
], ids=str)
def test_refused(prompt: Any, words: dict[str, Any], message: str, model: Model) -> None:
    with pytest.raises(InputError, match=message):
        model.generate(prompt, **words)


def test_unknown_words(model: Model) -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'temprature'"):
        model.generate("Hi", temprature=1)


def test_a_prompt_of_its_own_beginning(language_bundle: Path, language: Language) -> None:
    begun = Tokenizer(str(language_bundle), replace(language, add_bos=True, bos=1))
    assert begun.encode("Hi")[0] == 1
    assert begun.encode("Hi", special=False) == begun.encode("Hi")[1:]
    messages = [{"role": "user", "content": "Hi"}]
    counts = []
    for adds in (True, False):
        model, _ = saying(language_bundle, replace(language, add_bos=adds), [])
        counts.append([model.generate(prompt, stream=False).prompt_tokens for prompt in ("Hi", messages)])
    assert counts[0][0] == counts[1][0] + 1
    assert counts[0][1] == counts[1][1], "the template writes the beginning itself"


def test_models_that_are_none(make_bundle: Callable[..., Path], language_bundle: Path) -> None:
    with load(make_bundle()) as plain, pytest.raises(BundleError, match="no language model: use `run` or `predict`"):
        plain.generate("Hi")
    with load(language_bundle) as closed:
        pass
    with pytest.raises(EngineError, match="closed"):
        closed.generate("Hi")


def _other_tokenizer(folder: Path) -> None:
    words = json.loads((folder / "tokenizer.json").read_text())
    words["added_tokens"].append({**words["added_tokens"][-1], "id": 582, "content": "<more>"})
    (folder / "tokenizer.json").write_text(json.dumps(words))


@pytest.mark.parametrize(("edit", "message"), [
    (lambda folder: (folder / "tokenizer.json").unlink(), r"has no tokenizer\.json: text cannot become tokens"),
    (lambda folder: (folder / "tokenizer.json").write_text("{"), r"tokenizer\.json is damaged"),
    (_other_tokenizer, r"tokenizer\.json has 583 tokens, the model 582: they are not of one model"),
    (lambda folder: (folder / "tokenizer_config.json").write_text("["), r"tokenizer_config\.json is damaged"),
    (lambda folder: (folder / "tokenizer_config.json").write_text("[]"), "must be an object"),
    (lambda folder: (folder / "chat_template.jinja").unlink(), r"cannot read the chat template chat_template\.jinja"),
    (lambda folder: (folder / "chat_template.jinja").write_bytes(b"\xff"), "cannot read the chat template"),
], ids=["missing", "damaged", "another", "config", "list", "template", "bytes"])
def test_refused_tokenizers(edit: Callable[[Path], Any], message: str, language_bundle: Path, language: Language,
                            tmp_path: Path) -> None:
    folder = shutil.copytree(language_bundle, tmp_path / "changed")
    edit(folder)
    with pytest.raises(BundleError, match=message):
        Tokenizer(str(folder), language)


def test_without_a_template(language_bundle: Path, language: Language, tmp_path: Path) -> None:
    folder = shutil.copytree(language_bundle, tmp_path / "plain")
    found = Tokenizer(str(folder), replace(language, template=""))
    assert not found.has_template
    with pytest.raises(InputError, match="has no chat template: it continues plain prompts"):
        found.chat([{"role": "user", "content": "Hi"}])
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"chat_template": [{"name": "default", "template": "{{ eos_token }}"}], "eos_token": {"content": "<e>"}}))
    assert Tokenizer(str(folder), replace(language, template="")).chat([{"role": "user", "content": "Hi"}]) == "<e>"
