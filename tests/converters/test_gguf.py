"""A decoder written as GGUF: read back by the gguf package, and by our own reader of sources."""
from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from frontends.decoder.families import FAMILIES
from numpy.typing import NDArray

from edgeq.errors import UnsupportedModel
from edgeq.frontends.decoder.architectures import architecture_of, spec_of
from edgeq.frontends.decoder.builder import build_decoder, float_parts
from edgeq.frontends.decoder.checkpoint import open_checkpoint
from edgeq.frontends.decoder.spec import RMSNorm, Spec
from edgeq.frontends.decoder.weights import linear_roles, shape_of
from edgeq.quant.decoder import QuantizedDecoder, StoredMatrix
from edgeq.quant.formats.mixes import Place, fitting_type, mix_named, type_of
from edgeq_converters.gguf.metadata import metadata
from edgeq_converters.gguf.tensors import tensors
from edgeq_converters.gguf.writer import write

TOKENIZER = {"model": "gpt2", "pre": "gpt-2", "tokens": [f"t{k}" for k in range(101)], "merges": ["t 1"],
             "token_type": [1] * 101, "eos_token_id": 2}
# Scaled by tables whose parameters a file does not hold; Gemma 3's second base and SmolLM3's and Qwen2's layers, too.
WRITTEN = ("llama", "llama-linear", "llama-yarn", "qwen3", "gemma2", "phi3", "olmo2", "granite", "gpt2")


class Made:
    """Random weights of a spec, the same for each role and layer whenever they are asked for."""

    def __init__(self, spec: Spec):
        self.spec = spec

    def matrix(self, role: str, layer: int | None = None) -> NDArray[np.float32]:
        return self.vector("embedding" if role == "head" and self.spec.tied else role, "weight", layer)

    def vector(self, role: str, part: str, layer: int | None = None) -> NDArray[np.float32]:
        generator = np.random.default_rng(sum(map(ord, f"{role}{part}{layer}")))
        is_norm = role.endswith("norm") and part == "weight"
        one = 1.0 - self.spec.norm.offset if is_norm and isinstance(self.spec.norm, RMSNorm) else float(is_norm)
        return (generator.normal(size=shape_of(self.spec, role, part)) * 0.2 + one).astype(np.float32)


def written(path: Path, name: str, mix: str) -> tuple[Spec, Made]:
    config = {**FAMILIES[name], "query_pre_attn_scalar": 16} if "gemma" in name else FAMILIES[name]
    spec, row = spec_of(config), architecture_of(config)
    made, chosen = Made(spec), mix_named(mix)
    keys: list[tuple[str, int | None]] = [("embedding", None), *([] if spec.tied else [("head", None)])]
    keys += [(role, layer) for layer in range(len(spec.layers)) for role in linear_roles(spec)]
    matrices = {}
    for role, layer in keys:
        weight = made.matrix(role, layer)
        kind = type_of(chosen, role, weight.shape[1], None if layer is None else Place(layer, len(spec.layers)))
        matrices[role, layer] = StoredMatrix.of_floats(kind, weight)
    write(path, metadata(spec, row.gguf, name, chosen.number), TOKENIZER,
          lambda: tensors(spec, row.gguf, QuantizedDecoder(matrices, made.vector)))
    return spec, made


def logits(model: ir.Model, spec: Spec, folder: Path) -> NDArray[Any]:
    ir.save(model, folder / "model.onnx")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    past = {value.name: np.zeros((1, spec.kv_heads, 0, spec.head_size), np.float32)
            for value in session.get_inputs()[1:]}
    return np.asarray(session.run(["logits"], {"input_ids": np.arange(3, 15)[None], **past})[0])


@pytest.mark.parametrize("name", WRITTEN)
def test_a_file_of_ours_is_the_same_network(name: str, tmp_path: Path) -> None:
    """Names, fusions, the order of rotated rows and what norms add are undone by the reader."""
    spec, made = written(tmp_path / "model.gguf", name, "F32")
    checkpoint = open_checkpoint(tmp_path / "model.gguf")
    (tmp_path / "read").mkdir()
    expected = logits(build_decoder(spec, float_parts(made.matrix, made.vector, tied=spec.tied)), spec, tmp_path)
    got = logits(checkpoint.float_graph(), spec, tmp_path / "read")
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_gguf_package_reads_names_shapes_and_metadata(tmp_path: Path) -> None:
    _, made = written(tmp_path / "model.gguf", "phi3", "F16")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert tuple(found["blk.0.attn_qkv.weight"].shape) == (48, 48 + 2 * 16)
    assert tuple(found["blk.2.ffn_up.weight"].shape) == (48, 160)
    assert reader.get_field("phi3.attention.head_count_kv").contents() == 2  # type: ignore[union-attr]
    values = gguf.dequantize(found["blk.1.ffn_down.weight"].data, found["blk.1.ffn_down.weight"].tensor_type)
    np.testing.assert_array_equal(values, made.matrix("down", 1).astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(("mix", "role", "columns", "place", "expected"), [
    ("Q4_K_M", "v", 512, Place(0, 24), "Q6_K"), ("Q4_K_M", "v", 512, Place(3, 24), "Q4_K"),
    ("Q4_K_M", "v", 512, Place(5, 24), "Q6_K"), ("Q4_K_M", "down", 512, Place(23, 24), "Q6_K"),
    ("Q4_K_M", "q", 512, Place(0, 24), "Q4_K"), ("Q4_K_M", "q", 576, Place(0, 24), "Q5_0"),
    ("Q4_K_M", "v", 576, Place(0, 24), "Q8_0"), ("Q4_K_M", "qkv", 512, Place(9, 24), "Q5_K"),
    ("Q4_0", "head", 512, None, "Q6_K"), ("Q4_0", "head", 576, None, "Q8_0"),
    ("Q4_K_M", "embedding", 512, None, "Q4_K"),
    ("Q2_K", "v", 512, Place(9, 24, 4), "Q4_K"), ("Q2_K", "v", 512, Place(9, 24, 3), "Q3_K"),
    ("Q4_K_M", "q", 60, Place(9, 24), "F16"), ("Q8_0", "head", 64, None, "Q8_0"),
])
def test_types_are_llama_cpps(mix: str, role: str, columns: int, place: Place | None, expected: str) -> None:
    """By src/llama-quant.cpp, read by hand for these places."""
    assert type_of(mix_named(mix), role, columns, place) == expected


def test_what_llama_cpp_cannot_be_told_is_refused() -> None:
    spec = spec_of(FAMILIES["gemma2"])  # whose attention is scaled by 20, not by the size of a head
    with pytest.raises(UnsupportedModel, match="queries and keys are scaled by"):
        metadata(spec, "gemma2", "x", 1)


def test_types_that_fit() -> None:
    assert [fitting_type("Q4_K", columns) for columns in (256, 288, 100)] == ["Q4_K", "Q5_0", "F16"]
