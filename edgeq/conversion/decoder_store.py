"""Quantized layers of a language model on disk, so that memory need not hold them and an ended conversion can go on."""
from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from edgeq.errors import BundleError, UsageError
from edgeq.quant.decoder import Key, StoredMatrix

_JOB, _TYPES = "job.json", "types.json"
_WHOLE: Final = "whole"  # embedding and head, which are of no layer


class Store(Mapping[Key, StoredMatrix]):
    """Where quantized weights are kept while others are made."""

    def keep(self, matrices: Mapping[Key, StoredMatrix]) -> None:
        """Matrices of one layer, or some that are of none."""
        raise NotImplementedError


class InMemory(Store):
    """The store that ends with the process."""

    def __init__(self) -> None:
        self._found: dict[Key, StoredMatrix] = {}

    def __getitem__(self, key: Key) -> StoredMatrix:
        return self._found[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def keep(self, matrices: Mapping[Key, StoredMatrix]) -> None:
        self._found |= matrices


class LayerStore(Store):
    """A hidden folder beside the bundle: for each layer a folder of its own, which gets its name when it is whole."""

    def __init__(self, folder: Path, job: str, *, resume: bool):
        """job: tells what the layers are of.

        Raises:
            UsageError: what lies there and is to be resumed is of another job.
        """
        self.folder, self._job = folder, job
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
        elif folder.exists() and _read(folder / _JOB) != job:
            raise UsageError(f"--resume: the layers in {folder} are of another conversion (model, words, text or "
                             "version); leave --resume out to begin anew")
        self._places: dict[Key, tuple[Path, str, int]] = {}
        for place in sorted(folder.iterdir()) if folder.is_dir() else ():
            if (place / _TYPES).is_file() and not place.name.startswith("."):
                self._found(place)

    def __getitem__(self, key: Key) -> StoredMatrix:
        path, type, columns = self._places[key]
        return StoredMatrix(type, np.load(path, mmap_mode="r"), columns)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def keep(self, matrices: Mapping[Key, StoredMatrix]) -> None:
        """Raises:
            BundleError: there is no room for them; those that were kept stay.
        """
        (_, layer), *_ = matrices
        name = f"layer-{layer}" if layer is not None else f"{_WHOLE}-{'-'.join(role for role, _ in matrices)}"
        draft = self.folder / f".{name}"
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / _JOB).write_text(self._job)
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir()
            for (role, _), matrix in matrices.items():
                np.save(draft / f"{role}.npy", matrix.data)
            types = {role: (matrix.type, matrix.columns) for (role, _), matrix in matrices.items()}
            (draft / _TYPES).write_text(json.dumps({"layer": layer, "types": types}))
            draft.rename(self.folder / name)
        self._found(self.folder / name)

    def remove(self) -> None:
        self._places.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _found(self, place: Path) -> None:
        said = json.loads((place / _TYPES).read_text())
        for role, (type, columns) in said["types"].items():
            self._places[role, said["layer"]] = place / f"{role}.npy", type, columns

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = "; make room, and go on with --resume" if error.errno == errno.ENOSPC else ""
            raise BundleError(f"cannot write {self.folder}: {error.strerror}{full}") from error


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""
