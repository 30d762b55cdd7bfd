"""Name what a picture, or the camera of a Raspberry Pi, shows.

    python classify.py BUNDLE photo.jpg
    python classify.py BUNDLE --camera
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import edgeq_runtime


def picture(path: Path) -> Any:
    """A file -> uint8 [H,W,3]."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def camera() -> Iterator[Any]:
    """Frames of the Pi's camera, uint8 [480,640,3]. libcamera's BGR888 is what numpy calls RGB."""
    from picamera2 import Picamera2

    with Picamera2() as source:
        source.configure(source.create_preview_configuration({"format": "BGR888", "size": (640, 480)}))
        source.start()
        while True:
            yield source.capture_array()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("picture", type=Path, nargs="?")
    parser.add_argument("--camera", action="store_true")
    options = parser.parse_args()
    if options.camera == (options.picture is not None):
        parser.error("give a picture, or --camera")
    try:
        with edgeq_runtime.load(options.bundle, threads=4) as model:
            model.warm_up()
            for frame in camera() if options.camera else [picture(options.picture)]:
                print("  ".join(f"{found.label} {found.score:.2f}" for found in model.predict(frame)))
            for drift in model.drift():
                if drift.is_noteworthy:
                    print(f"note: {drift}", file=sys.stderr)
    except edgeq_runtime.EdgeqError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
