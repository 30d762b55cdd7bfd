"""Weights as other tools store them, written by their published layouts: bit by bit, and by no code of edgeq."""
from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from decoder_checkpoints import CONFIG, save_checkpoint, save_shard, tensors_of
from numpy.typing import NDArray

from edgeq.frontends.decoder.architectures import spec_of

Array = NDArray[Any]
NF4 = (-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
       -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
       0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0)
FP4 = tuple(sign * level / 12 for sign in (1, -1) for level in (0, 0.0625, 8, 12, 4, 6, 2, 3))
SIZES = {"hidden_size": 128, "intermediate_size": 192, "num_attention_heads": 2, "num_key_value_heads": 1,
         "num_hidden_layers": 1}


@dataclass(frozen=True)
class Written:
    """One weight. parts: end of the name -> tensor. levels: whole numbers that its codes stand for, or the codes where
    these are places in a table or have a minimum [R,n]. real: what they stand for.
    """

    parts: Mapping[str, Array]
    levels: Array
    real: Array


@dataclass(frozen=True)
class Layout:
    """write: (random numbers, rows, columns) -> one weight. config: what config.json says of it; key: under which name.
    header: what the file's header says of each weight. gguf: the type that holds the codes, None: quantized anew, for
    the reason `why`. tables: the embedding is quantized, too. rounds_minima: to half precision.
    """

    write: Callable[[np.random.Generator, int, int], Written]
    config: Mapping[str, Any]
    gguf: str | None = None
    why: str = ""
    key: str = "quantization_config"
    header: str = ""
    tables: bool = False
    rounds_minima: bool = False


def words_of(codes: Array, bits: int) -> Array:
    """[N,k] -> 32-bit words [N, k * bits / 32], the first code in the lowest bits."""
    rows = [sum(int(code) << (bits * k) for k, code in enumerate(row)).to_bytes(-(-len(row) * bits // 32) * 4, "little")
            for row in codes]
    return np.frombuffer(b"".join(rows), np.int32).reshape(len(codes), -1)


def drawn(chance: np.random.Generator, rows: int, columns: int, bits: int, group: int) -> tuple[Array, Array]:
    """Codes [R,n] that take all values, and scales [R,G] in half precision."""
    codes = chance.integers(0, 1 << bits, (rows, columns))
    scales = chance.uniform(0.5, 1.5, (rows, columns // group)) * columns ** -0.5 / (1 << (bits - 1))
    return codes, scales.astype(np.float16)


def spread(numbers: Array, columns: int) -> Array:
    return np.repeat(numbers, columns // numbers.shape[1], axis=1)


def gptq(bits: int = 4, group: int = 32, *, version: int = 1, order: bool = False, symmetric: bool = True,
         ) -> Callable[[np.random.Generator, int, int], Written]:
    """https://github.com/AutoGPTQ/AutoGPTQ/blob/main/auto_gptq/nn_modules/qlinear/qlinear_cuda.py (pack)"""
    def write(chance: np.random.Generator, rows: int, columns: int) -> Written:
        size = columns if group < 0 else group
        codes, scales = drawn(chance, rows, columns, bits, size)
        zeros = np.full(scales.shape, 1 << (bits - 1)) if symmetric else chance.integers(1, 1 << bits, scales.shape)
        groups_of = np.arange(columns) // size
        groups_of = chance.permutation(groups_of) if order else groups_of
        levels = codes - zeros[:, groups_of]
        return Written({
            ".qweight": words_of(codes, bits).T, ".qzeros": words_of((zeros - (version == 1)).T, bits),
            ".scales": scales.T, ".g_idx": groups_of.astype(np.int32)},
            levels, levels * scales.astype(np.float32)[:, groups_of])

    return write


def gptq_config(bits: int = 4, group: int = 32, **words: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": False, "sym": True, **words}


def awq(group: int = 32) -> Callable[[np.random.Generator, int, int], Written]:
    """https://github.com/casper-hansen/AutoAWQ/blob/main/awq/modules/linear/gemm.py (from_linear)"""
    order = (0, 2, 4, 6, 1, 3, 5, 7)

    def packed(numbers: Array) -> Array:
        """[k,R] -> [k, R / 8]: the word of eight outputs holds them in that order."""
        shuffled = numbers.reshape(len(numbers), -1, 8)[:, :, order]
        return words_of(shuffled.reshape(len(numbers), -1), 4)

    def write(chance: np.random.Generator, rows: int, columns: int) -> Written:
        codes, scales = drawn(chance, rows, columns, 4, group)
        zeros = chance.integers(0, 16, scales.shape)
        levels = codes - spread(zeros, columns)
        return Written({".qweight": packed(codes.T), ".qzeros": packed(zeros.T), ".scales": scales.T},
                       levels, levels * spread(scales.astype(np.float32), columns))

    return write


def compressed(bits: int, group: int, *, symmetric: bool = True, packed: bool = True, bf16: bool = True,
               order: bool = False) -> Callable[[np.random.Generator, int, int], Written]:
    """https://github.com/vllm-project/compressed-tensors/tree/main/src/compressed_tensors/compressors"""
    half = 1 << (bits - 1)

    def write(chance: np.random.Generator, rows: int, columns: int) -> Written:
        codes, scales = drawn(chance, rows, columns, bits, columns if group < 0 else group)
        scales = scales.astype(ml_dtypes.bfloat16 if bf16 else np.float32)
        zeros = np.full(scales.shape, half) if symmetric else chance.integers(half // 2, half + half // 2, scales.shape)
        groups_of = np.arange(columns) // (columns // scales.shape[1])
        groups_of = chance.permutation(groups_of) if order else groups_of
        levels = codes - zeros[:, groups_of]
        parts = {".weight_scale": scales, **({".weight_g_idx": groups_of.astype(np.int32)} if order else {})}
        if packed:
            parts |= {".weight_packed": words_of(codes, bits), ".weight_shape": np.asarray([rows, columns])}
            if not symmetric:
                parts[".weight_zero_point"] = words_of(zeros.T, bits).T
        else:
            parts[".weight"] = (codes - half).astype(np.int8)
            if not symmetric:
                parts[".weight_zero_point"] = (zeros - half).astype(np.int8)
        return Written(parts, levels, levels * scales.astype(np.float32)[:, groups_of])

    return write


def compressed_config(bits: int, group: int, format: str = "pack-quantized", *, symmetric: bool = True,
                      ) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "channel" if group < 0 else "group",
               "group_size": None if group < 0 else group, "dynamic": False}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}}
    return {"quant_method": "compressed-tensors", "format": format, "quantization_status": "compressed",
            "config_groups": groups, "ignore": ["lm_head"]}


def bitsandbytes_4bit(kind: str, *, nested: bool = False) -> Callable[[np.random.Generator, int, int], Written]:
    """https://github.com/bitsandbytes-foundation/bitsandbytes (bitsandbytes/functional.py, QuantState.as_dict)"""
    table = np.asarray(NF4 if kind == "nf4" else FP4, np.float32)

    def write(chance: np.random.Generator, rows: int, columns: int) -> Written:
        codes = chance.integers(0, 16, rows * columns)
        absmax = chance.uniform(0.5, 1.5, len(codes) // 64).astype(np.float32) * np.float32(columns ** -0.5)
        said = {"quant_type": kind, "blocksize": 64, "dtype": "float16", "shape": [rows, columns]}
        parts: dict[str, Array] = {}
        if nested:
            offset, levels = float(absmax.mean()), np.sort(chance.uniform(-1, 1, 256)).astype(np.float32)
            places = chance.integers(100, 156, len(absmax)).astype(np.uint8)
            second = np.full(-(-len(absmax) // 256), 0.1 * offset, np.float32)
            said |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
            parts = {".weight.nested_absmax": second, ".weight.nested_quant_map": levels, ".weight.absmax": places}
            absmax = levels[places] * np.repeat(second, 256)[:len(places)] + np.float32(offset)
        state = np.frombuffer(json.dumps(said).encode(), np.uint8)
        return Written({
            ".weight": (codes[::2] << 4 | codes[1::2]).astype(np.uint8)[:, None], ".weight.absmax": absmax,
            ".weight.quant_map": table, f".weight.quant_state.bitsandbytes__{kind}": state, **parts},
            codes.reshape(rows, columns), (table[codes] * np.repeat(absmax, 64)).reshape(rows, columns))

    return write


def bitsandbytes_8bit(chance: np.random.Generator, rows: int, columns: int) -> Written:
    """https://github.com/bitsandbytes-foundation/bitsandbytes/blob/main/bitsandbytes/nn/modules.py (Linear8bitLt)"""
    levels = chance.integers(-127, 128, (rows, columns))
    scales = chance.uniform(0.5, 1.5, rows).astype(np.float32)
    return Written({".weight": levels.astype(np.int8), ".SCB": scales, ".weight_format": np.asarray(0, np.uint8)},
                   levels, levels.astype(np.float32) * (scales / np.float32(127))[:, None])


def mlx(bits: int, group: int = 64) -> Callable[[np.random.Generator, int, int], Written]:
    """https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html"""
    def write(chance: np.random.Generator, rows: int, columns: int) -> Written:
        codes, scales = drawn(chance, rows, columns, bits, group)
        minima = (-scales.astype(np.float32) * chance.uniform(0.3, 0.7, scales.shape) * (1 << bits)).astype(np.float16)
        real = codes * spread(scales.astype(np.float32), columns) + spread(minima.astype(np.float32), columns)
        parts = {".weight": words_of(codes, bits).view(np.uint32), ".scales": scales, ".biases": minima}
        return Written(parts, codes, real)

    return write


def hqq(bits: int, *, whole: bool) -> Callable[[np.random.Generator, int, int], Written]:
    """https://github.com/mobiusml/hqq/blob/master/hqq/core/quantize.py, bitpack.py: axis 1, groups of 64."""
    def write(chance: np.random.Generator, rows: int, columns: int) -> Written:
        codes, scales = drawn(chance, rows, columns, bits, 64)
        zeros = chance.uniform(0, (1 << bits) - 1, scales.shape)
        zeros = (np.rint(zeros) if whole else zeros).astype(np.float16)
        parts = np.split(codes.reshape(-1, 64), 8 // bits)
        packed = sum((part << (8 - bits * (k + 1)) for k, part in enumerate(parts)), np.zeros_like(parts[0]))
        levels = codes - spread(zeros.astype(np.float64), columns)
        return Written({
            ".W_q": packed.astype(np.uint8), ".scale": scales.reshape(-1, 1), ".zero": zeros.reshape(-1, 1),
            ".shape": np.asarray([rows, columns]), **{f".{name}": np.asarray(value) for name, value in (
                ("nbits", bits), ("axis", 1), ("group_size", 64))}},
            levels if whole else codes, levels * spread(scales.astype(np.float64), columns))

    return write


def torchao(group: int) -> Callable[[np.random.Generator, int, int], Written]:
    """Int8Tensor, IntxUnpackedToInt8Tensor: https://github.com/pytorch/ao (torchao/quantization/quantize_/workflows)"""
    def write(chance: np.random.Generator, rows: int, columns: int) -> Written:
        bits = 8 if group < 0 else 4
        codes, scales = drawn(chance, rows, columns, bits, columns if group < 0 else group)
        levels = codes - (1 << (bits - 1))
        return Written({"._weight_qdata": levels.astype(np.int8), "._weight_scale": scales,
                        "._weight_zero_point": np.zeros(scales.shape, np.int8)},
                       levels, levels * spread(scales.astype(np.float32), columns))

    return write


def save_quantized(folder: Path, layout: Layout, **config: Any) -> tuple[Path, dict[str, Written]]:
    """A tiny Llama; -> its folder and its quantized weights by name."""
    said = dict.fromkeys({layout.key, "quantization_config"}, layout.config)  # MLX says it twice
    folder = save_checkpoint(folder, **SIZES, **config, **said)
    (folder / "model.safetensors.index.json").unlink()
    for shard in folder.glob("model-*"):
        shard.unlink()
    tensors: dict[str, Array] = dict(tensors_of(spec_of(CONFIG | SIZES | config)))
    tensors["model.embed_tokens.weight"] /= 8  # or every token would foretell itself
    chance, found = np.random.default_rng(0), {}
    for name in [name for name in tensors if "proj" in name or (layout.tables and "embed" in name)]:
        rows, columns = tensors.pop(name).shape
        found[name] = layout.write(chance, rows, columns)
        stem = name.removesuffix(".weight")
        tensors |= {stem + part: np.ascontiguousarray(array) for part, array in found[name].parts.items()}
    save_shard(folder / "model.safetensors", tensors, dict.fromkeys(found, layout.header) if layout.header else None)
    return folder, found
