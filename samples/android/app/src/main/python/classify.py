"""What the app asks: bytes of a bitmap in, text out. One model for the life of the process."""
from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

import edgeq_runtime


@cache
def model(bundle: str) -> edgeq_runtime.Model:
    opened = edgeq_runtime.load(Path(__file__).parent / bundle)
    opened.warm_up()
    return opened


def classify(pixels: bytes, width: int, height: int, bundle: str = "net.edgeq") -> str:
    """pixels: a Bitmap of ARGB_8888 as copyPixelsToBuffer writes it, R G B A -> one label a line, the best first."""
    image = np.frombuffer(pixels, np.uint8).reshape(height, width, 4)[..., :3]
    return "\n".join(f"{found.label} {found.score:.2f}" for found in model(bundle).predict(image))
