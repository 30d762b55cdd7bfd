"""One run of a bundle, as plain data for `edgeq run`."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import BoardError, BundleError, InputError
from edgeq.quant.samples import ARRAYS, IMAGES, SOUNDS
from edgeq_runtime import Manifest, load
from edgeq_runtime.integers import to_reals
from edgeq_runtime.postprocess import Classify, Detect
from edgeq_runtime.predict import as_taken, image_size, interpreted, named_file, read_source, steps

SHOWN_VALUES: Final = 8
TOP: Final = 5  # labels, where no postprocessing says how many
Arrays = dict[str, NDArray[Any]]


def run_bundle(path: Path, inputs: Sequence[str], top: int | None = None, output: Path | None = None,
               board: str | None = None, **job: Any) -> dict[str, Any]:
    """Run once. inputs: "x.npy" or an image where the model has one input, "name=x.npy", or "all.npz".

    top: how many labels or boxes, by default as many as the bundle's postprocessing gives, or TOP labels. output: where
    to save the whole arrays, as .npz. board: a name or an address; by default this machine. job: engine
    and timeout there, as in boards.runner.Job.

    Raises:
        InputError: a file that cannot be read, or does not fit. BundleError, EngineError: see edgeq_runtime.load.
        BoardError: see boards.runner.
    """
    ran = _run_here(path, inputs) if board is None else _run_there(board, path, inputs, job)
    if output is not None:
        _save(output, ran.outputs)
    manifest = Manifest.read(path)
    before, after = steps(manifest)
    size = image_size(named_file(inputs[0])[1]) if len(inputs) == 1 else None
    found = None if after is None else [
        asdict(one) for one in interpreted(manifest, ran.outputs, (before, _limited(after, top)), size)]
    return {"engine": ran.engine, "accelerator": ran.accelerator, "drift": ran.drift, "found": found,
            "boxes_in": ("image" if size is not None else "input") if isinstance(after, Detect) else None,
            "outputs": {spec.name: summary(
                            to_reals(spec, ran.outputs[spec.name]), manifest.labels, top or TOP) | {"dtype": spec.dtype}
                        for spec in manifest.outputs}}


def _limited(after: Classify | Detect, top: int | None) -> Classify | Detect:
    """Which finds so many at most."""
    if top is None:
        return after
    return replace(after, top=top) if isinstance(after, Classify) else replace(
        after, max_detections=min(top, after.max_detections))


@dataclass(frozen=True, slots=True)
class _Ran:
    """drift: sentences about inputs outside the range of the calibration."""

    engine: str
    accelerator: str
    drift: Sequence[str]
    outputs: Arrays


def _run_here(path: Path, inputs: Sequence[str]) -> _Ran:
    with load(path) as model:
        outputs = model.run(read_inputs(model.manifest, inputs))
        drift = [str(drift) for drift in model.drift() if drift.is_noteworthy]
        return _Ran(model.engine, model.accelerator, drift, outputs)


def _run_there(board: str, path: Path, inputs: Sequence[str], words: Mapping[str, Any]) -> _Ran:
    from edgeq.boards.fleet import run_on_boards
    from edgeq.boards.registry import find_board
    from edgeq.boards.runner import Job

    with TemporaryDirectory(prefix="edgeq-") as folder:
        given, got = Path(folder) / "inputs.npz", Path(folder) / "outputs.npz"
        _save(given, read_inputs(Manifest.read(path), inputs))
        job = Job(path, self_test=False, inputs=given, outputs=got, **words)
        found = run_on_boards([find_board(board)], job)[0].found
        if isinstance(found, BoardError):
            raise found
        if found.error:
            raise BoardError(f"{board}: {found.error}")
        return _Ran(found.engine, found.accelerator or "", found.drift, dict(_load_numpy(got)))


def read_inputs(manifest: Manifest, given: Sequence[str]) -> Arrays:
    """The files that the command line named -> arrays by input name."""
    arrays: Arrays = {}
    for text in given:
        name, file = named_file(text)
        found = _read(manifest, name, Path(file))
        twice = sorted(set(found) & set(arrays))
        if twice:
            raise InputError(f"the input '{twice[0]}' was given twice")
        arrays.update(found)
    return arrays


def _read(manifest: Manifest, name: str, file: Path) -> Arrays:
    kind = file.suffix.lower()
    if kind not in ARRAYS | IMAGES | SOUNDS:
        raise InputError(f"cannot read the input {file}: neither .npy, .npz, an image nor .wav")
    if kind == ".npz":
        return dict(_load_numpy(file))
    name = name or _only_input(manifest, file)
    if kind == ".npy":
        return {name: _load_numpy(file)}
    array = np.asarray(read_source(file, steps(manifest)[0]))
    return {spec.name: as_taken(spec, array) for spec in manifest.inputs if spec.name == name} or {name: array}


def _only_input(manifest: Manifest, file: Path) -> str:
    if len(manifest.inputs) != 1:
        names = ", ".join(spec.name for spec in manifest.inputs)
        raise InputError(f"the model has the inputs {names}; say which one {file} is with --input NAME={file}")
    return manifest.inputs[0].name


def _load_numpy(file: Path) -> Any:
    try:
        return np.load(file, allow_pickle=False)
    except Exception as error:  # numpy, zipfile and the system each raise their own
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read the input {file}: {reason}") from None


def summary(array: NDArray[Any], labels: Sequence[str], top: int) -> dict[str, Any]:
    """The best labels where there is one score for each label; else the first values and their range."""
    found: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    values = array.ravel()
    if labels and values.size == len(labels):
        order = np.argsort(-values.astype(np.float64), kind="stable")[:top]
        return found | {"top": [{"label": labels[k], "index": int(k), "score": float(values[k])} for k in order]}
    found["values"] = values[:SHOWN_VALUES].tolist()
    if values.size and values.dtype.kind in "iuf":
        found |= {"min": float(values.min()), "max": float(values.max()), "mean": float(values.mean())}
    return found


def _save(path: Path, arrays: Arrays) -> None:
    try:
        with path.open("wb") as file:  # an open file, because numpy would append .npz to another name
            np.savez(file, allow_pickle=False, **arrays)
    except OSError as error:
        raise BundleError(f"cannot write {path}: {error.strerror or error}; choose another file with -o") from None
