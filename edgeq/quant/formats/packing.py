"""Bytes of GGUF's blocks: pure numpy, one pair of functions a layout.

Layouts: https://github.com/ggml-org/llama.cpp/blob/master/ggml/src/ggml-common.h; U units a tensor.
"""
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]


def half_bytes(numbers: NDArray[np.float16]) -> Bytes:
    """[U] half precision -> [U,2]."""
    return np.ascontiguousarray(numbers, np.float16)[:, None].view(np.uint8)


def halves(data: Bytes) -> NDArray[np.float16]:
    """[U,2] -> [U]."""
    return np.ascontiguousarray(data).view(np.float16)[:, 0]


def pack_fields(codes: Bytes, bits: int, run: int) -> Bytes:
    """codes [U,n] of `bits` -> [U,n*bits/8]: in a stretch of run*(8/bits), code k shares a byte with k + run.

    With run 16 and 4 bits the byte k of a block of 32 holds codes k and k + 16.
    """
    units, fields = len(codes), 8 // bits
    split = codes.reshape(units, -1, fields, run).astype(np.uint8)
    packed = np.zeros((units, split.shape[1], run), np.uint8)
    for field in range(fields):
        packed |= split[:, :, field] << np.uint8(bits * field)
    return packed.reshape(units, -1)


def unpack_fields(data: Bytes, bits: int, run: int) -> Bytes:
    """The inverse of `pack_fields`."""
    units, fields = len(data), 8 // bits
    shifts = np.arange(fields, dtype=np.uint8)[None, None, :, None] * np.uint8(bits)
    split = data.reshape(units, -1, 1, run) >> shifts
    return np.asarray((split & np.uint8((1 << bits) - 1)).reshape(units, -1), np.uint8)


def pack_scales_6(scales: Bytes, minima: Bytes) -> Bytes:
    """Eight scales and eight minima of 6 bits each [U,8] -> [U,12], as in Q4_K and Q5_K."""
    low_s, high_s, low_m, high_m = scales[:, :4], scales[:, 4:], minima[:, :4], minima[:, 4:]
    first = low_s | ((high_s >> 4) << 6)
    second = low_m | ((high_m >> 4) << 6)
    third = (high_s & 15) | ((high_m & 15) << 4)
    return np.asarray(np.concatenate([first, second, third], axis=1), np.uint8)


def unpack_scales_6(data: Bytes) -> tuple[Bytes, Bytes]:
    """The inverse of `pack_scales_6`."""
    first, second, third = data[:, :4], data[:, 4:8], data[:, 8:]
    scales = np.concatenate([first & 63, (third & 15) | ((first >> 6) << 4)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | ((second >> 6) << 4)], axis=1)
    return scales, minima


def pack_scales_3(scales: Bytes) -> Bytes:
    """Sixteen scales of 6 bits [U,16] -> [U,12], as in Q3_K: low nibbles of two in a byte, then four times two bits."""
    nibbles = (scales[:, :8] & 15) | ((scales[:, 8:] & 15) << 4)
    tops = scales.reshape(-1, 4, 4) >> 4
    high = tops[:, 0] | (tops[:, 1] << 2) | (tops[:, 2] << 4) | (tops[:, 3] << 6)
    return np.asarray(np.concatenate([nibbles, high], axis=1), np.uint8)


def unpack_scales_3(data: Bytes) -> Bytes:
    """The inverse of `pack_scales_3`."""
    low = np.concatenate([data[:, :8] & 15, data[:, :8] >> 4], axis=1)
    high = np.concatenate([(data[:, 8:] >> shift) & 3 for shift in (0, 2, 4, 6)], axis=1)
    return np.asarray(low | (high << 4), np.uint8)
