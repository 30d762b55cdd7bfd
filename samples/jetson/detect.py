"""Find things in pictures, and say who computes and how fast.

    python detect.py BUNDLE photo.jpg...
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
from PIL import Image

import edgeq_runtime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    options = parser.parse_args()
    try:
        with edgeq_runtime.load(options.bundle) as model:
            model.warm_up()
            print(f"{model.engine} on {model.accelerator}")
            for path in options.pictures:
                with Image.open(path) as image:
                    pixels = np.asarray(image.convert("RGB"))
                began = perf_counter()
                detections = model.predict(pixels)
                print(f"{path.name}: {1e3 * (perf_counter() - began):.1f} ms, {len(detections)} found")
                for found in detections:
                    x0, y0, x1, y1 = found.box
                    print(f"  {found.score:.2f} {found.label} at {x0:.0f},{y0:.0f} to {x1:.0f},{y1:.0f}")
    except edgeq_runtime.EdgeqError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
