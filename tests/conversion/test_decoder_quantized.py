"""Checkpoints that other tools quantized: codes are kept where the target holds them. Each is written to its published
layout (tests/quantized_layouts.py), and what onnxruntime and the gguf package find in the bundle is compared with that.
"""
from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from decoder_checkpoints import save_checkpoint
from numpy.typing import NDArray
from quantized_layouts import (
    Layout,
    Written,
    awq,
    bitsandbytes_4bit,
    bitsandbytes_8bit,
    compressed,
    compressed_config,
    gptq,
    gptq_config,
    hqq,
    mlx,
    save_quantized,
    torchao,
)
from safetensors.numpy import load_file, save_file

import edgeq
from edgeq.backend import backend_named
from edgeq.bundle.folder import Bundle, open_bundle
from edgeq.cli import main
from edgeq.errors import ModelError
from edgeq.frontends.decoder.checkpoint import open_checkpoint

Array = NDArray[Any]
ROLES = {"self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v", "self_attn.o_proj": "o",
         "mlp.gate_proj": "gate", "mlp.up_proj": "up", "mlp.down_proj": "down", "embed_tokens": "embedding"}
BITSANDBYTES = {"quant_method": "bitsandbytes", "load_in_4bit": True}
LAYOUTS = {
    "gptq": Layout(gptq(), gptq_config(), "Q4_0"),
    "gptq, zero points": Layout(gptq(symmetric=False), gptq_config(sym=False), "Q5_0"),
    "gptq 2, 2 bits": Layout(gptq(2, version=2), gptq_config(2, checkpoint_format="gptq_v2"), "Q4_0"),
    "gptq, 3 bits": Layout(gptq(3, symmetric=False), gptq_config(3), "Q4_0"),
    "gptq, 8 bits, by row": Layout(gptq(8, -1), gptq_config(8, -1), "Q8_0"),
    "gptq, act-order": Layout(gptq(order=True), gptq_config(desc_act=True), None, "in another order"),
    "awq": Layout(awq(), {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm"}, "Q5_0"),
    "w4a16": Layout(compressed(4, 64), compressed_config(4, 64), "Q4_0"),
    "w4a16, zero points": Layout(compressed(4, 32, symmetric=False), compressed_config(4, 32, symmetric=False), "Q5_0"),
    "w4a16, act-order": Layout(compressed(4, 32, order=True), compressed_config(4, 32), None, "in another order"),
    "w8a16": Layout(compressed(8, -1), compressed_config(8, -1), "Q8_0"),
    "w8a8": Layout(compressed(8, -1, packed=False, bf16=False), compressed_config(8, -1, "int-quantized"), "Q8_0"),
    "w8a8, zero points": Layout(compressed(8, -1, packed=False, symmetric=False), compressed_config(
        8, -1, "int-quantized", symmetric=False), None, "beyond those of Q8_0, -128 to 127"),
    "nf4": Layout(bitsandbytes_4bit("nf4"), BITSANDBYTES, None, "those of a table"),
    "nf4, nested": Layout(bitsandbytes_4bit("nf4", nested=True), BITSANDBYTES, None, "those of a table"),
    "fp4": Layout(bitsandbytes_4bit("fp4"), BITSANDBYTES, None, "those of a table"),
    "int8": Layout(bitsandbytes_8bit, {"quant_method": "bitsandbytes", "load_in_8bit": True}, "Q8_0"),
    "torchao int8": Layout(torchao(-1), {"quant_method": "torchao"}, "Q8_0", header='{"_type": "Int8Tensor"}'),
    "torchao int4": Layout(torchao(32), {"quant_method": "torchao"}, "Q4_0",
                           header='{"_type": "IntxUnpackedToInt8Tensor"}'),
    "mlx, 4 bits": Layout(mlx(4), {"bits": 4, "group_size": 64}, "Q4_1", key="quantization", tables=True),
    "mlx, 8 bits": Layout(mlx(8), {"bits": 8, "group_size": 64}, None, "beyond those of Q5_1", key="quantization",
                          tables=True),
    "mlx, 3 bits": Layout(mlx(3, 32), {"bits": 3, "group_size": 32}, "Q4_1", key="quantization"),
    "hqq": Layout(hqq(4, whole=True), {"quant_method": "hqq"}, "Q5_0"),
    "hqq, 2 bits": Layout(hqq(2, whole=False), {"quant_method": "hqq"}, "Q4_1", rounds_minima=True),
}


def key_of(name: str) -> tuple[str, int | None]:
    role = ROLES[name.removeprefix("model.layers.0.").removeprefix("model.").removesuffix(".weight")]
    return role, None if role == "embedding" else 0


@pytest.fixture(scope="module", params=LAYOUTS.values(), ids=list(LAYOUTS))
def converted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory,
              ) -> tuple[Layout, dict[str, Written], Bundle, Bundle]:
    folder = tmp_path_factory.mktemp("layout")
    (folder / "net").mkdir()
    net, written = save_quantized(folder / "net", request.param)
    first, second = edgeq.convert(net, target=["onnxruntime", "gguf"], method="nearest", verify=False,
                                  output=folder)
    return request.param, written, first, second


def apart(bundle: Bundle, name: str, expected: Array, of_largest: bool = False) -> float:
    """How far a weight in the bundle is from another, in steps of half precision; of_largest: of the largest weight."""
    decoder, spec = backend_named(bundle.manifest.target).decoder, open_checkpoint(bundle.path.parent / "net").spec
    assert decoder is not None
    found = decoder.read(bundle.path / bundle.manifest.entry, spec)(*key_of(name))
    size = np.abs(expected).max() if of_largest else np.maximum(np.abs(expected), 2.0 ** -14)
    step = np.spacing(size.astype(np.float16)).astype(np.float64)
    return float((np.abs(found - expected) / step).max())


def test_onnxruntime_keeps_all_codes(converted: tuple[Layout, dict[str, Written], Bundle, Bundle]) -> None:
    _, written, bundle, _ = converted
    kept = bundle.manifest.quantization["kept"]
    assert (kept["weights"], kept["anew"]) == (len(written), {})
    graph = ir.load(bundle.path / "model.onnx").graph
    stored = {name: value.const_value.numpy() for name, value in graph.initializers.items()
              if value.const_value is not None}
    unequal = {name: int((levels_of(stored, name, weight.levels.shape) != weight.levels).sum())
               for name, weight in written.items()}
    assert set(unequal.values()) == {0}
    assert max(apart(bundle, name, weight.real) for name, weight in written.items()) <= 2.0 ** -12


def levels_of(stored: dict[str, Array], name: str, shape: tuple[int, ...]) -> Array:
    """Codes less zero points [R,n] of a layer, inputs in order; of a table, and of bitsandbytes, the codes."""
    role, layer = key_of(name)
    stem = role if layer is None else f"layers.0.{role}"
    codes = stored[f"{stem}.codes"]
    if layer is None or codes.ndim == 1:
        if codes.size < np.prod(shape):
            halves = [codes & 15, codes >> 4]
            codes = np.stack(halves if layer is None else halves[::-1], axis=-1)
        return codes.reshape(shape)
    levels = codes.astype(np.int16)
    if f"{stem}.zeros" in stored:
        zeros = stored[f"{stem}.zeros"].astype(np.int16)
        levels = levels - np.repeat(zeros, len(codes) // len(zeros), axis=0)
    return levels.T if f"{stem}.order" not in stored else levels.T[:, np.argsort(stored[f"{stem}.order"])]


def test_gguf_keeps_what_a_type_holds(converted: tuple[Layout, dict[str, Written], Bundle, Bundle]) -> None:
    layout, written, _, bundle = converted
    types = {tensor.tensor_type.name for tensor in gguf.GGUFReader(bundle.path / "model.gguf").tensors
             if "attn_" in tensor.name and "norm" not in tensor.name}
    kept = bundle.manifest.quantization["kept"]
    if layout.gguf is None:
        assert (kept["weights"], list(kept["anew"])) == (0, [next(why for why in kept["anew"] if layout.why in why)])
        return
    assert (kept["weights"], kept["anew"], types) == (len(written), {}, {layout.gguf})
    assert max(apart(bundle, name, weight.real, layout.rounds_minima) for name, weight in written.items()) <= 1


def damaged(net: Path, change: Callable[[dict[str, Array], dict[str, Any]], object]) -> None:
    """The checkpoint with other tensors or another config.json."""
    config, tensors = json.loads((net / "config.json").read_text()), load_file(net / "model.safetensors")
    change(tensors, config["quantization_config"])
    (net / "config.json").write_text(json.dumps(config))
    save_file(tensors, net / "model.safetensors")


Q = "model.layers.0.self_attn.q_proj"
DAMAGED: dict[str, tuple[str, Callable[[dict[str, Array], dict[str, Any]], object], str]] = {
    "groups that do not divide": ("gptq", lambda tensors, said: said.update(group_size=48),
                                  "groups of 48 do not divide its 128 inputs"),
    "another size of groups": ("awq", lambda tensors, said: said.update(group_size=64),
                               "4 groups where 128 inputs in groups of 64 have 2"),
    "no g_idx": ("gptq, act-order", lambda tensors, said: tensors.pop(f"{Q}.g_idx"), "lacks its tensor 'g_idx'"),
    "uneven g_idx": ("gptq, act-order", lambda tensors, said: tensors[f"{Q}.g_idx"].fill(0), "are of unequal sizes"),
    "groups beyond the scales": ("gptq, act-order", lambda tensors, said: tensors[f"{Q}.g_idx"].fill(-1),
                                 "do not belong together"),
    "bits of nobody": ("gptq", lambda tensors, said: said.update(bits=5), "codes of 5 bits"),
    "other bits": ("gptq", lambda tensors, said: said.update(bits=8), "4 groups where 64 inputs"),
    "an infinite scale": ("gptq", lambda tensors, said: tensors[f"{Q}.scales"].fill(np.inf), "holds NaN or infinite"),
    "scales of another layer": ("w8a16", lambda tensors, said: tensors.update({
        f"{Q}.weight_scale": tensors["model.layers.0.self_attn.k_proj.weight_scale"]}), "do not fit weights"),
    "a layout of AWQ": ("awq", lambda tensors, said: said.update(version="gemv"), "layout 'gemv' is not read"),
    "a tool of nobody": ("awq", lambda tensors, said: said.update(quant_method="aqlm"),
                         "quantized by 'aqlm', which edgeq does not read; there are gptq, awq"),
    "no state": ("nf4", lambda tensors, said: tensors.pop(f"{Q}.weight.quant_state.bitsandbytes__nf4"),
                 "lacks its quant_state"),
    "nested without its table": ("nf4, nested", lambda tensors, said: tensors.pop(f"{Q}.weight.nested_quant_map"),
                                 "lacks its tensor 'weight.nested_quant_map'"),
    "an unknown class": ("torchao int8", lambda tensors, said: None, "do not belong together"),  # no header any more
    "three bits of HQQ": ("hqq", lambda tensors, said: tensors[f"{Q}.nbits"].fill(3), "codes of 3 bits are not read"),
    "turned weights": ("w4a16", lambda tensors, said: said.update(transform_config={"a": 1}), "weights are turned"),
    "scales of blocks": ("w8a8", lambda tensors, said: tensors.update({
        f"{Q}.weight_scale": np.ones((4, 32), np.float32)}), "neither of rows"),
    "no weights": ("w4a16", lambda tensors, said: tensors.pop(f"{Q}.weight_packed"), "lacks its tensor 'weight'"),
}


@pytest.mark.parametrize("case", DAMAGED.values(), ids=list(DAMAGED))
def test_one_message_and_nothing_written(case: tuple[str, Any, str], tmp_path: Path) -> None:
    name, change, said = case
    (tmp_path / "net").mkdir()
    net, _ = save_quantized(tmp_path / "net", LAYOUTS[name])
    damaged(net, change)
    with pytest.raises(ModelError) as raised:
        edgeq.convert(net, target="gguf", method="nearest", output=tmp_path / "x.edgeq")
    assert said in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["net"]


def test_words_that_ask_for_other_codes(tmp_path: Path) -> None:
    """Fewer bits than the codes have, another type, floats, and --requantize."""
    (tmp_path / "net").mkdir()
    net, written = save_quantized(tmp_path / "net", LAYOUTS["gptq, 8 bits, by row"])
    asked = {"Q4_0": ({"gguf_type": "Q4_0"}, "it has 8 bits, and 4 are asked for"), "Q5_0": (
        {"gguf_type": "Q5_0"}, "it has 8 bits, and 5 are asked for"), "floats": (
        {"bits": 16}, "--bits 16 asks for floats"), "ours": ({"requantize": True}, None)}
    for words, why in asked.values():
        bundle = edgeq.convert(net, target="gguf", method="nearest", verify=False, output=tmp_path / "x.edgeq",
                               force=True, **words)
        kept = bundle.manifest.quantization.get("kept")
        assert (None if kept is None else (kept["weights"], *kept["anew"])) == (None if why is None else (0, why))
    bundle = edgeq.convert(net, target="gguf", method="nearest", verify=False, gguf_type="Q8_0", output=tmp_path / "x",
                           force=True)
    assert bundle.manifest.quantization["kept"]["weights"] == len(written)


def test_the_rest_is_fitted_and_the_terminal_says_what_was_kept(tmp_path: Path) -> None:
    """With act-order, which GGUF does not hold; the report has the KL divergence."""
    (tmp_path / "net").mkdir()
    net, _ = save_quantized(tmp_path / "net", LAYOUTS["gptq, act-order"])
    result = CliRunner().invoke(main, ["convert", str(net), "--target", "gguf", "--target", "onnxruntime", "--samples",
                                       "4", "--bits", "4", "--output", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert "gguf: 0 weights keep the codes of gptq" in result.stdout
    assert re.search(r"gguf: 7 weights are quantized anew: its columns are in another order than the inputs .*"
                     r"; with all of them KL 0\.\d+ nats a token", result.stdout)
    assert "onnxruntime: 7 weights keep the codes of gptq" in result.stdout
    first, second = (open_bundle(tmp_path / f"net.{target}.edgeq").manifest.accuracy["on_text"]["kl"]["mean"]
                     for target in ("gguf", "onnxruntime"))
    assert 0 < second < 0.1 * first < 0.1


@pytest.mark.parametrize(("layout", "name", "words"), [
    ("gptq", "quantize_config.json", {"bits": 4, "group_size": 32, "desc_act": False, "sym": True}),
    ("awq", "quant_config.json", {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"})])
def test_older_tools_have_a_file_of_their_own(layout: str, name: str, words: dict[str, Any], tmp_path: Path) -> None:
    net, written = save_quantized(tmp_path, LAYOUTS[layout])
    config = json.loads((net / "config.json").read_text())
    del config["quantization_config"]
    (net / "config.json").write_text(json.dumps(config))
    (net / name).write_text(json.dumps(words))
    np.testing.assert_allclose(open_checkpoint(net).weights.matrix("q", 0), written[f"{Q}.weight"].real, rtol=1e-6)


@pytest.mark.parametrize("type", ["Q4_K_M", "IQ4_NL"])
def test_gguf_comes_in_and_goes_out(type: str, tmp_path: Path) -> None:
    """All weights as the gguf package reads the file that came in, to the bit."""
    (tmp_path / "net").mkdir()
    net = save_checkpoint(tmp_path / "net", num_hidden_layers=1)
    first = edgeq.convert(net, target="gguf", gguf_type=type, method="nearest", verify=False,
                          gguf_file=tmp_path / "net.gguf", output=tmp_path / "first")
    source = open_checkpoint(tmp_path / "net.gguf")
    for bundle in edgeq.convert(tmp_path / "net.gguf", target=["onnxruntime", "gguf"], method="nearest", verify=False,
                                output=tmp_path):
        kept = bundle.manifest.quantization["kept"]
        assert (kept["by"], kept["weights"], kept["anew"]) == ("GGUF", 8, {})
        decoder = backend_named(bundle.manifest.target).decoder
        assert decoder is not None
        read = decoder.read(bundle.path / bundle.manifest.entry, source.spec)
        for role, layer in (("embedding", None), ("q", 0), ("v", 0), ("down", 0)):
            np.testing.assert_array_equal(read(role, layer), source.weights.matrix(role, layer))
    ours, theirs = (gguf.GGUFReader(path / "model.gguf").tensors for path in (bundle.path, first.path))
    assert all(np.array_equal(a.data, b.data) for a, b in zip(ours, theirs, strict=True))
