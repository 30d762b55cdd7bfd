"""How large a language model becomes as each type, and which devices hold it: by its configuration, without weights."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

from edgeq import policy
from edgeq.backend import DecoderWords, backend_named
from edgeq.errors import UsageError
from edgeq.frontends.decoder.checkpoint import Checkpoint, open_checkpoint
from edgeq.frontends.decoder.gguf_source import GgufWeights
from edgeq.frontends.decoder.gguf_tokenizer import gguf_tokenizer_of_folder
from edgeq.frontends.decoder.spec import Spec
from edgeq.frontends.decoder.weights import linear_roles, norm_parts, norm_roles, shape_of
from edgeq.quant.formats import FORMATS
from edgeq.quant.formats.mixes import MIXES

GIGABYTE: Final = 1 << 30
CONTEXTS: Final = (512, 2048, 4096, 8192, 32768, 131072)
_FLOAT_BITS: Final[Mapping[str, int]] = {"F32": 32, "F16": 16, "BF16": 16}
# Blocks as ONNX has them: bits of a weight in the layers, with a scale in half precision for each block of 32;
# embedding and head have 8 bits there.
_PLAIN: Final[Mapping[str, int]] = {"FP32": 32, "FP16": 16, "INT8": 8, "INT4": 4, "INT3": 3, "INT2": 2}
# llama.cpp: tokens that it takes through the network at once (n_ubatch of the runtime's engine), bytes of a number in
# its cache (f16), and tokens that it rounds a cache up to. Layers with a window hold as many as the others there: only
# then can tokens be forgotten again (swa_full, on by default).
# https://github.com/ggml-org/llama.cpp/blob/b11549/src/llama-context.cpp (llama_context_default_params)
_BATCH, _CACHE_BYTES, _CACHE_STEP = 512, 2, 256
_ALIGNMENT: Final = 32  # of tensors in a file, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md


@dataclass(frozen=True, slots=True)
class Memory:
    """A class of devices by their memory. share: what is left of it to a model. source: of the sizes. devices: names of
    `edgeq.devices` that it is a size of.
    """

    name: str
    gigabytes: int
    share: float
    source: str
    devices: tuple[str, ...] = ()

    @property
    def usable(self) -> int:
        return int(self.gigabytes * self.share * GIGABYTE)


_PHONE, _BOARD, _LAPTOP = policy.PHONE_SHARE.value, policy.BOARD_SHARE.value, policy.LAPTOP_SHARE.value
_PI: Final = "https://www.raspberrypi.com/products/raspberry-pi-{}/"
_ORIN: Final = "https://www.nvidia.com/en-us/autonomous-machines/embedded-systems/jetson-orin/"
_ANDROID: Final = "https://source.android.com/docs/core/perf/low-ram"
MEMORIES: Final[tuple[Memory, ...]] = (
    *(Memory(f"phone, {size} GB", size, _PHONE, _ANDROID, ("android", "iphone")) for size in (3, 4, 6, 8, 12, 16)),
    *(Memory(f"Raspberry Pi 4, {size} GB", size, _BOARD, _PI.format("4-model-b"), ("pi4",)) for size in (1, 2, 4, 8)),
    *(Memory(f"Raspberry Pi 5, {size} GB", size, _BOARD, _PI.format("5"), ("pi5",)) for size in (1, 2, 4, 8, 16)),
    *(Memory(f"Jetson Orin Nano, {size} GB", size, _BOARD, _ORIN, ("jetson-orin",)) for size in (4, 8)),
    *(Memory(f"Jetson Orin NX, {size} GB", size, _BOARD, _ORIN, ("jetson-orin",)) for size in (8, 16)),
    *(Memory(f"Jetson AGX Orin, {size} GB", size, _BOARD, _ORIN, ("jetson-orin",)) for size in (32, 64)),
    *(Memory(f"laptop, {size} GB", size, _LAPTOP, "") for size in (8, 16, 32)),
)


def estimate_language_sizes(path: Path, context: int | None = None) -> dict[str, Any]:
    """Bytes of the file and in memory for every type, of the cache by the length of the context, and the devices.

    context: tokens that the memory is told for; as many as the runtime takes by default, where it is None.

    Raises:
        ModelError: the checkpoint, or its tokenizer, cannot be read. UsageError: the model has less context.
    """
    checkpoint = open_checkpoint(path)
    spec = checkpoint.padded().spec
    if context is not None and context > spec.context:
        raise UsageError(f"--context {context}: the model was made for {spec.context} tokens")
    length = min(context or policy.ESTIMATED_CONTEXT.value, spec.context)
    beside, fixed = _vector_bytes(spec) + _written_bytes(checkpoint), _fixed_bytes(spec, length)
    rows = [_row(name, weights, beside, fixed) for name, weights in _weights(spec)]
    fits = [_device(memory, rows) for memory in MEMORIES]
    return {"path": str(path), "parameters": _count(spec), "context": length, "types": rows, "devices": fits,
            "activation_bytes": activation_bytes(spec), "engine_bytes": _engine_bytes(spec),
            "cache": [{"context": size, "bytes": cache_bytes(spec, size)} for size in _contexts(spec, length)]}


def device_warning(device: str, checkpoint: Checkpoint, bits_per_weight: float) -> str:
    """Which sizes of a device, by its name in `edgeq.devices`, do not hold a network of so many bits; "": all do, or
    none is known.

    Raises:
        UsageError: none of them does.
    """
    spec, sizes = checkpoint.spec, [memory for memory in MEMORIES if device in memory.devices]
    length = min(policy.ESTIMATED_CONTEXT.value, spec.context)
    needed = round(_count(spec) * bits_per_weight / 8) + _fixed_bytes(spec, length)
    small = [memory for memory in sizes if memory.usable < needed]
    if not small:
        return ""
    words = (f"the model needs about {needed / GIGABYTE:.1f} GB for {length} tokens, and {small[-1].name} leaves "
             f"{small[-1].usable / GIGABYTE:.1f}")
    if len(small) == len(sizes):
        raise UsageError(f"--device {device}: {words}: none is larger; take fewer --bits or a smaller model "
                         "(`edgeq estimate` lists what each type needs)")
    return words


def bits_per_weight(spec: Spec, types: Callable[[str, int | None], str]) -> float:
    """On average."""
    shapes = {key: shape_of(spec, key[0], "weight") for key in _keys(spec)}
    return 8 * sum(_bytes(types(*key), *shape) for key, shape in shapes.items()) / sum(map(prod, shapes.values()))


def _fixed_bytes(spec: Spec, context: int) -> int:
    """Beside the file."""
    return activation_bytes(spec) + cache_bytes(spec, context) + _engine_bytes(spec)


def cache_bytes(spec: Spec, context: int) -> int:
    """Of keys and values of so many tokens, as llama.cpp keeps them."""
    tokens = -(-context // _CACHE_STEP) * _CACHE_STEP
    return 2 * len(spec.layers) * spec.kv_heads * spec.head_size * tokens * _CACHE_BYTES


def activation_bytes(spec: Spec) -> int:
    """What llama.cpp computes in, for a batch of tokens: a layer's widest numbers and the streams beside them."""
    attention = (spec.heads + 2 * spec.kv_heads) * spec.head_size
    return 4 * _BATCH * (max((1 + spec.gated) * spec.inner, attention) + 4 * spec.hidden)


def _engine_bytes(spec: Spec) -> int:
    """The engine's own: its tables, and its tokenizer's, of which each token takes some."""
    return policy.ENGINE_MEGABYTES.value * 10**6 + policy.TOKEN_BYTES.value * spec.vocabulary


def _weights(spec: Spec) -> Iterator[tuple[str, int]]:
    """(type, bytes of all matrices) of every type."""
    for name, bits in _PLAIN.items():
        yield name, sum(_plain_bytes(spec, role, bits) for role, _ in _keys(spec))
    target = backend_named("gguf").decoder
    assert target is not None
    for name in MIXES:
        types = target.types(spec, DecoderWords(bits=4, type=name))
        yield name, sum(_bytes(types(*key), *shape_of(spec, key[0], "weight")) for key in _keys(spec))


def _plain_bytes(spec: Spec, role: str, bits: int) -> int:
    rows, columns = shape_of(spec, role, "weight")
    kept = max(bits, 8) if role in ("embedding", "head") else bits
    return rows * (columns * kept // 8 + (0 if kept >= 16 else 2 * -(-columns // 32)))


def _bytes(type: str, rows: int, columns: int) -> int:
    if type in _FLOAT_BITS:
        return rows * columns * _FLOAT_BITS[type] // 8
    return rows * columns // FORMATS[type].unit * FORMATS[type].unit_bytes


def _keys(spec: Spec) -> Iterator[tuple[str, int | None]]:
    yield "embedding", None
    for layer in range(len(spec.layers)):
        yield from ((role, layer) for role in linear_roles(spec))
    if not spec.tied:
        yield "head", None


def _vector_shapes(spec: Spec) -> Iterator[tuple[int, ...]]:
    """Of norms, biases and positions, which stay in float32."""
    if spec.learned_positions:
        yield shape_of(spec, "positions", "weight")
    for role in (*norm_roles(spec) * len(spec.layers), "final_norm"):
        yield from (shape_of(spec, role, part) for part in norm_parts(spec))
    for role in spec.biases:
        yield from [shape_of(spec, role, "bias")] * len(spec.layers)


def _vector_bytes(spec: Spec) -> int:
    return 4 * sum(map(prod, _vector_shapes(spec)))


def _count(spec: Spec) -> int:
    return sum(prod(shape_of(spec, role, "weight")) for role, _ in _keys(spec)) + _vector_bytes(spec) // 4


def _written_bytes(checkpoint: Checkpoint) -> int:
    """Metadata and tokenizer of a GGUF file: lengths of 8 bytes in front of texts and lists, 4 bytes for other values;
    and a line for each tensor, at whose end there is padding.
    """
    spec = checkpoint.spec
    if isinstance(checkpoint.weights, GgufWeights):
        return min(int(tensor.data_offset) for tensor in checkpoint.weights.file.tensors.values())
    metadata = sum(12 + len(key) + _value_bytes(value) for key, value in
                   gguf_tokenizer_of_folder(checkpoint.path).items())
    tensors = sum(1 for _ in _keys(spec)) + sum(1 for _ in _vector_shapes(spec))
    return metadata + 700 + tensors * (64 + _ALIGNMENT // 2)


def _value_bytes(value: Any) -> int:
    if isinstance(value, str):
        return 8 + len(value.encode())
    if isinstance(value, Sequence):
        return 12 + sum(map(_value_bytes, value))
    return 4


def _row(name: str, weights: int, beside: int, fixed: int) -> dict[str, Any]:
    disk = weights + beside
    return {"type": name, "weight_bytes": weights, "disk_bytes": disk, "memory_bytes": disk + fixed}


def _device(memory: Memory, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    held = [row for row in rows if row["memory_bytes"] <= memory.usable]
    best = max(held, key=lambda row: int(row["memory_bytes"]), default=None)
    return {**asdict(memory), "usable_bytes": memory.usable, "holds": [row["type"] for row in held],
            "largest": None if best is None else best["type"]}


def _contexts(spec: Spec, length: int) -> list[int]:
    return sorted({*(size for size in CONTEXTS if size <= spec.context), length})
