"""Orthogonal matrices to turn channels with. Pure numpy, and the same for the same seed on every machine."""
from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def rotation(size: int, seed: int, *, keeps_mean: bool = False) -> Matrix:
    """An orthogonal R [size, size] that spreads every channel over all: x -> x R.

    A Hadamard matrix whose rows have random signs (QuaRot, Ashkboos et al. 2024, arXiv:2404.00456) where one
    is known, else a random orthogonal matrix. keeps_mean: the latter on what is orthogonal to the ones, which stay as
    they are: R 1 = 1, so that the mean of x R is that of x.
    """
    random = np.random.default_rng(seed)
    if keeps_mean:
        inner = np.eye(size)
        inner[1:, 1:] = _random_orthogonal(size - 1, random)
        mirror = _mirror_to_ones(size)
        return mirror @ inner @ mirror
    known = hadamard(size)
    return _random_orthogonal(size, random) if known is None else random.choice((-1.0, 1.0), (size, 1)) * known


def hadamard(size: int) -> Matrix | None:
    """An orthogonal matrix [size, size] of elements +-1/sqrt(size), or None where neither construction has one.

    Paley's first (a prime q = 3 mod 4 gives q + 1), doubled by Sylvester's as often as it takes.
    """
    base, doublings = size, 0
    while base > 2 and not _is_paley(base):
        if base % 2:
            return None
        base, doublings = base // 2, doublings + 1
    found = _paley(base) if base > 2 else np.ones((1, 1))
    for _ in range(doublings + (base == 2)):
        found = np.block([[found, found], [found, -found]])
    return np.asarray(found / np.sqrt(size), np.float64)


def _is_paley(size: int) -> bool:
    prime = size - 1
    return prime % 4 == 3 and all(prime % k for k in range(3, int(prime**0.5) + 1, 2))


def _paley(size: int) -> Matrix:
    """I + S, where S is skew: Jacobsthal's matrix of quadratic residues modulo size - 1, bordered by ones."""
    prime = size - 1
    squares = np.unique(np.arange(1, prime) ** 2 % prime)
    character = np.full(prime, -1.0)
    character[squares], character[0] = 1.0, 0.0
    skew = np.zeros((size, size))
    skew[0, 1:], skew[1:, 0] = 1.0, -1.0
    skew[1:, 1:] = character[np.subtract.outer(np.arange(prime), np.arange(prime)) % prime]
    return np.eye(size) + skew


def _random_orthogonal(size: int, random: np.random.Generator) -> Matrix:
    """Uniform over the orthogonal matrices: QR with R's diagonal positive (Mezzadri 2007, arXiv:math-ph/0609050)."""
    turned, upper = np.linalg.qr(random.normal(size=(size, size)))
    return np.asarray(turned * np.sign(np.diag(upper)), np.float64)


def _mirror_to_ones(size: int) -> Matrix:
    """Householder's reflection that exchanges the first unit vector and ones / sqrt(size)."""
    between = np.full(size, -1 / np.sqrt(size))
    between[0] += 1
    return np.asarray(np.eye(size) - 2 * np.outer(between, between) / (between @ between), np.float64)
