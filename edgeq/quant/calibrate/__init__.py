"""From samples to ranges: one streaming pass over the float model, then pure arithmetic on its histograms.

    statistics = calibrate(model, planned values, samples)     one mergeable histogram per value
    low, high = CALIBRATORS["mse"](statistics["conv_1"])       a range that contains 0
    params = edgeq.quant.params.grid(low, high, QuantType(8, signed=False, symmetric=False))
"""
from edgeq.quant.calibrate.calibrators import CALIBRATORS, Calibrator, entropy, minmax, mse, percentile
from edgeq.quant.calibrate.run import calibrate
from edgeq.quant.calibrate.statistics import Statistics, TensorStatistics

__all__ = ["CALIBRATORS", "Calibrator", "Statistics", "TensorStatistics", "calibrate", "entropy", "minmax", "mse",
           "percentile"]
