"""What the benchmarks share: where the real models are, environments, and how rows become a table and a file."""
from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SIX = ("imagenet_squeezenet11", "cifar10_resnet20", "kws_dscnn_mlperf", "kwt1_transformer", "fsrcnn_x2",
       "coco_fastestdet")
# Items whose samples have different lengths -> their input and the longest.
PADDED: Mapping[str, tuple[str, int]] = {"lm_stories260k": ("input_ids", 384), "g2pm_bilstm": ("char_ids", 51)}


def parser(documentation: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    found = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("EDGEQ_MODELS") or ROOT.parent / "shared" / "models"
    found.add_argument("--models", type=Path, default=Path(default), help="folder of the real models")
    found.add_argument("--json", type=Path, help="write the rows here too")
    return found


def open_zoo(models: Path) -> Any:
    """The Zoo of a folder of real models: paths, feeds and scores."""
    script = models.parent / "tools" / "zoo.py"
    if not script.is_file():
        raise SystemExit(f"no real models at {models}; name their folder with --models or EDGEQ_MODELS")
    spec = importlib.util.spec_from_file_location("zoo", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Zoo(models)


def shapes(zoo: Any, item: str) -> dict[str, tuple[int, ...]]:
    """The input shapes of an item's samples."""
    return {name: array.shape for name, array in padded(item, next(iter(zoo.feeds(item)))).items()}


def padded(item: str, feed: Mapping[str, Any]) -> Mapping[str, Any]:
    """A sample as long as the longest of its item."""
    if item not in PADDED:
        return feed
    name, length = PADDED[item]
    return {name: np.pad(feed[name], ((0, 0), (0, length - feed[name].shape[1])))}


PIP = ("-m", "pip", "-q", "--disable-pip-version-check", "install")


def environment_of(python: str, packages: Sequence[str], cache: Path) -> Path:
    """The Python of an environment that holds these packages, which is kept in `cache` for the next time.

    Raises:
        CalledProcessError: a package cannot be had; stderr says why.
    """
    key = hashlib.sha256(repr((python, tuple(packages))).encode()).hexdigest()[:12]
    folder, ready = cache / key, cache / f"{key}.ready"
    inside = folder / "bin" / "python"
    if not ready.exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        subprocess.run([inside, *PIP, "--only-binary=:all:", *packages], check=True, stderr=subprocess.PIPE, text=True)
        ready.touch()
    return inside


def report(rows: Sequence[Any], title: str, json_file: Path | None) -> None:
    """Print dataclass rows as a table, and write them as JSON."""
    columns = [field.name for field in fields(rows[0])]
    cells = [columns] + [[_text(value) for value in asdict(row).values()] for row in rows]
    widths = [max(len(line[k]) for line in cells) for k in range(len(columns))]
    print(title)
    for number, line in enumerate(cells):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    if json_file is not None:
        json_file.write_text(json.dumps({"title": title, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
