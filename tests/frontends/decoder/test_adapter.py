"""LoRA and DoRA adapters, written as peft writes them, and merged by the formulas of their papers."""
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from decoder_checkpoints import save_shard
from numpy.typing import NDArray
from quantized_layouts import Layout, bitsandbytes_4bit, gptq, gptq_config, save_quantized

import edgeq
from edgeq.errors import ModelError
from edgeq.frontends.decoder.checkpoint import open_checkpoint

Array = NDArray[Any]
Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"
LENGTHS = "lora_magnitude_vector"
WIDTHS = {Q: (128, 128), DOWN: (128, 192)}
NF4 = Layout(bitsandbytes_4bit("nf4", nested=True), {"quant_method": "bitsandbytes"})
PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 10, "init_lora_weights": True}
FORMS: dict[str, tuple[dict[str, Any], dict[str, int], dict[str, float]]] = {  # words; rank, scale of each layer
    "lora": ({}, {Q: 4, DOWN: 4}, {Q: 2.5, DOWN: 2.5}),
    "by the root of the rank": ({"use_rslora": True}, {Q: 4, DOWN: 4}, {Q: 5, DOWN: 5}),
    "patterns": ({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r".*\.down_proj": 6}}, {Q: 2, DOWN: 4},
                 {Q: 5, DOWN: 1.5}),
    "dora": ({"use_dora": True}, {Q: 4, DOWN: 4}, {Q: 2.5, DOWN: 2.5}),
}


def save_adapter(folder: Path, ranks: dict[str, int], words: dict[str, Any],
                 change: Callable[[dict[str, Array]], object] = lambda tensors: None) -> dict[str, Array]:
    chance, tensors = np.random.default_rng(5), {}
    for layer, rank in ranks.items():
        rows, columns = WIDTHS[layer]
        stem = f"base_model.model.{layer}"
        tensors[f"{stem}.lora_A.weight"] = chance.normal(size=(rank, columns)).astype(np.float32) * np.float32(0.1)
        tensors[f"{stem}.lora_B.weight"] = chance.normal(size=(rows, rank)).astype(np.float32) * np.float32(0.1)
        if words.get("use_dora"):
            tensors[f"{stem}.{LENGTHS}"] = chance.uniform(0.5, 2, rows).astype(np.float32)
    change(tensors)
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(PLAIN | words))
    save_shard(folder / "adapter_model.safetensors", tensors)
    return tensors


@pytest.mark.parametrize("layout", [NF4, Layout(gptq(), gptq_config())], ids=["qlora", "gptq"])
@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_merged(form: tuple[dict[str, Any], dict[str, int], dict[str, float]], layout: Layout, tmp_path: Path) -> None:
    """Into the real weights of a quantized base; what the adapter leaves alone keeps its codes."""
    words, ranks, scales = form
    (tmp_path / "net").mkdir()
    net, written = save_quantized(tmp_path / "net", layout)
    tensors = save_adapter(tmp_path / "adapter", ranks, words)
    weights = open_checkpoint(net, tmp_path / "adapter").weights
    for layer, role in ((Q, "q"), (DOWN, "down")):
        a, b = (tensors[f"base_model.model.{layer}.lora_{part}.weight"] for part in "AB")
        expected = written[f"{layer}.weight"].real + scales[layer] * (b @ a)
        if "use_dora" in words:
            length = tensors[f"base_model.model.{layer}.{LENGTHS}"][:, None]
            expected = length * expected / np.sqrt((expected ** 2).sum(1, keepdims=True))
        np.testing.assert_allclose(weights.matrix(role, 0), expected, rtol=0, atol=1e-6)
        assert weights.codes(role, 0) is None
    assert weights.codes("k", 0) is not None


def test_an_adapter_is_merged_before_quantization(tmp_path: Path) -> None:
    """In the bundle, to a float base that is saved merged; a layer that it holds as a whole takes its place."""
    (tmp_path / "net").mkdir()
    net, _ = save_quantized(tmp_path / "net", NF4)
    norm = np.linspace(0.5, 2, 128, dtype=np.float32)
    save_adapter(tmp_path / "adapter", {Q: 4}, {}, lambda tensors: tensors.update({
        "base_model.model.model.norm.weight": norm}))
    bundle = edgeq.convert(net, target="onnxruntime", method="nearest", verify=False, adapter=tmp_path / "adapter",
                           output=tmp_path / "x.edgeq")
    assert bundle.manifest.quantization["kept"]["weights"] == 6
    assert bundle.report["adapter"] == {"name": "adapter", "weights": 2}
    weights = open_checkpoint(net, tmp_path / "adapter").weights
    np.testing.assert_array_equal(weights.vector("final_norm", "weight"), norm)


def renamed(part: str, other: str) -> Callable[[dict[str, Array]], object]:
    def change(tensors: dict[str, Array]) -> None:
        for name in [name for name in tensors if part in name]:
            tensors[name.replace(part, other)] = tensors.pop(name)

    return change


BAD: dict[str, tuple[dict[str, Any], Callable[[dict[str, Array]], object], str]] = {
    "other layers": ({}, renamed("layers.0", "layers.7"), "has no layer 'model.layers.7.self_attn.q_proj'; the"),
    "rank mismatch": ({"r": 8}, lambda tensors: None,
                      "has lora_A (4, 128) and lora_B (128, 4) where adapter_config.json says rank 8"),
    "half of it": ({}, lambda tensors: tensors.pop(f"base_model.model.{Q}.lora_B.weight"), "lacks lora_B"),
    "another width": ({}, lambda tensors: tensors.update({f"base_model.model.{Q}.lora_A.weight": np.ones(
        (4, 64), np.float32)}), "is for a weight of (128, 64); the checkpoint has (128, 128)"),
    "DoRA without lengths": ({"use_dora": True}, lambda tensors: tensors.pop(f"base_model.model.{Q}.{LENGTHS}"),
                             "lacks lora_magnitude_vector"),
    "another kind": ({"peft_type": "IA3"}, lambda tensors: None, "a IA3 cannot be merged"),
    "a base that changes": ({"init_lora_weights": "pissa"}, lambda tensors: None, "'pissa' changes the base, too"),
    "of a table": ({}, renamed("lora_A.weight", "lora_embedding_A"), "is of no linear layer"),
    "words of nobody": ({"lora_alpha": "much"}, lambda tensors: None, "adapter_config.json is damaged"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=list(BAD))
def test_one_message_and_nothing_written(case: tuple[dict[str, Any], Any, str], tmp_path: Path) -> None:
    words, change, said = case
    (tmp_path / "net").mkdir()
    net, _ = save_quantized(tmp_path / "net", NF4)
    save_adapter(tmp_path / "adapter", {Q: 4, DOWN: 4}, words, change)
    with pytest.raises(ModelError) as raised:
        edgeq.convert(net, target="gguf", method="nearest", adapter=tmp_path / "adapter", output=tmp_path / "x.edgeq")
    assert said in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "net"]


def test_what_is_no_adapter(tmp_path: Path) -> None:
    save_quantized(tmp_path, NF4)
    with pytest.raises(ModelError, match=r"adapter_config\.json cannot be read"):
        open_checkpoint(tmp_path, tmp_path)
    with pytest.raises(ModelError, match=r"not of a \.gguf file"):
        open_checkpoint(tmp_path / "net.gguf", tmp_path)
