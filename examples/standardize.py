"""Standardise a data set that arrives in batches: batch norm's running statistics against `welnorm.Moments`.

The data are scikit-learn's handwritten digits, 1797 images of 64 pixels. `StandardScaler`, which sees them
all at once, says what is right.

    pip install scikit-learn

    python standardize.py
    python standardize.py --batch-size 32
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import welnorm as wn
from sklearn.datasets import load_digits
from sklearn.preprocessing import StandardScaler

TOLERANCE = 1e-12  # relative, for mean and variance from Moments
EPS = 1e-12  # of batch norm: far below any variance in the data except zero

ZERO_VARIANCE = """\
StandardScaler leaves their scale at 1, and so do we with Moments.
Batch norm divides them by sqrt(eps). They hold nothing but their mean, so the result is 0 either way."""

EXPLANATION = """\
momentum=0.1 forgets old batches, and still remembers the initial mean 0 and variance 1.
momentum=None averages over the batches. For the mean that is right if all have the same size; for the
variance it leaves out how the means of the batches differ (and divides by n - 1, as PyTorch does).
Moments keeps (count, mean, sum of squared deviations); two of these determine the one of their union, so
nothing is lost but rounding."""


class Standardized(NamedTuple):
    """The statistics of each column and the data standardised with them."""

    mean: np.ndarray
    var: np.ndarray
    result: np.ndarray


def split(x: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Split into batches of `batch_size` rows or more, whose sizes differ by one at most.

    A short last batch would not do: batch norm in training takes no batch of a single row, and the cumulative
    average counts each batch the same, whatever its size.
    """
    return np.array_split(x, len(x) // batch_size)


def by_momentum(x: np.ndarray, batches: list[np.ndarray]) -> Standardized:
    """Exponential averages over the batches, as a network in training keeps them."""
    mean, var = np.zeros(x.shape[1]), np.ones(x.shape[1])
    for batch in batches:
        wn.batch_norm(batch, mean, var, training=True, momentum=0.1)  # updates mean and var
    return Standardized(mean, var, wn.batch_norm(x, mean, var, eps=EPS))


def by_cumulative_average(x: np.ndarray, batches: list[np.ndarray]) -> Standardized:
    """Plain averages over the batches."""
    norm = wn.BatchNorm(x.shape[1], EPS, momentum=None, affine=False, dtype="float64").train()
    for batch in batches:
        norm(batch)
    norm.eval()
    return Standardized(norm.running_mean, norm.running_var, norm(x))


def by_moments(x: np.ndarray, batches: list[np.ndarray]) -> Standardized:
    """One Welford state, updated batch by batch."""
    return with_moments(x, gather(batches))


def by_merged_moments(x: np.ndarray, batches: list[np.ndarray]) -> Standardized:
    """Two Welford states, each of half the batches, as two processes would have them; then merged."""
    middle = len(batches) // 2
    return with_moments(x, gather(batches[:middle]) + gather(batches[middle:]))


def gather(batches: list[np.ndarray]) -> wn.Moments:
    """Moments of the columns over all batches."""
    moments = wn.moments(batches[0], axis=0)
    for batch in batches[1:]:
        moments.update(batch)
    return moments


def with_moments(x: np.ndarray, moments: wn.Moments) -> Standardized:
    """Standardise as `StandardScaler` does: a column of zero variance is centred and keeps its scale."""
    mean, var = moments.mean, moments.var()
    return Standardized(mean, var, wn.batch_norm(x, mean, np.where(var == 0, 1, var), eps=0))


def relative_difference(value: np.ndarray, expected: np.ndarray) -> float:
    """Largest relative difference; the absolute one where zero is expected."""
    return float(np.max(np.abs(value - expected) / np.where(expected == 0, 1, np.abs(expected))))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    x = load_digits().data
    parser = argparse.ArgumentParser(description="Standardise the digits data set, streamed in batches.")
    parser.add_argument("--batch-size", type=int, default=128, help="rows per batch (default: 128)")
    size = parser.parse_args(arguments).batch_size
    if not 2 <= size <= len(x) // 2:
        parser.error(f"--batch-size must be from 2 to {len(x) // 2}, got {size}")

    scaler = StandardScaler().fit(x)
    expected = Standardized(scaler.mean_, scaler.var_, scaler.transform(x))
    batches = split(x, size)
    print(f"Data {x.shape}, {len(batches)} batches of {len(batches[0])} rows or one less")
    print(f"{np.sum(expected.var == 0)} columns have zero variance; {ZERO_VARIANCE}")
    print("\nLargest absolute difference from StandardScaler, fitted to all rows:")
    print(f"{'':28}{'mean':>10}{'variance':>10}{'result':>10}")

    methods = {
        "batch_norm, momentum=0.1": by_momentum,
        "BatchNorm, momentum=None": by_cumulative_average,
        "Moments.update": by_moments,
        "Moments, two halves a + b": by_merged_moments,
    }
    worst = 0.0
    for name, method in methods.items():
        ours = method(x, batches)
        differences = [np.abs(a - b).max() for a, b in zip(ours, expected, strict=True)]
        print(f"{name:28}" + "".join(f"{difference:10.1e}" for difference in differences))
        if method in (by_moments, by_merged_moments):
            of_mean = relative_difference(ours.mean, expected.mean)
            of_var = relative_difference(ours.var, expected.var)
            worst = max(worst, of_mean, of_var)

    print(f"\n{EXPLANATION}")
    print(f"\nMoments: mean and variance differ by {worst:.1e} at most, relative; {TOLERANCE:.0e} is allowed")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
