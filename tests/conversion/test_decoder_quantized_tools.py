"""Files that other tools write, kept to the codes, beside the weights that the tools themselves make of them."""
from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from conversion.test_decoder_quantized import apart
from quantized_layouts import Layout, Written, compressed_config, gptq_config, save_quantized

import edgeq
from edgeq.frontends.decoder.checkpoint import open_checkpoint

pytestmark = [pytest.mark.full, pytest.mark.filterwarnings("ignore")]
Write = Callable[[np.random.Generator, int, int], Written]


def drawn(chance: np.random.Generator, rows: int, columns: int) -> torch.Tensor:
    return torch.from_numpy(chance.normal(size=(rows, columns), scale=columns ** -0.5).astype(np.float32))


def written(parts: dict[str, torch.Tensor], real: torch.Tensor) -> Written:
    found = {name: part.contiguous().view(torch.uint16).numpy().view("bfloat16") if part.dtype == torch.bfloat16
             else part.detach().numpy() for name, part in parts.items()}
    return Written(found, np.zeros(0), real.detach().to(torch.float64).numpy())


def module_of(package: str, path: str) -> Any:
    """One file of a package, without the rest of it."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"the package {package} is not installed")
    spec = importlib.util.spec_from_file_location(path.rpartition("/")[2], Path(found.origin).parent / f"{path}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def grid(weight: torch.Tensor, bits: int, group: int, *, symmetric: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales in half precision and zero points [R,G], of the largest and the least number."""
    parts, top = weight.reshape(len(weight), -1, group), (1 << bits) - 1
    if symmetric:
        scales = parts.abs().amax(-1) * 2 / top
        return scales.half().float(), torch.full_like(scales, 1 << (bits - 1))
    low, high = parts.amin(-1), parts.amax(-1)
    scales = ((high - low) / top).half().float()
    return scales, torch.round(-low / scales).clamp(1, top)


def auto_gptq(bits: int, *, symmetric: bool, order: bool = False) -> Write:
    def write(chance: np.random.Generator, rows: int, columns: int) -> Written:
        layer = module_of("auto_gptq", "nn_modules/qlinear/qlinear_cuda").QuantLinear
        linear = torch.nn.Linear(columns, rows, bias=False)
        linear.weight.data = drawn(chance, rows, columns)
        groups_of = torch.arange(columns) // 64
        groups_of = groups_of[torch.from_numpy(chance.permutation(columns))] if order else groups_of
        inside = linear.weight.data[:, torch.argsort(groups_of, stable=True)]
        scales, zeros = grid(inside, bits, 64, symmetric=symmetric)
        made = layer(bits, 64, columns, rows, False, kernel_switch_threshold=1)
        made.pack(linear, scales, zeros, groups_of.to(torch.int32))
        parts = {f".{name}": part for name, part in made.state_dict().items()}
        return written(parts, made.float()(torch.eye(columns)).T)

    return write


def auto_round_awq(chance: np.random.Generator, rows: int, columns: int) -> Written:
    rest = ModuleType("auto_round.utils")  # which imports all of the package
    rest.get_packing_device = lambda device: "cpu"  # type: ignore[attr-defined]
    with patch.dict(sys.modules, {"auto_round.utils": rest, "auto_round.utils.bit_packing": module_of(
            "auto_round", "utils/bit_packing")}):
        awq = module_of("auto_round", "export/export_to_awq/utils")
    linear = torch.nn.Linear(columns, rows, bias=False)
    linear.weight.data = drawn(chance, rows, columns)
    scales, zeros = grid(linear.weight.data, 4, 64, symmetric=False)
    made = awq.WQLinear_GEMM.from_linear(linear, 4, 64, False, scales.T.contiguous(), zeros.T.contiguous(), "cpu")
    real = awq.dequantize_gemm(made.qweight, made.qzeros, made.scales.float(), 4, 64).T
    return written({f".{name}": part for name, part in made.state_dict().items()}, real)


def compressed_tensors(bits: int, group: int, format: str, *, symmetric: bool = True) -> Write:
    def write(chance: np.random.Generator, rows: int, columns: int) -> Written:
        pytest.importorskip("compressed_tensors")
        from compressed_tensors.compressors.base import BaseCompressor
        from compressed_tensors.quantization import QuantizationScheme

        words = compressed_config(bits, group, format, symmetric=symmetric)["config_groups"]["group_0"]
        scheme = QuantizationScheme(**words)
        weight = drawn(chance, rows, columns)
        scales, zeros = grid(weight, bits, columns if group < 0 else group, symmetric=symmetric)
        state = {"weight": weight, "weight_scale": scales}
        if not symmetric:
            state["weight_zero_point"] = (zeros - (1 << (bits - 1))).to(torch.int8)
        compressor = BaseCompressor.get_value_from_registry(format)
        parts = compressor.compress(state, scheme)
        real = compressor.decompress(dict(parts), scheme)["weight"]
        return written({f".{name}": part for name, part in parts.items()}, real)

    return write


def bitsandbytes(kind: str, *, nested: bool) -> Write:
    def write(chance: np.random.Generator, rows: int, columns: int) -> Written:
        functional = pytest.importorskip("bitsandbytes.functional")
        data, state = functional.quantize_4bit(drawn(chance, rows, columns), blocksize=64, quant_type=kind,
                                               compress_statistics=nested)
        parts = {".weight": data, **{f".weight.{name}": part for name, part in state.as_dict(packed=True).items()}}
        return written(parts, functional.dequantize_4bit(data, state))

    return write


def bitsandbytes_8bit(chance: np.random.Generator, rows: int, columns: int) -> Written:
    functional = pytest.importorskip("bitsandbytes.functional")
    data, scales, _ = functional.int8_vectorwise_quant(drawn(chance, rows, columns).half())
    return written({".weight": data, ".SCB": scales}, functional.int8_vectorwise_dequant(data, scales))


def torchao(name: str, *words: Any, **more: Any) -> Callable[[], tuple[Write, str]]:
    """header: what torchao says of a weight."""
    def made() -> tuple[Write, str]:
        quantization = pytest.importorskip("torchao.quantization")
        from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
        from torchao.quantization.granularity import PerGroup

        config = getattr(quantization, name)(*words, **{
            key: PerGroup(64) if key == "granularity" else value for key, value in more.items()})

        def flat(chance: np.random.Generator, rows: int, columns: int) -> tuple[Any, Any, torch.Tensor]:
            linear = torch.nn.Sequential(torch.nn.Linear(columns, rows, bias=False))
            linear[0].weight.data = drawn(chance, rows, columns)
            quantization.quantize_(linear, config)
            parts, said = flatten_tensor_state_dict(linear.state_dict())
            return parts, said, linear[0].weight.dequantize()

        def write(chance: np.random.Generator, rows: int, columns: int) -> Written:
            parts, _, real = flat(chance, rows, columns)
            return written({key.removeprefix("0"): part for key, part in parts.items()}, real)

        return write, flat(np.random.default_rng(0), 64, 64)[1]["0.weight"]

    return made


def mlx(bits: int, group: int) -> Write:
    def write(chance: np.random.Generator, rows: int, columns: int) -> Written:
        mx = pytest.importorskip("mlx.core")
        weight = mx.array(drawn(chance, rows, columns).numpy()).astype(mx.float16)
        data, scales, minima = mx.quantize(weight, group_size=group, bits=bits)
        real = mx.dequantize(data, scales.astype(mx.float32), minima.astype(mx.float32), group_size=group, bits=bits)
        parts = {".weight": data, ".scales": scales, ".biases": minima}
        return Written({name: np.array(part) for name, part in parts.items()}, np.zeros(0), np.array(real, np.float64))

    return write


def hqq(bits: int) -> Write:
    def write(chance: np.random.Generator, rows: int, columns: int) -> Written:
        core = pytest.importorskip("hqq.core.quantize")
        linear = torch.nn.Linear(columns, rows, bias=False)
        linear.weight.data = drawn(chance, rows, columns)
        made = core.HQQLinear(linear, core.BaseQuantizeConfig(nbits=bits, group_size=64, axis=1), device="cpu",
                              compute_dtype=torch.float16)
        parts = {f".{name}": torch.as_tensor(part) for name, part in made.state_dict().items()}
        exact = {name: made.meta[name].float() for name in ("scale", "zero")} | {"compute_dtype": torch.float32}
        return written(parts, core.Quantizer.dequantize(made.W_q, made.meta | exact))

    return write


BITSANDBYTES = {"quant_method": "bitsandbytes"}
TOOLS: dict[str, Layout | tuple[Callable[[], tuple[Write, str]], dict[str, Any]]] = {
    "auto-gptq 4": Layout(auto_gptq(4, symmetric=True), gptq_config(group=64), "Q4_0"),
    "auto-gptq 3, zero points": Layout(auto_gptq(3, symmetric=False), gptq_config(3, 64), "Q4_0"),
    "auto-gptq 2": Layout(auto_gptq(2, symmetric=False), gptq_config(2, 64), "Q4_0"),
    "auto-gptq 8, act-order": Layout(auto_gptq(8, symmetric=True, order=True), gptq_config(8, 64, desc_act=True)),
    "auto-round to AWQ": Layout(auto_round_awq, {"quant_method": "awq", "bits": 4, "group_size": 64}, "Q5_0"),
    "compressed-tensors W4A16": Layout(compressed_tensors(4, 64, "pack-quantized"), compressed_config(4, 64), "Q4_0"),
    "compressed-tensors W4A16, zero points": Layout(
        compressed_tensors(4, 32, "pack-quantized", symmetric=False), compressed_config(4, 32, symmetric=False),
        "Q5_0"),
    "compressed-tensors W8A16": Layout(compressed_tensors(8, -1, "pack-quantized"), compressed_config(8, -1), "Q8_0"),
    "compressed-tensors W8A8": Layout(compressed_tensors(8, -1, "int-quantized"), compressed_config(
        8, -1, "int-quantized"), "Q8_0"),
    "bitsandbytes NF4": Layout(bitsandbytes("nf4", nested=False), BITSANDBYTES),
    "bitsandbytes NF4, nested": Layout(bitsandbytes("nf4", nested=True), BITSANDBYTES),
    "bitsandbytes FP4": Layout(bitsandbytes("fp4", nested=False), BITSANDBYTES),
    "bitsandbytes int8": Layout(bitsandbytes_8bit, BITSANDBYTES, "Q8_0"),
    "torchao int8": (torchao("Int8WeightOnlyConfig", version=2), {"gguf": "Q8_0"}),
    "torchao int4": (torchao("IntxWeightOnlyConfig", torch.int4, granularity=None), {"gguf": "Q4_0"}),
    "mlx 4": Layout(mlx(4, 64), {"bits": 4, "group_size": 64}, "Q4_1", key="quantization", tables=True),
    "mlx 8": Layout(mlx(8, 32), {"bits": 8, "group_size": 32}, key="quantization", tables=True),
    "mlx 6": Layout(mlx(6, 64), {"bits": 6, "group_size": 64}, key="quantization"),
    "hqq 4": Layout(hqq(4), {"quant_method": "hqq"}, "Q4_1", rounds_minima=True),
    "hqq 2": Layout(hqq(2), {"quant_method": "hqq"}, "Q4_1", rounds_minima=True),
}


@pytest.mark.parametrize("tool", TOOLS.values(), ids=list(TOOLS))
def test_weights_are_those_of_the_tool(tool: Any, tmp_path: Path) -> None:
    """To the float32 roundings of its formula on ONNX Runtime, to a step of half precision in GGUF."""
    if not isinstance(tool, Layout):
        (write, header), words = tool[0](), tool[1]
        tool = Layout(write, {"quant_method": "torchao"}, header=header, **words)
    (tmp_path / "net").mkdir()
    net, expected = save_quantized(tmp_path / "net", tool)
    onnx, gguf = edgeq.convert(net, target=["onnxruntime", "gguf"], method="nearest", verify=False, output=tmp_path)
    assert onnx.manifest.quantization["kept"]["weights"] == len(expected)
    assert gguf.manifest.quantization["kept"]["weights"] == (0 if tool.gguf is None else len(expected))
    steps = max(apart(onnx, name, weight.real) for name, weight in expected.items())
    assert steps <= (1 if tool.rounds_minima else 2.0 ** -10)
    if tool.gguf is not None:
        assert set(gguf.manifest.quantization["types"]) <= {tool.gguf, "Q8_0"}
        assert max(apart(gguf, name, weight.real, tool.rounds_minima) for name, weight in expected.items()) <= 1


def tiny_llama(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2,
        vocab_size=101))
    model.save_pretrained(folder)
    return model


def configurations() -> dict[str, Any]:
    """transformers' word for a tool -> (its configuration, a layer -> the weight that the tool makes of it)."""
    transformers, functional = (pytest.importorskip(name) for name in ("transformers", "bitsandbytes.functional"))
    quantization = pytest.importorskip("torchao.quantization")
    return {
        "nf4": (transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                                bnb_4bit_use_double_quant=True),
                lambda layer: functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)),
        "int8": (transformers.BitsAndBytesConfig(load_in_8bit=True),
                 lambda layer: functional.int8_vectorwise_dequant(layer.weight.CB, layer.weight.SCB)),
        "torchao": (transformers.TorchAoConfig(quantization.Int8WeightOnlyConfig(version=2)),
                    lambda layer: layer.weight.dequantize())}


@pytest.mark.parametrize("name", ["nf4", "int8", "torchao"])
def test_folders_that_transformers_saves(name: str, tmp_path: Path) -> None:
    tiny_llama(tmp_path / "float")
    words, weight_of = configurations()[name]
    model = pytest.importorskip("transformers").AutoModelForCausalLM.from_pretrained(
        tmp_path / "float", quantization_config=words, device_map="cpu", dtype=torch.float32)
    model.save_pretrained(tmp_path / "net")
    weights = open_checkpoint(tmp_path / "net").weights
    for role, layer in (("k", model.model.layers[1].self_attn.k_proj), ("down", model.model.layers[1].mlp.down_proj)):
        assert weights.codes(role, 1) is not None
        np.testing.assert_allclose(weights.matrix(role, 1), weight_of(layer).numpy(), rtol=1e-6, atol=0)
    assert weights.codes("head") is None


@pytest.mark.parametrize("words", [{}, {"use_dora": True}, {"use_rslora": True, "rank_pattern": {"q_proj": 2}}],
                         ids=["lora", "dora", "rslora"])
def test_adapters_are_merged_as_peft_merges_them(words: dict[str, Any], tmp_path: Path) -> None:
    peft, model = pytest.importorskip("peft"), tiny_llama(tmp_path / "net")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", **words))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    adapted.save_pretrained(tmp_path / "adapter")
    true = adapted.merge_and_unload().state_dict()
    weights = open_checkpoint(tmp_path / "net", tmp_path / "adapter").weights
    base = open_checkpoint(tmp_path / "net").weights
    for role, name in (("q", "self_attn.q_proj"), ("o", "self_attn.o_proj"), ("down", "mlp.down_proj")):
        found, expected = weights.matrix(role, 1), true[f"model.layers.1.{name}.weight"].numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
        assert np.abs(found - base.matrix(role, 1)).max() > 1e-3
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["r"] == 4
