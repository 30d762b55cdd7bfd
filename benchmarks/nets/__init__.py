"""Whole architectures, built small with random weights: what counts is which operators follow each other, not size."""
