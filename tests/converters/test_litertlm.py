"""Language models for LiteRT-LM: static graphs against edgeq's own on onnxruntime, files against the engine itself."""
from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from frontends.decoder.families import FAMILIES
from language_bundles import checkpoint
from numpy.typing import NDArray

from edgeq.cli import main
from edgeq.frontends.decoder.architectures import spec_of
from edgeq.frontends.decoder.builder import build_decoder, float_parts
from edgeq.frontends.decoder.spec import Spec
from edgeq.frontends.decoder.weights import shape_of
from edgeq.inference.decoder import GraphDecoder
from edgeq.inference.session import open_session
from edgeq.passes.shapes import fix_shapes
from edgeq.quant.decoder import StoredMatrix
from edgeq.quant.formats import FORMATS, row_format
from edgeq_converters.prepare import lower_form
from edgeq_converters.tflite import flatbuffer
from edgeq_converters.tflite.backend import lower
from edgeq_converters.tflite.decoder_graph import NEVER, build_static
from edgeq_converters.tflite.decoder_parts import rows_of
from edgeq_converters.tflite.ops import table
from edgeq_runtime import Manifest
from edgeq_runtime.language import open_decoder

pytest.importorskip("ai_edge_litert")
CACHE = 12
TOKENS = np.random.default_rng(5).integers(0, 100, CACHE)


def random_parts(spec: Spec) -> Any:
    def numbers(role: str, part: str, layer: int | None) -> NDArray[np.float32]:
        seed = sum(map(ord, f"{role} {part} {layer}"))
        found = np.random.default_rng(seed).normal(0, 0.3, shape_of(spec, role, part)).astype(np.float32)
        return found + np.float32("norm" in role and part == "weight")

    return float_parts(lambda role, layer: numbers(role, "weight", layer), numbers, tied=spec.tied)


@pytest.mark.parametrize("family", ["llama-yarn", "mistral-window", "qwen3", "gemma2", "phi4-longrope", "olmo2",
                                    "granite", "gpt2"])
def test_static_graphs_are_the_decoder(family: str, tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    spec = spec_of(FAMILIES[family])
    parts = random_parts(spec)
    session = open_session(build_decoder(spec, parts, context=CACHE), fused=False)
    expected = GraphDecoder(session, CACHE).logits(TOKENS.tolist(), every=True)
    model = build_static(spec, parts, 1, CACHE)
    fix_shapes(model)
    program = lower(lower_form(model, table().handlers, limits_in_integers=True))[0]
    flatbuffer.write(program, tmp_path / "m.tflite")
    run = Interpreter(str(tmp_path / "m.tflite")).get_signature_runner()
    caches = {name: np.zeros(tensor.shape, np.float32) for name, tensor in program.inputs.items() if "kv" in name}
    for place, token in enumerate(TOKENS):
        mask = np.where(np.arange(CACHE) <= place, 0, NEVER).astype(np.float32)[None, None, None]
        found = run(tokens=np.full((1, 1), token, np.int32), input_pos=np.full(1, place, np.int32), mask=mask, **caches)
        caches = {name: found[f"{name}.new"] for name in caches}
        np.testing.assert_allclose(found["logits"][0, 0], expected[place], rtol=0, atol=2e-5 * np.abs(expected).max())


def test_rows_have_scales_above_zero_and_the_same_numbers() -> None:
    weight = np.random.default_rng(0).normal(size=(6, 50)).astype(np.float32)
    weight[3] = 0
    for bits in (4, 8):
        name = row_format(bits, 50)
        matrix = StoredMatrix(name, FORMATS[name].quantize(weight), 50)
        levels, scale = rows_of(matrix)
        assert (scale > 0).all()
        assert np.abs(levels.astype(np.int8)).max() <= 2 ** (bits - 1) - 1
        assert np.array_equal(levels.astype(np.float32) * scale[:, None], matrix.real())
        assert np.abs(matrix.real() - weight).max() < np.abs(weight).max() / 2 ** (bits - 2)


def convert(folder: Path, bits: int) -> Path:
    checkpoint(folder / "net")
    done = CliRunner().invoke(main, ["convert", str(folder / "net"), "--target", "tflite", "--bits", str(bits),
                                     "--method", "nearest", "-o", str(folder / "b"), "--json"])
    assert done.exit_code == 0, done.output
    return folder / "b"


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 bits; the conversion has read every weight back and compared the engine with them."""
    pytest.importorskip("litert_lm_builder")
    return convert(tmp_path_factory.mktemp("four"), 4)


def test_prefill_and_steps_say_the_same(four: Path) -> None:
    decoder = open_decoder(str(four), Manifest.read(four), 1)
    tokens = np.random.default_rng(1).integers(0, 500, 80).tolist()
    every = decoder.logits(tokens, every=True)
    decoder.keep(0)
    largest = np.abs(every).max()
    assert np.abs(decoder.logits(tokens)[0] - every[-1]).max() < 1e-4 * largest, "64 tokens at once, the rest alone"
    decoder.keep(70)
    again = decoder.logits([*tokens[70:75], *tokens[:3]])
    decoder.keep(75)
    assert np.abs(decoder.logits(tokens[75:])[0] - every[-1]).max() < 1e-4 * largest
    assert np.abs(again[0] - every[-1]).max() > 0.01 * largest, "any cache would have passed"


def test_the_table_of_a_tied_head_is_stored_once(four: Path) -> None:
    spec_bytes = 582 * 64 + 2 * (64 * 64 * 2 + 32 * 64 * 2 + 96 * 64 * 3) // 2
    size = (four / "model.litertlm").stat().st_size
    assert spec_bytes < size < spec_bytes + 582 * 64 + 120_000


def test_files_are_the_same_every_time(four: Path, tmp_path: Path) -> None:
    assert (convert(tmp_path, 4) / "model.litertlm").read_bytes() == (four / "model.litertlm").read_bytes()


def test_types_without_a_kernel_are_named(tmp_path: Path) -> None:
    pytest.importorskip("litert_lm_builder")
    checkpoint(tmp_path / "net")
    done = CliRunner().invoke(main, ["convert", str(tmp_path / "net"), "--target", "tflite", "--bits", "6"])
    assert done.exit_code != 0
    assert "6" in done.stderr
    assert "tflite" in done.stderr


SCRIPT = """
import os, sys, litert_lm
from litert_lm import interfaces
engine = litert_lm.Engine(sys.argv[1], backend=interfaces.Backend.CPU())
session = engine.create_session(apply_prompt_template=False, sampler_config=interfaces.SamplerConfig(top_k=1))
session.run_prefill([sys.argv[2]])
text = ""
for count, part in enumerate(session.run_decode_async(), 1):
    text += part.texts[0]
    if count == 32:
        session.cancel_process()
        break
print("TEXT", ascii(text), flush=True)
os._exit(0)  # its threads may outlive the engine
"""


@pytest.mark.full
def test_litert_lm_says_the_same(tmp_path: Path) -> None:
    pytest.importorskip("litert_lm")
    bundle = convert(tmp_path, 32)
    done = subprocess.run([sys.executable, "-c", SCRIPT, bundle / "model.litertlm", "hello there world"],
                          capture_output=True, text=True, timeout=120, check=False)
    said = re.search(r"^TEXT '(.*)'$", done.stdout, re.M)
    assert said is not None, done.stderr
    ours = CliRunner().invoke(main, ["generate", str(bundle), "hello there world", "--raw", "--max-tokens", "32",
                                     "--temperature", "0", "--json"])
    text = ascii(json.loads(ours.stdout)["text"])[1:-1]
    assert len(text) > 60
    assert text.startswith(said[1][:60])
