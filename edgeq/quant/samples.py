"""Calibration and test data of every accepted form, as one re-iterable stream of checked feeds.

    samples.npy, samples.npz        first axis: samples; each is fed with a batch axis of 1
    folder/*.npy, folder/*.npz      each file one complete feed with its batch axis; shapes may differ
    folder/*.jpg, *.png, *.wav ...  images or sounds, each through `preprocess`
    "module:function"               a function that returns one of the forms below
    an array                        as in an .npy: first axis: samples
    {input name: array}             as in an .npz
    an iterable                     a list, a generator, a data loader: of arrays, of tuples in the order of the inputs
                                    or of dicts by name, each a sample with its batch axis or without, or a batch

Arrays may be torch tensors. What a sample holds beyond the inputs, labels say, is left out.

Of a streaming model, samples are steps in the order of time, and a state that they leave out is fed back: an .npz, an
.npy, each file of arrays in a folder and each batch is a recording, which begins with zeros, or with the state that it
holds once. A sample that holds a state of its own begins with that.
"""
from __future__ import annotations

import hashlib
import importlib
import itertools
import sys
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgeq import policy
from edgeq.errors import CalibrationError, EdgeqError, MissingExtra
from edgeq.quant.feeds import (
    Feed,
    InputSpec,
    Located,
    batched,
    begun,
    check_names,
    checked,
    expected,
    fits_specs,
    given,
    initial_state,
    is_array,
    named,
    samples_of,
)
from edgeq_runtime.dimensions import fits
from edgeq_runtime.sound import LogMel, read_wav

Preprocess: TypeAlias = Callable[..., NDArray[Any]]
Source: TypeAlias = Any  # of the forms at the top of this file

_NPY: Final[Any] = np.lib.format  # its functions carry no type hints
ARRAYS: Final = frozenset({".npy", ".npz"})
IMAGES: Final = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
SOUNDS: Final = frozenset({".wav"})


class Samples:
    """Checked feeds, input name -> array in the input's dtype; may be iterated any number of times.

    Iterating raises CalibrationError at the first sample that does not fit, and when there is none.
    """

    def __init__(self, specs: Mapping[str, InputSpec], read: Callable[[], Iterator[Located]], name: str,
                 length: int | None, limit: int | None = None, *, prepared: bool = False,
                 ranks: Callable[[], tuple[int, ...]] | None = None):
        """prepared: by the declared preprocessing. ranks: where they are known without reading."""
        self.prepared = prepared
        self.specs, self._read, self._name, self._limit = specs, read, name, limit
        self._length = length if length is None or limit is None else min(length, limit)
        self._find_ranks = ranks or (lambda: places([digest_of(feed) for feed in self]))
        self._ranks: tuple[int, ...] | None = None

    @property
    def length(self) -> int | None:
        """Number of samples, None where only reading them all would tell."""
        return self._length

    @property
    def count(self) -> int:
        """Number of samples; reads them all, once, where only that tells."""
        if self._length is None:
            self._length = sum(1 for _ in self)
        return self._length

    def __iter__(self) -> Iterator[Feed]:
        empty = True
        for located in itertools.islice(self._read(), self._limit):
            found = checked(located, self.specs)
            yield begun(found, self.specs) if empty else found
            empty = False
        if empty:
            raise CalibrationError(f"{self._name} holds no samples; give at least one for {expected(self.specs)}")

    @property
    def stretch(self) -> list[Feed] | None:
        """Of a streaming model, steps as `running` gives them, enough to see errors grow; None of samples that stand
        alone.
        """
        return None

    def running(self) -> Iterable[Feed]:
        """As a model takes them: of a streaming model, the state at the beginning of each recording alone."""
        return self

    def first(self, count: int) -> Samples:
        """At most so many of them, from the beginning."""
        return Samples(self.specs, self._read, self._name, self._length,
                       count if self._limit is None else min(count, self._limit))

    def hold_out(self, *, in_order: bool = False) -> tuple[Samples, Samples | None]:
        """(what ranges, weights and choices may see, what they may not: a fifth, HELD_OUT_MOST at most); (all, None)
        where fewer than HELD_OUT_FROM leave none to spare. in_order: see `split`.
        """
        step = max(policy.HELD_OUT_ONE_IN.value, -(-self.count // policy.HELD_OUT_MOST.value))
        return self.split(step, in_order=in_order) if self.count >= policy.HELD_OUT_FROM.value else (self, None)

    def split(self, step: int, *, in_order: bool = False) -> tuple[Samples, Samples]:
        """(the others, so many as every `step`-th would be): by their content, so that their order means nothing.

        in_order: every `step`-th itself. Then further samples behind these leave both parts as they began.
        """
        chosen = self.count // step

        def is_second() -> list[bool]:
            return [is_nth(number, step) if in_order else self.ranks[number] < chosen for number in range(self.count)]

        return (self._part(lambda: [not each for each in is_second()], self.count - chosen),
                self._part(is_second, chosen))

    def chosen(self, count: int, skip: int = 0) -> list[Feed]:
        """At most so many of them, behind `skip` others: by their content, so that their order means nothing."""
        found = [(rank, feed) for rank, feed in zip(self.ranks, self, strict=False) if skip <= rank < skip + count]
        return [feed for _, feed in sorted(found, key=lambda item: item[0])]

    @property
    def ranks(self) -> tuple[int, ...]:
        """The place of each sample among all, ordered by the digest of its content; reads them all, once."""
        if self._ranks is None:
            self._ranks = self._find_ranks()
        return self._ranks

    def _part(self, is_in: Callable[[], list[bool]], length: int) -> Samples:
        def read() -> Iterator[Located]:
            return itertools.compress(itertools.islice(self._read(), self._limit), is_in())

        return Samples(self.specs, read, self._name, length,
                       ranks=lambda: places(list(itertools.compress(self.ranks, is_in()))))

    def digest(self, count: int | None = None) -> str:
        """sha256 over the names, shapes, dtypes and bytes of what is fed, in order; reads every sample, or `count`."""
        total = hashlib.sha256()
        for feed in itertools.islice(self, count):
            add_to_digest(total, feed)
        return total.hexdigest()


def places(keys: Sequence[Any]) -> tuple[int, ...]:
    """Of each key among all, in order; equal ones as they come."""
    in_order = sorted(range(len(keys)), key=keys.__getitem__)
    return tuple(sorted(range(len(keys)), key=in_order.__getitem__))


def digest_of(feed: Feed) -> bytes:
    total = hashlib.sha256()
    add_to_digest(total, feed)
    return total.digest()


def is_nth(number: int, step: int) -> bool:
    """Whether the sample of this number, counted from 0, is one of every `step`-th."""
    return number % step == step - 1


def add_to_digest(total: Any, feed: Feed) -> None:
    """One more sample, in `Samples.digest` and whoever computes the same beside other work. total: of hashlib."""
    for name in sorted(feed):
        array = feed[name]
        total.update(repr((name, array.dtype.str, array.shape)).encode())
        total.update(array.tobytes())
    total.update(b"\n")


def open_samples(source: Source, specs: Mapping[str, InputSpec], *, limit: int | None = None,
                 preprocess: Preprocess | None = None, what: str = "the calibration data") -> Samples:
    """Open data of any form listed at the top of this file; samples are read one by one, as they are asked for.

    Args:
        source: a path, "module:function", or data in memory.
        specs: the model's inputs.
        limit: read at most this many samples.
        preprocess: image uint8 [height, width, 3], or a sound float32 [samples] and its rate in hertz -> input array,
            with or without the batch axis.
        what: the data, as messages call them where no path or name does.

    Raises:
        CalibrationError: the source does not exist or cannot be read, or its names are not the model's. What is wrong
            with a single sample is raised when it is reached.
        MissingExtra: images are given and Pillow is not installed.
        ValueError: limit < 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if not specs:
        raise CalibrationError(f"the model has no inputs, so that samples say nothing of it: leave {what} out")
    if not isinstance(source, str | Path):
        return _from_memory(source, specs, limit, what)
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, specs, limit, preprocess)
    if path.is_file():
        return _from_file(path, specs, limit)
    if isinstance(source, str) and is_reference(source):
        return _from_function(source, specs, limit)
    raise CalibrationError(f"'{source}' does not exist; give an .npz or .npy file, a folder, or module:function")


# One .npy or .npz: the first axis counts the samples.

def _from_file(path: Path, specs: Mapping[str, InputSpec], limit: int | None) -> Samples:
    columns = _Columns(path, specs)
    return Samples(specs, columns.read, f"'{path}'", columns.rows(), limit)


class _Stream:
    """The rows of one stored array, read one after the other: neither .npy nor compressed .npz is held whole."""

    def __init__(self, file: IO[bytes]):
        old = _NPY.read_magic(file) == (1, 0)
        shape, columns_first, self.dtype = (_NPY.read_array_header_1_0 if old else _NPY.read_array_header_2_0)(file)
        if self.dtype.hasobject:
            raise ValueError("it holds Python objects")
        if columns_first and len(shape) > 1:
            raise ValueError("it is stored column by column; save numpy.ascontiguousarray of it")
        self.rows, self.shape, self._file = (shape[0] if shape else 0), shape[1:], file

    def row(self) -> NDArray[Any]:
        size = self.dtype.itemsize * int(np.prod(self.shape))
        data = self._file.read(size)
        if len(data) != size:
            raise ValueError("it is truncated")
        return np.frombuffer(data, self.dtype).reshape(self.shape)


class _Columns:
    """The arrays of one .npy or .npz that belong to the inputs."""

    def __init__(self, path: Path, specs: Mapping[str, InputSpec]):
        self.path, self.specs = path, specs
        if path.suffix.lower() not in ARRAYS:
            raise CalibrationError(f"'{path}' is neither .npz nor .npy; an image goes into a folder of images")

    @contextmanager
    def opened(self) -> Iterator[dict[str, _Stream]]:
        with _readable(self.path), ExitStack() as stack:
            if self.path.suffix.lower() == ".npy":
                name = _only_input(f"'{self.path}'", self.specs)
                yield {name: _Stream(stack.enter_context(open(self.path, "rb")))}
            else:
                archive = stack.enter_context(zipfile.ZipFile(self.path))
                names = _member_names(archive)
                check_names(f"'{self.path}'", names, self.specs)
                yield {name: _Stream(stack.enter_context(archive.open(f"{name}.npy")))
                       for name in given(self.specs, names)}

    def rows(self) -> int:
        """Number of samples. Raises CalibrationError where the arrays hold different numbers."""
        with self.opened() as streams:
            lengths = {name: stream.rows for name, stream in streams.items() if not self._is_initial(name, stream)}
        if len(set(lengths.values())) != 1:
            listing = ", ".join(f"{name}: {rows}" for name, rows in lengths.items())
            raise CalibrationError(f"'{self.path}' holds different numbers of samples ({listing}); the first axis of "
                                   "every array counts the samples")
        return next(iter(lengths.values()))

    def read(self) -> Iterator[Located]:
        """Of a streaming model, the steps of one recording."""
        with self.opened() as streams:
            initial = {name: np.stack([stream.row() for _ in range(stream.rows)])
                       for name, stream in streams.items() if self._is_initial(name, stream)}
            columns = {name: stream for name, stream in streams.items() if name not in initial}
            for index in range(min(stream.rows for stream in columns.values())):
                row = {name: batched(stream.row(), self.specs[name]) for name, stream in columns.items()}
                yield Located(f"'{self.path}' sample {index}",
                              row if index else begun(row | initial, self.specs))

    def _is_initial(self, name: str, stream: _Stream) -> bool:
        """The state before the first step alone."""
        return bool(self.specs[name].state) and fits((stream.rows, *stream.shape), self.specs[name].shape, {})


def _member_names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist()]


def _member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(f"{name}.npy") as file:
        return np.asarray(_NPY.read_array(file, allow_pickle=False))


# A folder: one file, one feed.

def _from_folder(folder: Path, specs: Mapping[str, InputSpec], limit: int | None,
                 preprocess: Preprocess | None) -> Samples:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in ARRAYS | IMAGES | SOUNDS)
    return open_files(files, f"the folder '{folder}'", specs, limit=limit, preprocess=preprocess)


def open_files(files: Sequence[Path], name: str, specs: Mapping[str, InputSpec], *, limit: int | None = None,
               preprocess: Preprocess | None = None) -> Samples:
    """Files of arrays, of images or of sounds, each one feed, in this order. name: as messages call them.

    Raises as `open_samples`.
    """
    forms = {"arrays": ARRAYS, "images": IMAGES, "sounds": SOUNDS}
    kinds = [form for form, endings in forms.items() if any(file.suffix.lower() in endings for file in files)]
    if not kinds:
        raise CalibrationError(f"{name} holds no .npz, .npy, image or .wav files")
    if len(kinds) > 1:
        raise CalibrationError(f"{name} holds {' and '.join(kinds)}; separate them")
    if kinds == ["arrays"] and any(spec.state for spec in specs.values()):
        recordings = [_Columns(file, specs) for file in files]
        return Samples(specs, lambda: itertools.chain.from_iterable(each.read() for each in recordings), name,
                       sum(each.rows() for each in recordings), limit)
    load = _array_loader(specs) if kinds == ["arrays"] else _source_loader(kinds[0], name, specs, preprocess)

    def read() -> Iterator[Located]:
        for file in files:
            with _readable(file):
                feed = load(file)
            yield Located(f"'{file}'", feed)

    return Samples(specs, read, name, len(files), limit, prepared=kinds != ["arrays"])


def _array_loader(specs: Mapping[str, InputSpec]) -> Callable[[Path], Mapping[str, NDArray[Any]]]:
    def load(file: Path) -> Mapping[str, NDArray[Any]]:
        with open(file, "rb") as raw:  # np.load would leave a damaged file open
            if file.suffix.lower() == ".npy":
                return {_only_input(f"'{file}'", specs): _NPY.read_array(raw, allow_pickle=False)}
            with zipfile.ZipFile(raw) as archive:
                check_names(f"'{file}'", _member_names(archive), specs)
                return {name: _member(archive, name) for name in specs}

    return load


def _source_loader(kind: str, where: str, specs: Mapping[str, InputSpec],
                   preprocess: Preprocess | None) -> Callable[[Path], Mapping[str, NDArray[Any]]]:
    name = _only_input(where, specs)
    if preprocess is None:
        raise CalibrationError(f"the {kind} of {where} need to become {specs[name]}; say how with --preprocess of "
                               "edgeq convert")
    if isinstance(preprocess, LogMel) != (kind == "sounds"):
        raise CalibrationError(f"{where} holds {kind}; --preprocess describes something else")
    read = read_wav if kind == "sounds" else _image_reader()

    def load(file: Path) -> Mapping[str, NDArray[Any]]:
        array = np.asarray(preprocess(*read(file)))
        return {name: array[np.newaxis] if array.ndim == len(specs[name].shape) - 1 else array}

    return load


def _image_reader() -> Callable[[Path], tuple[NDArray[np.uint8]]]:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("Image data", "image") from error

    def read(file: Path) -> tuple[NDArray[np.uint8]]:
        with Image.open(file) as image:
            return (np.asarray(image.convert("RGB"), np.uint8),)

    return read


# Python: a function by name, or data in memory.

def is_reference(source: str) -> bool:
    """True for text of the form module:function."""
    module, _, function = source.partition(":")
    return function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def import_function(source: str) -> Callable[..., Any]:
    """What "module:function" names, with modules of the current folder.

    Raises:
        CalibrationError: it cannot be imported.
    """
    module_name, _, function_name = source.partition(":")
    try:
        with _current_folder_importable():
            function: Callable[..., Any] = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:
        raise CalibrationError(f"cannot import '{source}': {error}") from error
    return function


def _from_function(source: str, specs: Mapping[str, InputSpec], limit: int | None) -> Samples:
    function = import_function(source)

    def read() -> Iterator[Located]:
        try:
            yield from _located(function(), specs, f"'{source}'")
        except EdgeqError:
            raise
        except Exception as error:
            raise CalibrationError(f"'{source}' raised {type(error).__name__}: {error}") from error

    return Samples(specs, read, f"'{source}'", None, limit)


def _from_memory(source: Any, specs: Mapping[str, InputSpec], limit: int | None, name: str) -> Samples:
    """An iterator can be walked through once only, so what it yields is kept; give a list or a class instead."""
    kept = list(itertools.islice(source, limit)) if isinstance(source, Iterator) else source
    return Samples(specs, lambda: _located(kept, specs, name), name, _length(kept, specs), limit)


def _length(source: Any, specs: Mapping[str, InputSpec]) -> int | None:
    """Number of samples, where it is known without a walk through batches."""
    if is_array(source) or isinstance(source, Mapping) or not isinstance(source, Collection):
        return None
    first = next(iter(source), None)
    return len(source) if isinstance(first, Mapping) and len(samples_of(first, specs, "")) == 1 else None


def _located(source: Any, specs: Mapping[str, InputSpec], name: str) -> Iterator[Located]:
    if is_array(source) or isinstance(source, Mapping):
        yield from _rows_of_columns(source, specs, name)
        return
    if not isinstance(source, Iterable):
        raise CalibrationError(f"{name}: of type {type(source).__name__}; give an array, a dict of arrays, or an "
                               "iterable of samples")
    for index, item in enumerate(source):
        found = samples_of(item, specs, f"{name} sample {index}")
        for row, feed in enumerate(found):
            yield Located(f"{name} sample {index}" + (f", row {row}" if len(found) > 1 else ""), feed)


def _rows_of_columns(source: Any, specs: Mapping[str, InputSpec], name: str) -> Iterator[Located]:
    """Arrays whose first axis counts the samples; what fits an input as it is is one sample."""
    columns = named(source, specs, name)
    wanted = given(specs, columns)
    if not columns.keys() >= wanted.keys():  # the check of a sample tells which are missing
        yield Located(name, columns)
        return
    initial = initial_state(columns, wanted)
    lengths = {column: len(columns[column]) if columns[column].ndim else 0 for column in wanted
               if column not in initial}
    if len(set(lengths.values())) > 1:
        listing = ", ".join(f"{column}: {length}" for column, length in lengths.items())
        raise CalibrationError(f"{name} holds different numbers of samples ({listing}); the first axis of every array "
                               "counts the samples")
    for index in range(max(lengths.values(), default=0)):
        row = {column: batched(columns[column][index], specs[column]) for column in lengths}
        if not fits_specs(row | initial, wanted) and fits_specs(columns, wanted):
            yield Located(name, columns)
            return
        yield Located(f"{name} sample {index}", row if index else begun(row | initial, specs))


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """A console script does not search the current folder, where the user's module is."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _only_input(where: str, specs: Mapping[str, InputSpec]) -> str:
    needed = given(specs, ())
    if len(needed) != 1:
        raise CalibrationError(f"{where} holds data for one input, but the model takes {expected(specs)}; "
                               "give an .npz with these names")
    return next(iter(needed))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while reading a file into one line that names the file."""
    try:
        yield
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CalibrationError(f"'{path}' cannot be read: {error}") from error
