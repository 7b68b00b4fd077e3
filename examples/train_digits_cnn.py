"""Train the network of `digits_cnn.py`, in NumPy and welnorm: forward and backward pass, Adam, precise BN.

The forward pass is `welnorm.BatchNorm` in training mode, the backward pass is written out below; what it
needs of the batch's statistics is `welnorm.mean_var`. After the last step the running statistics are made
again, as the plain average over batches of the final weights (Y. Wu, J. Johnson, "Rethinking 'Batch' in
BatchNorm", 2021, arXiv:2105.07576).

The seed is fixed. Another machine or another NumPy may still round matrix products differently, and so end
with slightly other weights.

    pip install scikit-learn

    python train_digits_cnn.py            # writes digits_cnn.npz and digits_cnn_training.log
    python train_digits_cnn.py --epochs 10 --output quick.npz
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import welnorm as wn
from digits_cnn import (
    CELL,
    LEAST_ACCURACY,
    WEIGHTS,
    Digits,
    Network,
    accuracy,
    convolve,
    load_data,
    patches,
    pool,
)

SEED = 2015
BATCH_SIZE = 64
LEARNING_RATE = 5e-3  # of the first step; the last one's is 0, along a cosine
WEIGHT_DECAY = 1e-2  # of convolutions and linear layer


def initialize(network: Network, rng: np.random.Generator) -> None:
    """Random weights of variance 2 / inputs (K. He et al., "Delving Deep into Rectifiers", 2015)."""
    for weight in (*network.convolutions, network.weight):
        inputs = weight[..., 0].size
        weight[...] = rng.standard_normal(weight.shape) * np.sqrt(2 / inputs)


def relu_norm_backward(
    grad: np.ndarray, y: np.ndarray, z: np.ndarray, norm: wn.BatchNorm
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gradients with respect to z, weight and bias, of ``y = relu(norm(z))`` with batch statistics."""
    grad = grad * (y > 0)
    over = tuple(range(z.ndim - 1))
    mean, var = wn.mean_var(z, over)
    scale = 1 / np.sqrt(var + norm.eps)
    normalized = (z - mean) * scale
    of_bias = grad.sum(axis=over)
    of_weight = (grad * normalized).sum(axis=over)
    count = z.size // z.shape[-1]
    # Mean and variance depend on z too: what is left of grad is its part across (1, normalized).
    of_z = (norm.weight * scale) * (grad - (of_bias + normalized * of_weight) / count)
    return of_z, of_weight, of_bias


def loss_and_gradients(network: Network, batch: Digits) -> tuple[float, dict[str, np.ndarray]]:
    """Cross entropy of a batch and its gradients, by the names of `Network.parameters`.

    The norms must be in training mode; their running statistics take the batch in.
    """
    layers = list(zip(network.convolutions, network.norms, strict=True))
    x = batch.images
    stages = []
    for weight, norm in layers:
        z = convolve(x, weight)
        y = norm(z)
        np.maximum(y, 0, out=y)
        stages.append((x, z, y))
        x = y
    features = pool(x)
    scores = features @ network.weight + network.bias

    scores -= scores.max(axis=1, keepdims=True)
    log_likelihood = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    rows = np.arange(len(x))
    loss = -float(log_likelihood[rows, batch.labels].mean())

    of_scores = np.exp(log_likelihood)
    of_scores[rows, batch.labels] -= 1
    of_scores /= len(x)
    gradients = {"linear.weight": features.T @ of_scores, "linear.bias": of_scores.sum(axis=0)}
    n, height, width, channels = x.shape
    of_cells = (of_scores @ network.weight.T).reshape(n, height // CELL, width // CELL, channels) / CELL**2
    grad = of_cells.repeat(CELL, axis=1).repeat(CELL, axis=2)
    for number, (weight, norm), (x, z, y) in zip((2, 1), layers[::-1], stages[::-1], strict=True):
        grad, of_weight, of_bias = relu_norm_backward(grad, y, z, norm)
        gradients[f"norm{number}.weight"] = of_weight
        gradients[f"norm{number}.bias"] = of_bias
        of_convolution = patches(x).T @ grad.reshape(-1, grad.shape[-1])
        gradients[f"conv{number}.weight"] = of_convolution.reshape(weight.shape)
        if number > 1:  # the images need no gradient
            grad = convolve(grad, weight[::-1, ::-1].swapaxes(2, 3))
    return loss, gradients


class Adam:
    """Adam with decoupled weight decay, for arrays that it changes in place.

    D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015, arXiv:1412.6980;
    I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101.
    """

    def __init__(self, parameters: dict[str, np.ndarray], beta1: float = 0.9, beta2: float = 0.999) -> None:
        self.parameters = parameters
        self.beta1, self.beta2 = beta1, beta2
        self.first = {name: np.zeros_like(array) for name, array in parameters.items()}
        self.second = {name: np.zeros_like(array) for name, array in parameters.items()}
        self.steps = 0

    def step(self, gradients: dict[str, np.ndarray], rate: float) -> None:
        """Take one step."""
        self.steps += 1
        for name, parameter in self.parameters.items():
            gradient, first, second = gradients[name], self.first[name], self.second[name]
            first += (1 - self.beta1) * (gradient - first)
            second += (1 - self.beta2) * (gradient**2 - second)
            unbiased = np.sqrt(second / (1 - self.beta2**self.steps)) + 1e-8
            if parameter.ndim > 1:
                parameter *= 1 - rate * WEIGHT_DECAY
            parameter -= rate / (1 - self.beta1**self.steps) * first / unbiased


def batches(data: Digits, rng: np.random.Generator) -> Iterator[Digits]:
    """All of the data in random order, in batches whose sizes differ by one at most."""
    order = rng.permutation(len(data.images))
    for batch in np.array_split(order, len(order) // BATCH_SIZE):
        yield Digits(data.images[batch], data.labels[batch])


def recalibrate(network: Network, data: Digits, rng: np.random.Generator) -> None:
    """Precise batch norm: running statistics from one loop over the data with the final weights."""
    for norm in network.norms:
        norm.momentum = None  # the average over all batches, each with the same weight
        norm.num_batches_tracked[...] = 0
        norm.train()
    for batch in batches(data, rng):
        x = batch.images
        for weight, norm in zip(network.convolutions, network.norms, strict=True):
            x = np.maximum(norm(convolve(x, weight)), 0)
    for norm in network.norms:
        norm.eval()


def train(data: Digits, held_out: Digits, epochs: int, report: Callable[[str], None]) -> Network:
    """Train a network and report each epoch; the held-out part has no say in anything."""
    rng = np.random.default_rng(SEED)
    network = Network()
    initialize(network, rng)
    for norm in network.norms:
        norm.train()
    optimizer = Adam(network.parameters())
    steps = epochs * (len(data.images) // BATCH_SIZE)
    report(f"{'epoch':>5}{'loss':>10}{'training':>10}{'held out':>10}")
    for epoch in range(1, epochs + 1):
        losses = []
        for batch in batches(data, rng):
            loss, gradients = loss_and_gradients(network, batch)
            optimizer.step(gradients, LEARNING_RATE * (1 + np.cos(np.pi * optimizer.steps / steps)) / 2)
            losses.append(loss)
        report(f"{epoch:5}{np.mean(losses):10.4f}{shares(network, data, held_out)}")
    recalibrate(network, data, rng)
    report(f"{'precise BN':15}{shares(network, data, held_out)}")
    return network


def shares(network: Network, data: Digits, held_out: Digits) -> str:
    """Format the accuracy on both parts of the data, by running statistics."""
    return "".join(f"{accuracy(network(images), labels):10.2%}" for images, labels in (data, held_out))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the network of digits_cnn.py.")
    parser.add_argument("--epochs", type=int, default=30, help="times over the data (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=WEIGHTS, help="npz file (default: %(default)s)")
    args = parser.parse_args(arguments)
    if args.epochs < 1:
        parser.error(f"--epochs must be at least 1, got {args.epochs}")
    if args.output.suffix != ".npz":
        parser.error(f"--output must end in .npz, got {args.output}")

    lines: list[str] = []

    def report(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    start = time.perf_counter()
    data, held_out = load_data()
    report(f"welnorm {wn.__version__} ({wn.get_backend()}), NumPy {np.__version__}, seed {SEED}")
    report(f"{len(data.images)} images to train with, {len(held_out.images)} held out")
    network = train(data, held_out, args.epochs, report)
    result = accuracy(network(held_out.images), held_out.labels)
    np.savez(args.output, **network.state_dict())
    size = args.output.stat().st_size
    report(f"{time.perf_counter() - start:.0f} s; {size} bytes written to {args.output.name}")
    log = args.output.with_name(f"{args.output.stem}_training.log")
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0 if result >= LEAST_ACCURACY else 1


if __name__ == "__main__":
    sys.exit(main())
