"""What the backends do not do, as data: refusals with their reason, and failures that wait for a remedy."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# (backend, row) or (backend, "row/form") -> a part of the message of UnsupportedModel. A row that is refused here and
# converts after all is a failure too: delete its entry.
REFUSED: Final[Mapping[tuple[str, str], str]] = {
    **{(backend, row): f"no such operator on {backend}" for backend in ("coreml", "coreai") for row in (
        "dft", "dft-complex-inverse", "dft-onesided-longer", "dft-onesided-shorter", "roi-align", "roi-align-corners",
        "stft", "stft-both-sides")},
    **{("tensorrt", row): "TensorRT's parser has no such operator" for row in (
        "bit-shift", "cross-entropy", "cross-entropy-sum", "cross-entropy-weights", "det-2", "det-3", "dft",
        "dft-complex-inverse", "dft-onesided-longer", "dft-onesided-shorter", "hardmax", "log-likelihood", "max-unpool",
        "max-unpool-dynamic", "max-unpool-larger",
        "stft", "stft-both-sides")},
    **{("tensorrt", row): "quantized networks are QuantizeLinear and DequantizeLinear" for row in (
        "conv-integer", "conv-integer-long", "matmul-integer")},
    **{("coreml", f"scatter-elements-dynamic{form}"): "computed indices that are smaller than the data"
       for form in ("", "-twice", "-add", "-mul", "-max", "-min")},
    ("tflite", "conv-dynamic-weight"): "its weights are computed at run time",
    ("tflite", "non-zero"): "no such operator on tflite",
}

# (backend, "row/form") -> why it fails today. Strict: one that passes is a failure, so that its entry goes away.
FAILS: Final[Mapping[tuple[str, str], str]] = {}
