"""Normalizations and softmaxes."""
from __future__ import annotations

from typing import Final

from .case import Case, case, const, x

CASES: Final[tuple[Case, ...]] = (
    case("batch-norm", "BatchNormalization", x(2, 3, 5, 4), const(3), const(3), const(3), const(3, low=0.5, high=2)),
    case("batch-norm-epsilon", "BatchNormalization", x(2, 3, 5, 4), const(3), const(3), const(3), const(3, low=0.01,
         high=0.1),
         epsilon=1e-2),
    case("batch-norm-2d", "BatchNormalization", x(4, 3), const(3), const(3), const(3), const(3, low=0.5, high=2)),
    case("batch-norm-1d", "BatchNormalization", x(2, 3, 7), const(3), const(3), const(3), const(3, low=0.5, high=2)),
    case("batch-norm-computed", "BatchNormalization", x(2, 3, 5, 4), x(3), x(3), x(3), x(3, low=0.5, high=2)),
    case("batch-norm-computed-statistics", "BatchNormalization", x(2, 3, 7), const(3), const(3), x(3),
         x(3, low=0.5, high=2)),
    case("batch-norm-computed-mean", "BatchNormalization", x(4, 3), x(3), const(3), x(3), const(3, low=0.5, high=2)),
    case("layer-norm-computed", "LayerNormalization", x(2, 3, 4, 5), x(4, 5), x(4, 5), axis=-2),
    case("instance-norm-computed", "InstanceNormalization", x(2, 3, 5, 4), x(3), x(3)),
    case("group-norm-computed", "GroupNormalization", x(2, 6, 5, 4), x(6), x(6), num_groups=3),
    case("layer-norm", "LayerNormalization", x(2, 3, 6), const(6), const(6)),
    case("layer-norm-no-bias", "LayerNormalization", x(2, 3, 6), const(6)),
    case("layer-norm-axis", "LayerNormalization", x(2, 3, 4, 5), const(3, 4, 5), const(3, 4, 5), axis=1),
    case("layer-norm-negative-axis", "LayerNormalization", x(2, 3, 4, 5), const(4, 5), const(4, 5), axis=-2,
         epsilon=1e-3),
    case("instance-norm", "InstanceNormalization", x(2, 3, 5, 4), const(3), const(3)),
    case("instance-norm-1d", "InstanceNormalization", x(2, 3, 7), const(3), const(3), epsilon=1e-3),
    case("group-norm", "GroupNormalization", x(2, 6, 5, 4), const(6), const(6), num_groups=3),
    case("group-norm-one", "GroupNormalization", x(2, 4, 5), const(4), const(4), num_groups=1, epsilon=1e-3),
    case("lp-norm", "LpNormalization", x(2, 3, 6), axis=-1),
    case("lp-norm-axis-1", "LpNormalization", x(2, 3, 6), axis=1, p=1),
    case("mean-variance-norm", "MeanVarianceNormalization", x(2, 3, 5, 4), axes=[0, 2, 3]),
    case("lrn", "LRN", x(1, 5, 4, 3), size=3, alpha=0.1, beta=0.6, bias=1.5),
    case("softmax", "Softmax", x(3, 7)),
    case("softmax-3d", "Softmax", x(2, 3, 5)),
    case("softmax-4d", "Softmax", x(2, 3, 4, 5)),
    case("softmax-axis-0", "Softmax", x(3, 7), axis=0),
    case("softmax-axis-1", "Softmax", x(2, 3, 4, 5), axis=1),
    case("softmax-axis-negative", "Softmax", x(2, 3, 4, 5), axis=-2),
    case("log-softmax", "LogSoftmax", x(3, 7)),
    case("log-softmax-axis-1", "LogSoftmax", x(2, 3, 5), axis=1),
    case("hardmax", "Hardmax", x(3, 7, lattice=0.25)),
)
