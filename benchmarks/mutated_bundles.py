"""Broken and hostile bundles and archives thrown at every door of the runtime: what becomes of them?

    python benchmarks/mutated_bundles.py [--cases 3000] [--seed 1] [--first N] [--only N] [--workers N] [--json FILE]

Case k of a seed is always the same: a bundle for ONNX Runtime, LiteRT or Core ML, one to three mutations of its
manifest, its files or its archive, and one of the doors `load` and self-test, `install`, `unpack`, `edgeq verify`. A
case is good when it works or is refused by an error of edgeq. Each has 60 seconds and 4 GB. An audit hook watches that
no file of the host is opened and nothing is run, but for the process of its own that the self-test of `install` has.
"""
from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

from hostile import models, protos  # noqa: E402
from mutated_models import options, preload, report  # noqa: E402

import edgeq_runtime  # noqa: E402
from edgeq_runtime.archive import CHECKSUM_NAME, checksum  # noqa: E402
from edgeq_runtime.integrity import sha256  # noqa: E402

Rng = np.random.Generator
TARGETS: Final = ("onnxruntime", "tflite", "coreml")
SOURCE: Final = "convolutions"
VALUES: Final = (
    None, True, False, 0, -1, 1, 257, 2**31, 2**63, 1e308, float("nan"), "", "x", "../secret", "/etc/passwd", "a/../b",
    "\x1b[31mred", "x" * 100_000, [], {}, [1], {"a": 1}, ["CPUExecutionProvider"], "plugin.so", "model.onnx",
    "manifest.json", ".", "\x00", "float32", "object", [[]], {"kind": "classify"}, [-1, 2**40],
)
OPTIONS: Final = (
    {"providers": [["TensorrtExecutionProvider", {"trt_extra_plugin_lib_paths": "plugin.so"}]]},
    {"providers": [["OpenVINOExecutionProvider", {"cache_dir": "/etc"}], "CPUExecutionProvider"]},
    {"providers": [["CPUExecutionProvider", {"library": "plugin.so"}]]},
    {"session_options": {"session.custom_ops_library": "plugin.so"}},
    {"session_options": {"session.model_external_initializers_file_folder_path": "/etc"}},
    {"session_options": {"session.optimized_model_filepath": "/tmp/x"}}, {"threads": 10**9}, {"threads": "all"},
    {"tflite_runtime": "x"}, {"compute_units": ["cpu"]}, {"experimental_delegates": "plugin.so"}, {"providers": "x"},
)


@cache
def good() -> Path:
    """A folder with a bundle for each target and two versions of one packed."""
    from edgeq import convert
    from edgeq.bundle.archive import pack

    folder = Path(tempfile.mkdtemp(prefix="edgeq-good-"))
    model = dict(models.sources())[SOURCE]
    for target in TARGETS:
        convert(model, target=target, bits=8, output=folder / target, version="1.2")
        pack(folder / target, folder / f"{target}.zip")
        pack(folder / target, folder / f"{target}.tar")
    return folder


# -- mutations -----------------------------------------------------------------------------------------------------

def _pick(rng: Rng, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a JSON document with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in _places(value[key])]


def _manifest(change: Callable[[Any, Rng], None]) -> Callable[[Path, Rng], None]:
    def mutation(bundle: Path, rng: Rng) -> None:
        file = bundle / "manifest.json"
        if not file.is_file():
            return
        try:
            document = json.loads(file.read_text())
        except ValueError:
            return
        if isinstance(document, dict):
            change(document, rng)
            file.write_text(json.dumps(document))
    return mutation


def _value(document: Any, rng: Rng) -> None:
    container, key = _pick(rng, _places(document))
    container[key] = _pick(rng, VALUES)


def _drop(document: Any, rng: Rng) -> None:
    container, key = _pick(rng, _places(document))
    del container[key]


def _add(document: Any, rng: Rng) -> None:
    container = _pick(rng, [document, *(each for each, _ in _places(document) if isinstance(each, dict))])
    container[str(_pick(rng, ("x", "format", "product", "options", "\x1b[0m")))] = _pick(rng, VALUES)


def _options(document: Any, rng: Rng) -> None:
    document["options"] = _pick(rng, OPTIONS)


def _engine(document: Any, rng: Rng) -> None:
    document["engine"] = _pick(rng, ("onnxruntime", "tflite", "coreml", "tensorrt", "os", "..errors", "versions"))


def _program(bundle: Path, rng: Rng) -> None:
    """A file that could run, listed as all the others."""
    name = _pick(rng, ("plugin.so", "sitecustomize.py", "model.dylib", "engine_cache/x.engine", "numpy.py"))
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_text("raise SystemExit(3)")
    relist(bundle)


def _bytes(bundle: Path, rng: Rng) -> None:
    """Bytes of a file, which the manifest then lists as they are: what a forger would do."""
    files = sorted(path for path in bundle.rglob("*") if path.is_file() and path.name != "manifest.json")
    if files:
        file = _pick(rng, files)
        file.write_bytes(_pick(rng, protos.BYTE_MUTATIONS)(file.read_bytes(), rng))
        if rng.random() < 0.8:
            relist(bundle)


def _model(bundle: Path, rng: Rng) -> None:
    """Another network in the place of the one that is there."""
    file = bundle / "model.onnx"
    if file.is_file():
        source = _pick(rng, models.sources())[1]
        file.write_bytes(protos.mutated(source, rng))
        relist(bundle)


def _text(bundle: Path, rng: Rng) -> None:
    file = bundle / "manifest.json"
    if file.is_file():
        file.write_bytes(_pick(rng, protos.BYTE_MUTATIONS)(file.read_bytes(), rng))


def _link(bundle: Path, rng: Rng) -> None:
    files = [path for path in bundle.iterdir() if path.is_file()]
    if files:
        file = _pick(rng, sorted(files))
        file.unlink()
        kind = int(rng.integers(3))
        if kind == 0:
            file.symlink_to(bundle.parent.parent / "secret")
        elif kind == 1:
            os.mkfifo(file)
        else:
            file.mkdir()


def _arrays(bundle: Path, rng: Rng) -> None:
    """A self-test with arrays of other types, shapes and names, or with Python objects."""
    arrays: dict[str, Any] = {"tolerance": np.array(json.dumps(_pick(rng, VALUES)))}
    name = _pick(rng, ("input/0/x", "input/0/y", "output/0/y", "input/-1/x", "input/9999999/x", "x", "a/b/c"))
    arrays[str(name)] = _pick(rng, (np.zeros(3), np.zeros((1, 3, 9, 7), np.float32), np.array([{}], object),
                                    np.zeros(5, "U9"), np.zeros((0, 4))))
    if not (bundle / "selftest.npz").exists() or (bundle / "selftest.npz").is_file():
        np.savez(bundle / "selftest.npz", **arrays)
    relist(bundle)


def relist(bundle: Path) -> None:
    """Let the manifest list what is there."""
    if not (bundle / "manifest.json").is_file():
        return
    try:
        document = json.loads((bundle / "manifest.json").read_text())
        files = sorted(path for path in bundle.rglob("*") if path.is_file() and path.name != "manifest.json")
        document["files"] = [{"path": path.relative_to(bundle).as_posix(), "bytes": path.stat().st_size,
                              "sha256": sha256(path)} for path in files]
        (bundle / "manifest.json").write_text(json.dumps(document))
    except (ValueError, OSError, TypeError):
        pass


FOLDER_MUTATIONS: Final[tuple[Callable[[Path, Rng], None], ...]] = (
    _manifest(_value), _manifest(_value), _manifest(_drop), _manifest(_add), _manifest(_options), _manifest(_engine),
    _program, _bytes, _bytes, _model, _text, _link, _arrays,
)


# -- doors ---------------------------------------------------------------------------------------------------------

def archived(bundle: Path, rng: Rng) -> Path:
    """A mutated bundle as one file, whose own form may be broken too."""
    path = bundle.parent / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for file in sorted(bundle.rglob("*")):
            if file.is_file() and not file.is_symlink():
                made.writestr(file.relative_to(bundle).as_posix(), file.read_bytes())
        manifest = bundle / "manifest.json"
        if manifest.is_file() and not manifest.is_symlink():
            made.writestr(CHECKSUM_NAME, checksum(manifest.read_bytes()))
        for name in ("../evil", "/etc/evil", "evil.py", "manifest.json"):
            if rng.random() < 0.03:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    made.writestr(name, b"x" * int(_pick(rng, (1, 10**6))))
    if rng.random() < 0.3:
        path.write_bytes(_pick(rng, protos.BYTE_MUTATIONS)(path.read_bytes(), rng))
    return path


def _load(bundle: Path, rng: Rng) -> None:
    with edgeq_runtime.load(bundle, threads=1, verify=bool(rng.random() < 0.5)) as model:
        model.self_test()
        model.warm_up()


def _install(archive: Path, rng: Rng) -> None:
    place = archive.parent / "installed"
    if rng.random() < 0.5:
        edgeq_runtime.install(good() / f"{_pick(rng, TARGETS)}.zip", place, self_test=False)
        (place / "current").write_bytes(_pick(rng, protos.BYTE_MUTATIONS)((place / "current").read_bytes(), rng))
    # A process for each of thousands of cases would take hours; one in ten has it.
    edgeq_runtime.install(archive, place, self_test=bool(rng.random() < 0.1), threads=1)
    edgeq_runtime.load(place, threads=1).close()


def _unpack(archive: Path, rng: Rng) -> None:
    from edgeq.bundle.archive import unpack

    unpack(archive, archive.parent / "new.edgeq")


def _verify(bundle: Path, rng: Rng) -> None:
    import edgeq

    edgeq.inspect(str(bundle))
    edgeq.verify(bundle)


DOORS: Final[tuple[Callable[[Path, Rng], None], ...]] = (_load, _load, _install, _unpack, _verify)


class Attempt:
    """One mutated bundle at one door, under one seed."""

    def __init__(self, seed: int) -> None:
        self.seed, self.good = seed, good()

    def __call__(self, number: int, folder: Path) -> Callable[[], str]:
        warnings.simplefilter("ignore")
        rng = np.random.default_rng((self.seed, number))
        bundle = folder / "bundle.edgeq"
        shutil.copytree(self.good / str(_pick(rng, TARGETS)), bundle)
        for _ in range(int(rng.integers(1, 4))):
            _pick(rng, FOLDER_MUTATIONS)(bundle, rng)
        door = _pick(rng, DOORS)
        ready = archived(bundle, rng) if door in (_install, _unpack) else bundle

        def act() -> str:
            door(ready, rng)
            return "converted"

        return act


def main() -> int:
    given = options(__doc__, 3000)
    preload()
    try:
        return report(Attempt(given.seed), given)
    finally:
        shutil.rmtree(good())


if __name__ == "__main__":
    sys.exit(main())
