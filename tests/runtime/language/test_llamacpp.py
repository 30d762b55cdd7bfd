"""llama.cpp as an engine: against our own graph of the same weights in onnxruntime."""
from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from language_bundles import CONTEXT, checkpoint
from numpy.typing import NDArray
from runtime_bundles import entries

from edgeq.inference.decoder import GraphDecoder
from edgeq_runtime import BundleError, EngineError, InputError, Manifest, Model, load
from edgeq_runtime.language import Decoder, llama_library, llamacpp, open_decoder
from edgeq_runtime.manifest import FILE_NAME
from edgeq_runtime.selftest import Case, Tolerance, write_selftest

TOKENS = np.random.default_rng(0).integers(0, 500, 40)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> GraphDecoder:
    """The same weights, in the graph that edgeq writes."""
    folder = tmp_path_factory.mktemp("graph")
    ir.save(checkpoint(folder / "checkpoint").float_graph(), folder / "model.onnx")
    return GraphDecoder(onnxruntime.InferenceSession(str(folder / "model.onnx")), CONTEXT)


def relative(found: NDArray[Any], expected: NDArray[Any]) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_logits_are_those_of_the_graph(model: Model, graph: GraphDecoder) -> None:
    graph.keep(0)
    expected = graph.logits(TOKENS.tolist(), every=True)
    found = model.run({"input_ids": TOKENS[None].astype(np.int64)})["logits"][0]
    assert relative(found, expected) < 1e-5
    assert relative(found, expected[::-1]) > .1, "any logits would have passed"


def test_steps_and_a_cache_that_forgets(language_bundle: Path, graph: GraphDecoder) -> None:
    decoder = open_decoder(str(language_bundle), Manifest.read(language_bundle), 1)
    whole, other = TOKENS.tolist(), TOKENS[::-1].tolist()

    def walk(machine: Decoder | GraphDecoder) -> NDArray[Any]:
        machine.keep(0)
        rows = [machine.logits(whole[:20])]
        rows += [machine.logits([token]) for token in whole[20:25]]
        machine.keep(7)
        rows.append(machine.logits(other[:9], every=True))
        return np.concatenate(rows)

    assert relative(walk(decoder), walk(graph)) < 1e-5
    decoder.close()
    with pytest.raises(EngineError, match="closed"):
        decoder.logits([1])


def test_a_prompt_longer_than_a_batch(language_bundle: Path, monkeypatch: pytest.MonkeyPatch, graph: GraphDecoder,
                                      ) -> None:
    monkeypatch.setattr(llamacpp, "BATCH", 16)
    decoder = open_decoder(str(language_bundle), Manifest.read(language_bundle), 1)
    graph.keep(0)
    expected = graph.logits(TOKENS.tolist(), every=True)
    assert relative(decoder.logits(TOKENS.tolist(), every=True), expected) < 1e-5
    decoder.keep(0)
    assert relative(decoder.logits(TOKENS.tolist()), expected[-1:]) < 1e-5
    decoder.close()


def test_self_test(language_bundle: Path, tmp_path: Path, graph: GraphDecoder) -> None:
    folder = shutil.copytree(language_bundle, tmp_path / "tested.edgeq")
    graph.keep(0)
    expected = graph.logits(TOKENS.tolist(), every=True)[None]
    for shift, status in ((0.0, "within tolerance"), (1.0, "fail")):
        write_selftest(folder / "selftest.npz", [Case({"input_ids": TOKENS[None].astype(np.int64)},
                                                      {"logits": expected + np.float32(shift)})],
                       Tolerance("float32 sums in any order", {"logits": 1e-3}))
        change(folder, lambda words: None)
        with load(folder) as opened:
            opened.generate("Hello", max_tokens=3, stream=False)  # whose cache is not in the way
            assert opened.self_test().status == status


def change(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    words = json.loads((folder / FILE_NAME).read_text())
    edit(words)
    words["files"] = [{"path": entry.path, "bytes": entry.bytes, "sha256": entry.sha256} for entry in entries(folder)]
    (folder / FILE_NAME).write_text(json.dumps(words))
    return folder


def _option(**options: Any) -> Callable[[dict[str, Any]], None]:
    return lambda words: words["options"].update(options)


@pytest.mark.parametrize(("edit", "kind", "message"), [
    (_option(contxt=9), BundleError, "options that this runtime does not know: contxt"),
    (_option(context=0), BundleError, "asks for a context of 0 tokens"),
    (_option(context=CONTEXT + 1), BundleError, f"the model has 1 to {CONTEXT}"),
    (_option(cache="q9"), BundleError, "cache of type 'q9'; there are f32, f16, q8_0, bf16"),
    (_option(flash_attention=1), BundleError, "flash_attention must be true or false"),
    (lambda words: words["language"].update(vocabulary=9000), BundleError, "the manifest says 9000"),
    (lambda words: words.update(engine_version=">=99999"), EngineError, "this bundle needs"),
    (lambda words: words.update(engine="tflite"), BundleError, "with litertlm, llamacpp, onnxruntime, not with"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_refused_bundles(edit: Callable[[dict[str, Any]], None], kind: type[Exception], message: str,
                         language_bundle: Path, tmp_path: Path) -> None:
    folder = change(shutil.copytree(language_bundle, tmp_path / "changed.edgeq"), edit)
    with pytest.raises(kind, match=message):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"no model at all"])
def test_a_file_that_llama_cpp_refuses(content: bytes, language_bundle: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(language_bundle, tmp_path / "broken.edgeq")
    (folder / "model.gguf").write_bytes(content)
    with pytest.raises(EngineError, match=r"cannot load model\.gguf: \S"):
        load(change(folder, lambda words: None))


@pytest.mark.parametrize(("tokens", "message"), [
    ([], "no tokens"), ([0] * (CONTEXT + 1), "97 tokens are more than the context of 96"), ([-1], "outside the voc"),
    ([10 ** 6], "outside the vocabulary")], ids=["none", "too many", "negative", "unknown"])
def test_refused_tokens(tokens: list[int], message: str, language_bundle: Path) -> None:
    decoder = open_decoder(str(language_bundle), Manifest.read(language_bundle), 1)
    with pytest.raises(InputError, match=message):
        decoder.logits(tokens)
    assert decoder.logits([1]).shape == (1, decoder.vocabulary)
    decoder.close()


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(package: str) -> str:
        try:
            return versions[package.replace("-", "_")]
        except KeyError:
            raise llama_library.PackageNotFoundError(package) from None

    monkeypatch.setattr(llama_library, "version", version)


@pytest.mark.parametrize(("versions", "message"), [
    ({}, r"llama\.cpp is not installed: pip install 'xllamacpp==2026\.10\.11549'"),
    ({"xllamacpp": "2026.11.1"}, r"knows the C structs of xllamacpp 2026\.10\.11549, installed is 2026\.11\.1"),
], ids=["none", "another release"])
def test_which_llama_cpp(versions: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, **versions)
    with pytest.raises(EngineError, match=message):
        llama_library.load_library()


def test_both_packages_give_the_same_logits(language_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each where it is installed: the declarations of one are not those of the other."""
    found = {}
    for package in ("xllamacpp", "llama-cpp-python"):
        try:
            release = llama_library.version(package)
        except llama_library.PackageNotFoundError:
            continue
        with monkeypatch.context() as only:
            installed(only, **{package.replace("-", "_"): release})
            decoder = open_decoder(str(language_bundle), Manifest.read(language_bundle), 1)
            assert package in decoder.description
            found[package] = decoder.logits(TOKENS.tolist(), every=True)
            decoder.close()
    assert found
    first = next(iter(found.values()))
    assert all(relative(each, first) < 1e-5 for each in found.values())


class Moved:
    """A library with every function, and with defaults that stand elsewhere."""

    def __init__(self, absent: str = "", **defaults: int) -> None:
        self.absent, self.defaults = absent, defaults

    def __getattr__(self, name: str) -> Any:
        if name == self.absent:
            raise AttributeError(name)
        made = {**llama_library._DEFAULTS.get(name, {}), **self.defaults}
        return _Function(lambda: SimpleNamespace(**made))


class _Function:
    def __init__(self, call: Callable[[], Any]) -> None:
        self.call = call

    def __call__(self) -> Any:
        return self.call()


def test_another_layout_of_the_structs_is_noticed() -> None:
    llama_library.declared(Moved(), "this")
    with pytest.raises(EngineError, match=r"n_batch of llama_context_default_params is 7, in llama\.h it is 2048"):
        llama_library.declared(Moved(n_batch=7), "this")
    with pytest.raises(EngineError, match="exports no llama_memory_seq_rm"):
        llama_library.declared(Moved("llama_memory_seq_rm"), "this")
