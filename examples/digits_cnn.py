"""A convolutional network with batch norm in NumPy and welnorm: inference on handwritten digits, twice.

The network is conv 3x3, batch norm, ReLU, conv 3x3, batch norm, ReLU, mean over quarters of the image,
linear. First each batch norm is a pass of its own, by `welnorm.batch_norm` with running statistics, which
applies the ReLU in the same pass, in place. Then `welnorm.fold_batch_norm` puts it into the convolution
before it, and nothing is left of it but a bias. The predictions must be equal.

The data are scikit-learn's 8x8 images, of which every fifth was held out when `train_digits_cnn.py` made the
weights in `digits_cnn.npz`.

    pip install scikit-learn

    python digits_cnn.py
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import welnorm as wn
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import DTypeLike
from sklearn.datasets import load_digits

WEIGHTS = Path(__file__).with_suffix(".npz")
LEAST_ACCURACY = 0.97
CHANNELS = (1, 16, 32)  # of the images and after each convolution
CLASSES = 10
CELL = 4  # pixels: the side of the squares that are averaged before the linear layer
CELLS = (8 // CELL) ** 2
HELD_OUT = 5  # every fifth image


class Digits(NamedTuple):
    """Images, (N, 8, 8, 1) from 0 to 1, and which digit each of them shows."""

    images: np.ndarray
    labels: np.ndarray


def load_data() -> tuple[Digits, Digits]:
    """Training part and held-out part of the data."""
    digits = load_digits()
    images = (digits.images / 16)[..., np.newaxis].astype(np.float32)
    held_out = np.arange(len(images)) % HELD_OUT == 0
    return (
        Digits(images[~held_out], digits.target[~held_out]),
        Digits(images[held_out], digits.target[held_out]),
    )


def patches(x: np.ndarray) -> np.ndarray:
    """3x3 neighbourhoods of all pixels of (N, H, W, C), zeros outside: (N * H * W, 9 * C)."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = sliding_window_view(padded, (3, 3), axis=(1, 2))  # (N, H, W, C, 3, 3)
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 9 * x.shape[-1])


def convolve(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Convolve (N, H, W, C) with a weight of shape (3, 3, C, K): (N, H, W, K)."""
    channels = weight.shape[-1]
    return (patches(x) @ weight.reshape(-1, channels)).reshape(*x.shape[:-1], channels)


def pool(x: np.ndarray) -> np.ndarray:
    """Mean over each square of CELL x CELL pixels of (N, H, W, C): (N, CELLS * C)."""
    n, height, width, channels = x.shape
    squares = x.reshape(n, height // CELL, CELL, width // CELL, CELL, channels)
    return squares.mean(axis=(2, 4)).reshape(n, -1)


class Network:
    """The network, channels last, with batch norms in their own right.

    Parameters
    ----------
    dtype : dtype, default "float32"
        Of parameters and running statistics. All of them wait for `load_state_dict` or for training.
    """

    def __init__(self, dtype: DTypeLike = "float32") -> None:
        # The convolutions have no bias: the batch norm after them would subtract it again.
        self.convolutions = [
            np.zeros((3, 3, inputs, outputs), dtype) for inputs, outputs in itertools.pairwise(CHANNELS)
        ]
        self.norms = [wn.BatchNorm(channels, axis=-1, dtype=dtype) for channels in CHANNELS[1:]]
        self.weight = np.zeros((CELLS * CHANNELS[-1], CLASSES), dtype)
        self.bias = np.zeros(CLASSES, dtype)

    def parameters(self) -> dict[str, np.ndarray]:
        """Return what training changes: the arrays themselves."""
        named = {"linear.weight": self.weight, "linear.bias": self.bias}
        for number, (convolution, norm) in enumerate(zip(self.convolutions, self.norms, strict=True), 1):
            named[f"conv{number}.weight"] = convolution
            named[f"norm{number}.weight"] = norm.weight
            named[f"norm{number}.bias"] = norm.bias
        return named

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return copies of all arrays, running statistics among them."""
        state = {name: array.copy() for name, array in self.parameters().items()}
        for number, norm in enumerate(self.norms, 1):
            state |= norm.state_dict(f"norm{number}.")
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> Network:
        """Load what `state_dict` gave, or a file of it; returns self."""
        for name, array in self.parameters().items():
            array[...] = state[name]
        for number, norm in enumerate(self.norms, 1):
            norm.load_state_dict(state, prefix=f"norm{number}.")
        return self

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Score (N, 8, 8, 1) images for each digit: (N, 10)."""
        x = images
        for weight, norm in zip(self.convolutions, self.norms, strict=True):
            x = convolve(x, weight)
            wn.batch_norm(
                x,
                norm.running_mean,
                norm.running_var,
                norm.weight,
                norm.bias,
                eps=norm.eps,
                axis=norm.axis,
                activation="relu",
                out=x,
            )
        return pool(x) @ self.weight + self.bias

    def fold(self) -> FoldedNetwork:
        """Return the same network without batch norms."""
        return FoldedNetwork(self)


class FoldedNetwork:
    """The network with each batch norm folded into the convolution before it."""

    def __init__(self, network: Network) -> None:
        self.convolutions = [
            wn.fold_batch_norm(
                weight,
                None,
                norm.running_mean,
                norm.running_var,
                norm.weight,
                norm.bias,
                eps=norm.eps,
                axis=-1,
            )
            for weight, norm in zip(network.convolutions, network.norms, strict=True)
        ]
        self.weight, self.bias = network.weight, network.bias

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Score (N, 8, 8, 1) images for each digit: (N, 10)."""
        x = images
        for weight, bias in self.convolutions:
            x = convolve(x, weight)
            x += bias
            np.maximum(x, 0, out=x)
        return pool(x) @ self.weight + self.bias


def load_network(path: Path = WEIGHTS) -> Network:
    """Network with the weights in an npz file."""
    with np.load(path) as state:
        return Network().load_state_dict(state)


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose best score is that of the right digit."""
    return float(np.mean(scores.argmax(axis=1) == labels))


def seconds(network: Callable[[np.ndarray], np.ndarray], images: np.ndarray, repeats: int = 10) -> float:
    """Shortest time that one run takes."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        network(images)
        times.append(time.perf_counter() - start)
    return min(times)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Recognise digits with batch norms, and with them folded.")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="npz file (default: %(default)s)")
    args = parser.parse_args(arguments)
    try:
        network = load_network(args.weights)
    except (OSError, ValueError, KeyError) as error:
        parser.error(f"cannot use the weights: {error}")

    _, (images, labels) = load_data()
    forms: dict[str, Callable[[np.ndarray], np.ndarray]] = {"batch norms": network, "folded": network.fold()}
    scores = {name: form(images) for name, form in forms.items()}
    print(f"{len(images)} held-out images of {len(images[0])}x{len(images[0, 0])} pixels")
    print(f"{'':16}{'accuracy':>10}{'us/image':>10}")
    for name, form in forms.items():
        time_each = 1e6 * seconds(form, images) / len(images)
        print(f"{name:16}{accuracy(scores[name], labels):10.2%}{time_each:10.1f}")

    unfolded, folded = scores.values()
    different = int(np.sum(unfolded.argmax(axis=1) != folded.argmax(axis=1)))
    print(f"Scores differ by {np.abs(unfolded - folded).max():.1e} at most; {different} predictions differ")
    worst = min(accuracy(score, labels) for score in scores.values())
    return 0 if different == 0 and worst >= LEAST_ACCURACY else 1


if __name__ == "__main__":
    sys.exit(main())
