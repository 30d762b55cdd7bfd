"""What the app asks: a picture's file in, lines of text out."""
from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

import edgeq_runtime

BUNDLE = Path(__file__).parent / "net.edgeq"


def classify(picture: Path, bundle: Path = BUNDLE) -> list[str]:
    """The best labels with their scores."""
    with Image.open(picture) as image, edgeq_runtime.load(bundle) as model:
        return [f"{found.label} {found.score:.2f}" for found in model.predict(np.asarray(image.convert("RGB")))]
