"""Calibration statistics that outlive a conversion: `--calibration-cache FILE`."""
from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

import onnx_ir as ir

from edgeq.errors import CalibrationError
from edgeq.quant.calibrate.run import calibrate
from edgeq.quant.calibrate.statistics import Statistics
from edgeq.quant.samples import Samples

_REMEDY: Final = "give another --calibration-cache, or delete this file"


def calibrate_with_cache(path: Path, model: ir.Model, values: Collection[str], samples: Samples, *,
                         progress: Callable[[int], None] | None = None) -> Statistics:
    """`calibrate`, beginning where the file at `path` ends, which then holds the result.

    The samples of the file must be the first of these, so that a run with more samples continues one with fewer.

    Raises:
        CalibrationError: the file belongs to another model, other data or other values, or is none of ours.
    """
    model_digest = digest(model)
    known = _load(path, model_digest, values, samples) if path.exists() else None
    done = known.samples if known is not None else 0
    if known is not None and samples.count <= done:
        return known
    found = calibrate(model, values, itertools.islice(samples, done, None), progress=progress, resume=known)
    draft = path.with_name(f"{path.name}.draft")
    try:
        found.save(draft, model=model_digest, data=samples.digest())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise CalibrationError(f"cannot write --calibration-cache {path}: {error.strerror}") from error
    return found


def _load(path: Path, model_digest: str, values: Collection[str], samples: Samples) -> Statistics:
    """What the file holds.

    Raises:
        CalibrationError: it does not belong here.
    """
    found, origin = Statistics.load_with_origin(path)
    if origin.get("model") != model_digest:
        raise CalibrationError(f"'{path}' holds the statistics of another model, or of this one prepared by another "
                               f"edgeq; {_REMEDY}")
    if samples.count < found.samples or samples.digest(found.samples) != origin.get("data"):
        raise CalibrationError(f"'{path}' holds the statistics of {found.samples} samples that are not the first of "
                               f"the given {samples.count}; {_REMEDY}")
    if not set(values) <= set(found):
        raise CalibrationError(f"'{path}' holds the statistics of other values, as another --target or --keep-float "
                               f"needs them; {_REMEDY}")
    return found


def digest(model: ir.Model) -> str:
    """sha256 over everything that a model computes with: inputs, nodes and constants."""
    total = hashlib.sha256()
    for value in (*model.graph.inputs, *model.graph.outputs):
        total.update(repr((value.name, str(value.dtype), str(value.shape))).encode())
    for node in model.graph:
        total.update(ir.to_proto(node).SerializeToString(deterministic=True))
    for name in sorted(model.graph.initializers):
        data = model.graph.initializers[name].const_value
        if data is not None:
            total.update(repr((name, str(data.dtype), str(data.shape))).encode())
            total.update(data.tobytes())
    return total.hexdigest()
