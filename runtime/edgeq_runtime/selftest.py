"""Golden vectors: a few inputs, the outputs they must give, and how far a device may be off.

selftest.npz holds, without pickled objects::

    input/<k>/<name>     sample k = 0, 1, ..., one array for every input
    output/<k>/<name>    what the converter's machine computed, one array for every output
    tolerance            a string: JSON of Tolerance
"""
from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple, Union

import numpy as np

from .errors import BundleError

if TYPE_CHECKING:
    from .manifest import TensorSpec
    from .runnable import Runnable

FILE_NAME = "selftest.npz"
MAX_BYTES = 1 << 29  # of all its arrays: a few samples and what comes of them
MAX_CASES = 1000


@dataclass(frozen=True)
class Tolerance:
    """error: the largest absolute error of each output, 0 for one that is not named. noise: the root mean square that
    the errors of one sample's output may have; any where it is not named. source: why so far, a sentence.

    A rounding that flips far in front of an output moves single numbers far; a broken kernel moves all of them.
    """

    source: str
    error: Mapping[str, float] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """One sample: arrays by input name, and what they must give by output name."""

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """The first value that is too far off: sample, output, index; expected, got, and the largest error allowed.

    noise: the root mean square of all errors of that output, where that and no single value is too large; `allowed` is
    its limit then, and the index that of the largest error.
    """

    case: int
    output: str
    index: Tuple[int, ...]
    expected: float
    got: float
    allowed: float
    noise: Optional[float] = None

    def __str__(self) -> str:
        if self.noise is not None:
            return (f"sample {self.case}, output '{self.output}': errors of {self.noise:.3g} on average, allowed are "
                    f"{self.allowed:.3g}; the largest is at {list(self.index)}: expected {self.expected:.6g}, "
                    f"got {self.got:.6g}")
        return (f"sample {self.case}, output '{self.output}' at {list(self.index)}: expected {self.expected:.6g}, "
                f"got {self.got:.6g}, allowed error {self.allowed:.3g}")


@dataclass(frozen=True)
class SelfTestResult:
    """status: "pass" (bit for bit), "within tolerance" or "fail". largest_error: by output, in the output's unit."""

    status: str
    cases: int
    largest_error: Mapping[str, float]
    tolerance: Tolerance
    difference: Optional[Difference] = None

    @property
    def ok(self) -> bool:
        return self.status != "fail"

    def to_dict(self) -> Dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        text = f"{self.status} ({self.cases} {'sample' if self.cases == 1 else 'samples'})"
        if self.status == "pass":
            return text
        return f"{text}: {self.difference}" if self.difference else f"{text}: {self.tolerance.source}"


class Tested(Protocol):
    """What a self-test asks of a model."""

    @property
    def folder(self) -> Union[str, Path]: ...

    @property
    def outputs(self) -> Tuple[TensorSpec, ...]: ...

    def run(self, inputs: Mapping[str, Any]) -> Dict[str, Any]: ...


def self_test(model: Tested) -> SelfTestResult:
    """Run every sample of the bundle and compare.

    Raises:
        BundleError: the bundle has no samples, or they are not those of this model.
    """
    cases, tolerance = read_selftest(Path(model.folder, FILE_NAME))
    largest = {spec.name: 0.0 for spec in model.outputs}
    first: Optional[Difference] = None
    exact = True
    for number, case in enumerate(cases):
        if set(case.outputs) != set(largest):
            raise BundleError(f"{FILE_NAME}: sample {number} has the outputs {sorted(case.outputs)}, "
                              f"the model {sorted(largest)}")
        for name, got in model.run(case.inputs).items():
            expected = case.outputs[name]
            if got.shape != expected.shape or got.dtype != expected.dtype:
                raise BundleError(f"{FILE_NAME}: '{name}' is {expected.dtype} {expected.shape}, "
                                  f"the model gives {got.dtype} {got.shape}")
            error = _error(expected, got)
            exact = exact and not error.any()
            largest[name] = max(largest[name], float(error.max(initial=0.0)))
            first = first or _first_difference(number, name, expected, got, error, tolerance)
    status = "pass" if exact else "fail" if first else "within tolerance"
    return SelfTestResult(status, len(cases), largest, tolerance, first)


def example(model: Runnable) -> Dict[str, Any]:
    """Inputs that the model can be run with: its first self-test sample, or else zeros.

    Raises:
        BundleError: an input has a free dimension and the bundle has no samples.
    """
    path = Path(model.folder, FILE_NAME)
    if path.is_file():
        found = dict(read_selftest(path)[0][0].inputs)
        if set(found) == {spec.name for spec in model.inputs}:  # else they are of an encoder in front of the model
            return found
    free = [spec.name for spec in model.inputs if not all(isinstance(d, int) for d in spec.shape)]
    if free:
        raise BundleError(f"the shape of '{free[0]}' is free and the bundle has no {FILE_NAME} to take one from")
    return {spec.name: np.zeros(spec.shape, spec.dtype) for spec in model.inputs}


def _error(expected: Any, got: Any) -> Any:
    """|got - expected| as float64: 0 where both are the same NaN or infinity, infinite where only one is."""
    same = (expected == got) | ((expected != expected) & (got != got))
    with np.errstate(invalid="ignore"):
        error = np.abs(np.float64(got) - np.float64(expected))
    return np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))


def _first_difference(number: int, name: str, expected: Any, got: Any, error: Any,
                      tolerance: Tolerance) -> Optional[Difference]:
    allowed = tolerance.error.get(name, 0.0)
    wrong = ~(error <= allowed) | np.isinf(error)  # an expected infinity would allow everything, a NaN nothing
    noise = float(np.sqrt(np.mean(np.square(error)))) if error.size else 0.0
    if not wrong.any() and noise <= tolerance.noise.get(name, np.inf):
        return None
    place = np.argmax(wrong) if wrong.any() else np.argmax(error)
    index = tuple(int(k) for k in np.unravel_index(int(place), error.shape))
    found = Difference(number, name, index, float(expected[index]), float(got[index]), allowed)
    return found if wrong.any() else replace(found, allowed=tolerance.noise[name], noise=noise)


def write_selftest(path: Union[str, Path], cases: Sequence[Case], tolerance: Tolerance) -> None:
    """Host side: write golden vectors. ValueError where they could not be read back as written."""
    if not cases:
        raise ValueError("a self-test without samples proves nothing")
    arrays: Dict[str, Any] = {"tolerance": np.array(json.dumps(asdict(tolerance)))}
    for number, case in enumerate(cases):
        arrays.update({f"input/{number}/{name}": np.asarray(array) for name, array in case.inputs.items()})
        arrays.update({f"output/{number}/{name}": np.asarray(array) for name, array in case.outputs.items()})
    if any(array.dtype.hasobject for array in arrays.values()):
        raise ValueError("a self-test holds numbers only")
    np.savez_compressed(path, **arrays)


def read_selftest(path: Union[str, Path]) -> Tuple[List[Case], Tolerance]:
    """The samples and the tolerance of a bundle.

    Raises:
        BundleError: there is no such file, or it is damaged.
    """
    if not Path(path).is_file():
        raise BundleError(f"the bundle has no {FILE_NAME}: it was converted without verification")
    try:
        _check_size(path)
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:  # np.load leaks a damaged file
            arrays = {key: archive[key] for key in archive.files}
        tolerance = _tolerance(json.loads(str(arrays.pop("tolerance"))))
        found: Dict[int, Case] = {}
        for key, array in arrays.items():
            side, number, name = key.split("/", 2)
            if int(number) >= MAX_CASES:
                raise BundleError(f"{FILE_NAME} holds more than {MAX_CASES} samples")
            case = found.setdefault(int(number), Case({}, {}))
            sides: Dict[str, Any] = {"input": case.inputs, "output": case.outputs}
            sides[side][name] = array
        return [found[number] for number in range(len(found))], tolerance
    except BundleError:
        raise
    except Exception as error:  # zipfile, numpy and json each raise their own
        raise BundleError(f"{FILE_NAME} is damaged: {type(error).__name__} {error}") from None


def _check_size(path: Union[str, Path]) -> None:
    """Before anything is unpacked; an archive that lies about its sizes is cut short by zipfile."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        sizes = [info.file_size for info in archive.infolist()]
    if sum(sizes) > MAX_BYTES or len(sizes) > 100 * MAX_CASES:
        raise BundleError(f"{FILE_NAME} holds {len(sizes)} arrays of {sum(sizes)} bytes; at most {MAX_BYTES} are "
                          "allowed")


def _tolerance(data: Dict[str, Any]) -> Tolerance:
    unknown = sorted(set(data) - {f.name for f in fields(Tolerance)})
    if unknown:
        raise BundleError(f"unknown key '{unknown[0]}' in the tolerance; update edgeq-runtime")
    return Tolerance(**data)
