"""Labelled data as files: a folder with one subfolder for each class, or a CSV with the columns file and label."""
from __future__ import annotations

import csv
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from edgeq.errors import EvaluationError
from edgeq.quant.feeds import InputSpec
from edgeq.quant.samples import ARRAYS, IMAGES, SOUNDS, Preprocess, Samples, open_files

FILES: Final = ARRAYS | IMAGES | SOUNDS


@dataclass(frozen=True, slots=True)
class Classes:
    """places: of each name among the classes. repeated: the names of several. is_number_taken: for a class too."""

    places: Mapping[str, int]
    repeated: frozenset[str]
    is_number_taken: bool

    @classmethod
    def of_names(cls, names: Sequence[str], *, is_number_taken: bool) -> Classes:
        """names: in the order of the scores."""
        repeated = frozenset(name for name, count in Counter(names).items() if count > 1)
        return cls({name: place for place, name in enumerate(names)}, repeated, is_number_taken)

    def place(self, label: str, where: str) -> int:
        """Raises:
            EvaluationError: a label that is not known, or of several classes. where: the words that find it again.
        """
        if label in self.repeated:
            raise EvaluationError(f"{where}: the label '{label}' is the name of several classes among --labels; make "
                                  "the names differ")
        if label in self.places:
            return self.places[label]
        if self.is_number_taken and _is_number(label) and (not self.places or int(label) < len(self.places)):
            return int(label)
        if not self.places:
            raise EvaluationError(f"{where}: the label '{label}' is no number from 0; a name needs --labels, which the "
                                  "model is converted with")
        raise EvaluationError(f"{where}: no label '{label}' among the {len(self.places)} of --labels "
                              f"({', '.join(list(self.places)[:3])}{', ...' if len(self.places) > 3 else ''})")


@dataclass(frozen=True, slots=True)
class Row:
    """label: as it was written. where: the words that find the row again."""

    file: Path
    label: str
    where: str


@dataclass(frozen=True, slots=True)
class LabelledFiles:
    """name: as messages call them. folders: of the classes, in order; none of a CSV.

    The rows come in an order that classes have no part in, so that the first of them, and every third, are of all.
    """

    name: str
    rows: tuple[Row, ...]
    folders: tuple[str, ...] = ()

    def open(self, specs: Mapping[str, InputSpec], *, limit: int | None = None, preprocess: Preprocess | None = None,
             ) -> Samples:
        """The feeds. Raises as edgeq.quant.samples.open_samples."""
        return open_files([row.file for row in self.rows], self.name, specs, limit=limit, preprocess=preprocess)

    def targets(self, labels: Sequence[str]) -> tuple[int, ...]:
        """Of each row, by the class names in the order of the scores. Without them a folder's class is its place, and
        a CSV holds numbers.

        Raises:
            EvaluationError: a label is not known, or stands for two classes.
        """
        if self.folders and not labels:
            self._check_order()
        classes = Classes.of_names(labels or self.folders, is_number_taken=not self.folders)
        return tuple(classes.place(row.label, row.where) for row in self.rows)

    def check_scores(self, scores: NDArray[Any], labels: Sequence[str]) -> None:
        """Raises:
            EvaluationError: classes are the places of folders, and the model gives another number of scores.
        """
        if self.folders and not labels and scores.size != len(self.folders):
            raise EvaluationError(f"{self.name} has {len(self.folders)} class folders, and the model gives "
                                  f"{scores.size} scores: convert with --labels, which says which is which")

    def _check_order(self) -> None:
        if all(map(_is_number, self.folders)) and list(self.folders) != sorted(self.folders, key=int):
            raise EvaluationError(f"{self.name}: its folders are numbers, whose order as text is another "
                                  f"({', '.join(self.folders[:3])}, ...): convert with --labels, which says the order")


def labelled_files(data: Any) -> LabelledFiles | None:
    """What a path names; None where it is no such folder or CSV.

    Raises:
        EvaluationError: a class folder is empty or holds folders, a CSV cannot be read or names a file that is missing.
    """
    path = Path(data) if isinstance(data, str | Path) else None
    if path is None:
        return None
    if path.is_file() and path.suffix.lower() == ".csv":
        name = f"the evaluation file '{path}'"
        return LabelledFiles(name, _mixed(_rows_of_csv(path, name), path.parent))
    if not path.is_dir() or any(file.suffix.lower() in FILES for file in path.iterdir()):
        return None
    folders, name = sorted(_folders(path)), f"the evaluation folder '{path}'"
    rows = [row for folder in folders for row in _rows_of_folder(folder, name)]
    return LabelledFiles(name, _mixed(rows, path), tuple(folder.name for folder in folders)) if folders else None


def place_of(file: Path, root: Path) -> bytes:
    """Sorts files by a hash of their names: an order that classes have no part in, the same on every machine."""
    return hashlib.sha256((file.relative_to(root) if file.is_relative_to(root) else file).as_posix().encode()).digest()


def _mixed(rows: Sequence[Row], root: Path) -> tuple[Row, ...]:
    return tuple(sorted(rows, key=lambda row: place_of(row.file, root)))


def _folders(path: Path) -> Iterator[Path]:
    """Without those that programs hide in a folder, .ipynb_checkpoints say."""
    return (found for found in path.iterdir() if found.is_dir() and not found.name.startswith("."))


def _rows_of_folder(folder: Path, name: str) -> Iterator[Row]:
    if any(_folders(folder)):
        raise EvaluationError(f"{name}: the class folder '{folder.name}' holds folders; give the folder whose "
                              "subfolders are the classes")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in FILES)
    if not files:
        raise EvaluationError(f"{name}: the class folder '{folder.name}' holds no image, .wav, .npz or .npy file; fill "
                              "or remove it")
    return (Row(file, folder.name, f"{name}, folder '{folder.name}'") for file in files)


def _rows_of_csv(path: Path, name: str) -> list[Row]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets write a byte order mark
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            columns = reader.fieldnames or ()
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise EvaluationError(f"{name} cannot be read as CSV: {error}") from error
    if not {"file", "label"} <= set(columns):
        raise EvaluationError(f"{name}: the first line is '{','.join(columns)}'; it must name the columns file and "
                              "label, with a comma between")
    if not rows:
        raise EvaluationError(f"{name} holds no rows")
    return [_row(path.parent, row["file"], row["label"], f"{name}, line {line}") for line, row in rows]


def _row(root: Path, file: str | None, label: str | None, where: str) -> Row:
    """root: what paths are relative to."""
    if not file or not label:
        raise EvaluationError(f"{where}: a file or a label is missing")
    found = root / file.strip()
    if not found.is_file():
        raise EvaluationError(f"{where}: there is no file '{found}'")
    if found.suffix.lower() not in FILES:
        raise EvaluationError(f"{where}: '{found}' is no image, .wav, .npz or .npy file")
    return Row(found, label.strip(), where)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
