"""What is suspicious about calibration samples beside the network, --preprocess and --eval."""
from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from edgeq.conversion.request import Request
from edgeq.mixed_precision import Goal
from edgeq.quant.calibrate.advice import Survey, said_of_declared, said_of_evaluation
from edgeq.quant.calibrate.response import response_warnings
from edgeq.quant.samples import Samples
from edgeq_runtime.preprocess import Preprocess


def suspicions(network: ir.Model, request: Request, samples: Samples, survey: Survey, goal: Goal | None,
               ) -> Iterator[str]:
    """Sentences, each with what helps. network: in float, in the layout of the samples."""
    yield from response_warnings(network, samples)
    if isinstance(request.preprocess, Preprocess) and not samples.prepared and len(survey.inputs) == 1:
        yield from filter(None, [said_of_declared(survey.inputs[0], ends(request.preprocess))])
    if goal is not None and request.options.eval is not None:
        yield from filter(None, (said_of_evaluation(found, goal.numbers[found.name]) for found in survey.inputs
                                 if found.name in goal.numbers))


def ends(given: Preprocess) -> tuple[float, float]:
    """The smallest and the largest number that pixels become."""
    mean, deviation = np.array(given.mean or (0.0,)), np.array(given.std or (1.0,))
    found = (np.array([[0.0], [255.0]]) * given.scale - mean) / deviation
    return float(found.min()), float(found.max())
