"""Checkpoints that other tools quantized: the tensors of a layer as each tool stores them -> codes.

One row a layout. All give real = scale * (code - zero) + offset, rows by outputs.
"""
from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import ModelError
from edgeq.frontends.decoder.tensors import Tensors, metadata
from edgeq.quant.codes import Array, Codes

Stored: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a checkpoint. stem: its name. words: what config.json says of the quantization."""

    stem: str
    tensors: Tensors
    words: Mapping[str, Any]

    def has(self, part: str) -> bool:
        return self.stem + part in self.tensors.places

    def __call__(self, part: str) -> Stored:
        """A tensor as the file has it."""
        if not self.has(part):
            raise ModelError(f"'{self.stem}' is quantized, and lacks its tensor '{part.lstrip('.')}'")
        return self.tensors.stored(self.stem + part)

    def floats(self, part: str) -> Array:
        found = np.asarray(self(part), np.float32)
        if not np.isfinite(found).all():
            raise ModelError(f"tensor '{self.stem + part}' holds NaN or infinite numbers")
        return found

    def metadata(self, part: str, name: str) -> str:
        """What the header of the file that holds a tensor says of a name."""
        return metadata(self.tensors.places[self.stem + part].file)[self.stem + name]

    def checked(self, codes: NDArray[np.uint8], scale: Array, group: int | None = None) -> None:
        """Whether rows and groups of a layer are of one size. group: columns that share a scale, where the file says.

        Raises:
            ModelError: it names the sizes.
        """
        columns, groups = codes.shape[1], scale.shape[1]
        if group is not None and (columns % group or groups != columns // group):
            raise ModelError(f"'{self.stem}': groups of {group} do not divide its {columns} inputs"
                             if columns % group else f"'{self.stem}': {groups} groups where {columns} inputs in groups "
                             f"of {group} have {columns // group}")
        if len(codes) != len(scale) or columns % groups:
            raise ModelError(f"'{self.stem}': scales {scale.shape} do not fit weights {codes.shape}")


def fields_of(words: Stored, bits: int) -> NDArray[np.uint8]:
    """Words [R,w] of 32 bits -> the fields of `bits` in them [R, 32*w/bits], the lowest bits first, dense."""
    data = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return data
    if bits == 4:
        return np.stack([data & 15, data >> 4], axis=-1).reshape(len(data), -1)
    split = np.unpackbits(data, axis=1, bitorder="little")
    split = split[:, :split.shape[1] // bits * bits].reshape(len(data), -1, bits)
    return np.asarray(split @ (1 << np.arange(bits, dtype=np.uint8)), np.uint8)


def _bits(layer: Layer, key: str, known: tuple[int, ...]) -> int:
    bits = layer.words.get(key)
    if bits not in known:
        raise ModelError(f"'{layer.stem}': codes of {bits} bits ({key}); this layout has {', '.join(map(str, known))}")
    return int(bits)


def _in_order(stem: str, groups_of: Stored, group: int) -> NDArray[np.int64] | None:
    """Group of each input -> the inputs, group by group; None where they lie so."""
    if np.array_equal(groups_of, np.arange(len(groups_of)) // group):
        return None
    counts = np.bincount(groups_of, minlength=len(groups_of) // group)
    if (counts != group).any():
        raise ModelError(f"'{stem}': the groups of g_idx are of unequal sizes")
    return np.argsort(groups_of, kind="stable")


def _gptq(layer: Layer) -> Codes:
    """https://github.com/ModelCloud/GPTQModel: qweight packs inputs, qzeros packs outputs. In the first format zeros
    are one less than they mean.
    """
    bits = _bits(layer, "bits", (2, 3, 4, 8))
    codes = fields_of(layer(".qweight").T, bits)
    scale, zero = layer.floats(".scales").T, fields_of(layer(".qzeros"), bits).T.astype(np.int16)
    if str(layer.words.get("checkpoint_format", "gptq")) == "gptq":
        zero = (zero + 1) & ((1 << bits) - 1)
    columns = codes.shape[1]
    group = int(layer.words.get("group_size", 128))
    group = columns if group < 1 else group
    layer.checked(codes, scale, group)
    order = None
    if layer.has(".g_idx") or layer.words.get("desc_act", True):
        order = _in_order(layer.stem, layer(".g_idx"), group)
    return Codes(codes if order is None else codes[:, order], bits, scale, zero, order=order)


# Eight outputs lie in a word in this order: https://github.com/casper-hansen/AutoAWQ (awq/utils/packing_utils.py)
_AWQ_ORDER: Final = (0, 2, 4, 6, 1, 3, 5, 7)


def _awq(layer: Layer) -> Codes:
    """qweight [inputs, outputs / 8] and qzeros pack outputs."""
    version = str(layer.words.get("version", "gemm")).lower()
    if version != "gemm":
        raise ModelError(f"'{layer.stem}': AWQ's layout '{version}' is not read; save it with version=\"gemm\"")
    bits = _bits(layer, "bits" if "bits" in layer.words else "w_bit", (4,))

    def outputs(words: Stored) -> NDArray[np.uint8]:
        found = fields_of(words, bits)
        places = np.argsort(_AWQ_ORDER)
        return found.reshape(len(found), -1, 8)[:, :, places].reshape(found.shape).T

    codes, scale = outputs(layer(".qweight")), layer.floats(".scales").T
    group = int(layer.words.get("group_size", layer.words.get("q_group_size", 128)))
    layer.checked(codes, scale, codes.shape[1] if group < 1 else group)
    return Codes(codes, bits, scale, outputs(layer(".qzeros")).astype(np.int16))


def _packed(layer: Layer) -> Codes:
    """compressed-tensors' pack-quantized: codes around 0, stored with half of their range added.
    https://github.com/vllm-project/compressed-tensors (compressors/pack_quantized)
    """
    if layer.has(".weight_global_scale") or layer(".weight_packed").dtype != np.int32:
        raise ModelError(f"'{layer.stem}': its levels are floats of few bits, which edgeq does not read; quantize it "
                         "to integers (pack-quantized, int-quantized)")
    rows, columns = (int(size) for size in layer(".weight_shape"))
    words, scale = layer(".weight_packed"), layer.floats(".weight_scale")
    bits = 32 * words.shape[1] // columns
    codes = fields_of(words, bits)[:, :columns]
    layer.checked(codes, scale)
    zero = np.full(scale.shape, 1 << (bits - 1), np.int16)
    if layer.has(".weight_zero_point"):
        zero = fields_of(np.ascontiguousarray(layer(".weight_zero_point").T), bits)[:, :rows].T.astype(np.int16)
    groups_of = layer(".weight_g_idx") if layer.has(".weight_g_idx") else np.full(1, -1)
    order = None if (groups_of < 0).any() else _in_order(layer.stem, groups_of, columns // scale.shape[1])
    return Codes(codes if order is None else codes[:, order], bits, scale, zero, order=order)


def _signed(weight: str, scale: str, zero: str = "", divisor: float = 1.0) -> Callable[[Layer], Codes]:
    """Codes as they are, in bytes around 0. scale: of the whole tensor, of rows, or of groups."""
    def read(layer: Layer) -> Codes:
        stored, scales = layer(weight), layer.floats(scale) / np.float32(divisor)
        if stored.dtype != np.int8 or stored.ndim != 2:
            raise ModelError(f"'{layer.stem}': weights of type {stored.dtype}, where this layout has int8")
        if scales.size > 1 and len(scales) != len(stored):
            raise ModelError(f"'{layer.stem}': scales {scales.shape} are neither of rows nor of groups of weights "
                             f"{stored.shape}")
        scales = np.broadcast_to(scales.reshape(len(stored), -1) if scales.size > 1 else scales.reshape(1, 1),
                                 (len(stored), max(1, scales.size // len(stored))))
        zeros = np.zeros(scales.shape, np.int16)
        if zero and layer.has(zero):
            found = layer(zero).astype(np.int16)
            zeros = zeros + found.reshape(len(stored) if found.size > 1 else 1, -1)
        bits = 4 if all(part.min() >= -8 and part.max() <= 7 for part in (stored, zeros)) else 8
        codes = (stored + np.int16(1 << (bits - 1))).astype(np.uint8)
        layer.checked(codes, scales)
        return Codes(codes, bits, scales, zeros + np.int16(1 << (bits - 1)))

    return read


_SIGNED_TORCHAO: Final = _signed("._weight_qdata", "._weight_scale", "._weight_zero_point")


def _torchao(layer: Layer) -> Codes:
    """Tensor subclasses, as their class says in the file's header.
    https://github.com/pytorch/ao/tree/main/torchao/quantization/quantize_/workflows
    """
    kind = str(json.loads(layer.metadata("._weight_qdata", ".weight"))["_type"])
    if layer.has("._weight_act_pre_scale"):
        raise ModelError(f"'{layer.stem}': torchao scales its inputs (act_pre_scale), which edgeq does not read")
    if kind in ("Int8Tensor", "IntxUnpackedToInt8Tensor"):
        return _SIGNED_TORCHAO(layer)
    if kind != "Int4Tensor":
        raise ModelError(f"'{layer.stem}': torchao's {kind} is not read; there are Int8Tensor, "
                         "IntxUnpackedToInt8Tensor, Int4Tensor")
    data = layer("._weight_qdata").view(np.uint8)  # two codes around 0 in a byte, the lower half first
    codes = fields_of(data, 4) ^ np.uint8(8)
    scale, offset = layer.floats("._weight_scale").T, layer.floats("._weight_zero_point").T
    layer.checked(codes, scale)
    return Codes(codes, 4, scale, np.full(scale.shape, 8, np.int16), offset)


def _bitsandbytes_4bit(layer: Layer) -> Codes:
    """Codes of the flattened weight, the higher half of a byte first. Nested statistics are dequantized first.
    https://github.com/bitsandbytes-foundation/bitsandbytes/blob/main/bitsandbytes/functional.py (QuantState)
    """
    kind = next((name for name in ("nf4", "fp4") if layer.has(f".weight.quant_state.bitsandbytes__{name}")), None)
    if kind is None:
        raise ModelError(f"'{layer.stem}' lacks its quant_state; save it with bitsandbytes 0.41.3 or newer")
    said = json.loads(layer(f".weight.quant_state.bitsandbytes__{kind}").tobytes())
    (rows, columns), size = said["shape"], int(said["blocksize"])
    absmax = layer.floats(".weight.absmax")
    if layer.has(".weight.nested_absmax"):
        nested = np.repeat(layer.floats(".weight.nested_absmax"), int(said["nested_blocksize"]))[:absmax.size]
        absmax = layer.floats(".weight.nested_quant_map")[layer(".weight.absmax")] * nested
        absmax = absmax + np.float32(said["nested_offset"])
    data = layer(".weight").view(np.uint8).reshape(-1)
    codes = np.stack([data >> 4, data & 15], axis=-1).reshape(-1)[:rows * columns].reshape(rows, columns)
    group = math.gcd(columns, size)  # a block may go on in the next row
    scale = np.repeat(absmax, size // group)[:rows * columns // group].reshape(rows, -1)
    layer.checked(codes, scale)
    return Codes(codes, 4, scale, table=layer.floats(".weight.quant_map"))


def _mlx(layer: Layer) -> Codes:
    """https://ml-explore.github.io/mlx/build/html/python/_autosummary/mlx.core.quantize.html"""
    own = layer.words.get(layer.stem)
    words = {**layer.words, **(own if isinstance(own, dict) else {})}
    if str(words.get("mode", "affine")) != "affine":
        raise ModelError(f"'{layer.stem}': MLX's mode '{words['mode']}' is not read; quantize it as affine")
    bits, scale = _bits(Layer(layer.stem, layer.tensors, words), "bits", (2, 3, 4, 5, 6, 8)), layer.floats(".scales")
    codes = fields_of(layer(".weight"), bits)
    layer.checked(codes, scale, int(words.get("group_size", 64)))
    return Codes(codes, bits, scale, offset=layer.floats(".biases"))


def _hqq(layer: Layer) -> Codes:
    """Groups in rows (axis 1) or columns (axis 0) of a matrix of groups; packed, its first half lies above its second.
    https://github.com/mobiusml/hqq/blob/master/hqq/core/bitpack.py
    """
    bits, axis, group = (int(layer(part).item()) for part in (".nbits", ".axis", ".group_size"))
    if bits not in (2, 4, 8):
        raise ModelError(f"'{layer.stem}': HQQ's codes of {bits} bits are not read; there are 2, 4, 8")
    rows, columns = (int(size) for size in layer(".shape"))
    data = layer(".W_q").view(np.uint8)
    shifts = range(8 - bits, -1, -bits)
    codes = np.concatenate([(data >> np.uint8(shift)) & np.uint8((1 << bits) - 1) for shift in shifts])
    scale, zero = layer.floats(".scale"), layer.floats(".zero")
    if axis == 1 and columns % group == 0:
        scale, zero = scale.reshape(rows, -1), zero.reshape(rows, -1)
    else:
        scale, zero = (np.broadcast_to(part, codes.shape).reshape(rows, columns) for part in (scale, zero))
    codes = codes.reshape(rows, columns)
    layer.checked(codes, scale)
    if np.array_equal(zero, np.rint(zero)):
        return Codes(codes, bits, scale, zero.astype(np.int16))
    return Codes(codes, bits, scale, offset=-scale * zero)


@dataclass(frozen=True, slots=True)
class Layout:
    """method: of config.json. marker: the part that tells which tensors are stored so."""

    method: str
    marker: str
    read: Callable[[Layer], Codes]


LAYOUTS: Final = (
    Layout("gptq", ".qweight", _gptq),
    Layout("awq", ".qweight", _awq),
    Layout("compressed-tensors", ".weight_packed", _packed),
    Layout("compressed-tensors", ".weight_scale", _signed(".weight", ".weight_scale", ".weight_zero_point")),
    Layout("bitsandbytes", ".weight.absmax", _bitsandbytes_4bit),
    Layout("bitsandbytes", ".SCB", _signed(".weight", ".SCB", divisor=127.0)),
    Layout("torchao", "._weight_qdata", _torchao),
    Layout("mlx", ".scales", _mlx),
    Layout("hqq", ".W_q", _hqq),
)
_METHODS: Final = tuple(dict.fromkeys(row.method for row in LAYOUTS))


@dataclass(frozen=True, slots=True)
class QuantizedTensors(Mapping[str, Array]):
    """Name of a weight -> float32, dequantized where it is quantized. method: of config.json; words: what it says."""

    tensors: Tensors
    method: str
    words: Mapping[str, Any]

    def codes(self, name: str) -> Codes | None:
        """None where the weight is in floats.

        Raises:
            ModelError: its tensors do not belong together.
        """
        layer = Layer(name.removesuffix(".weight"), self.tensors, self.words)
        row = next((row for row in LAYOUTS if row.method == self.method and name.endswith(".weight")
                    and layer.has(row.marker)), None)
        if row is None:
            return None
        try:
            return row.read(layer)
        except (ValueError, KeyError, TypeError, IndexError, ZeroDivisionError) as error:
            raise ModelError(f"'{layer.stem}': its tensors do not belong together, or are not what {self.method} "
                             f"writes: {error}") from error

    def shape(self, name: str) -> tuple[int, ...]:
        found = self.codes(name)
        return self.tensors.shape(name) if found is None else found.codes.shape

    def __getitem__(self, name: str) -> Array:
        found = self.codes(name)
        return self.tensors[name] if found is None else found.real()

    def __contains__(self, name: object) -> bool:
        stem = str(name).removesuffix(".weight")
        return name in self.tensors.places or (stem != name and any(
            stem + row.marker in self.tensors.places for row in LAYOUTS if row.method == self.method))

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def quantized_tensors(tensors: Tensors, config: Mapping[str, Any], beside: Mapping[str, Any],
                      ) -> QuantizedTensors | None:
    """None where the checkpoint is in floats. beside: what older tools say in a file of their own.

    Raises:
        ModelError: a method that no row has.
    """
    words = config.get("quantization_config") or beside or {}
    if isinstance(config.get("quantization"), dict):  # MLX says it twice
        words = {"quant_method": "mlx", **config["quantization"]}
    if not words:
        return None
    method = str(words.get("quant_method", "gptq" if "desc_act" in words else "awq" if "w_bit" in words else ""))
    if method not in _METHODS:
        raise ModelError(f"the checkpoint is quantized by '{method}', which edgeq does not read; there are "
                         f"{', '.join(_METHODS)}")
    if words.get("transform_config"):
        raise ModelError("the checkpoint's weights are turned, and so must be the inputs of its layers "
                         "(transform_config), which edgeq does not read")
    return QuantizedTensors(tensors, method, MappingProxyType(dict(words)))
