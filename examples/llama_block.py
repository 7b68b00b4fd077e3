"""A decoder as in Llama, in NumPy and welnorm: each residual addition and the norm after it in one pass.

A layer is RMS norm, attention with rotary embeddings, residual addition, RMS norm, SwiGLU, residual addition.
All residual additions are followed by a norm, the last one by that of the output, so they go together:

    y, _ = wn.add_rms_norm(y, residual, weight, out=y, sum_out=residual)

updates the residual stream in place and normalises it while it is in cache. The same in two steps is

    residual += y
    wn.rms_norm(residual, weight, out=y)

and must give the same bits. The weights are random; the structure is that of Llama 2.

    python llama_block.py
    python llama_block.py --layers 8 --dim 1024 --tokens 512
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import welnorm as wn

HEAD = 64  # features of an attention head
ROTARY_BASE = 10_000.0
SEED = 2023

# (y, residual, weight): adds y to the residual stream, in place, and replaces y by its norm.
AddNorm = Callable[[np.ndarray, np.ndarray, np.ndarray], None]


def one_pass(y: np.ndarray, residual: np.ndarray, weight: np.ndarray) -> None:
    """Add and normalise in one pass over memory."""
    wn.add_rms_norm(y, residual, weight, out=y, sum_out=residual)


def two_steps(y: np.ndarray, residual: np.ndarray, weight: np.ndarray) -> None:
    """Add, then normalise."""
    residual += y
    wn.rms_norm(residual, weight, out=y)


def rotary_angles(tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines, (tokens, HEAD / 2), of J. Su et al., "RoFormer", 2021, arXiv:2104.09864."""
    frequencies = ROTARY_BASE ** -(np.arange(0, HEAD, 2) / HEAD)
    angles = np.outer(np.arange(tokens), frequencies)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Turn each pair of features of (..., tokens, HEAD), the second in the other half, by its angle."""
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def softmax(x: np.ndarray) -> None:
    """Replace x by its softmax over the last axis."""
    x -= x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)


def silu(x: np.ndarray) -> np.ndarray:
    """``x * sigmoid(x)``."""
    return x * (0.5 * np.tanh(0.5 * x) + 0.5)  # does not overflow, as exp(-x) would


class Layer:
    """Attention and SwiGLU, each with the weight of the norm before it."""

    def __init__(self, dim: int, rng: np.random.Generator) -> None:
        def matrix(inputs: int, outputs: int) -> np.ndarray:
            return rng.standard_normal((inputs, outputs), dtype=np.float32) * np.float32(inputs**-0.5)

        def norm_weight() -> np.ndarray:
            return 1 + rng.standard_normal(dim, dtype=np.float32) / 10

        self.dim = dim
        self.hidden = 8 * dim // 3  # three matrices of this size have as many weights as two of 4 * dim
        self.attention_norm, self.mlp_norm = norm_weight(), norm_weight()
        self.query_key_value, self.attention_out = matrix(dim, 3 * dim), matrix(dim, dim)
        self.gate_up, self.down = matrix(dim, 2 * self.hidden), matrix(self.hidden, dim)

    def attention(self, y: np.ndarray, angles: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Causal self-attention of (tokens, dim)."""
        tokens = len(y)
        split = (y @ self.query_key_value).reshape(tokens, 3, self.dim // HEAD, HEAD)
        query, key, value = split.transpose(1, 2, 0, 3)
        scores = rotate(query, *angles) @ rotate(key, *angles).swapaxes(-1, -2)
        scores *= np.float32(HEAD**-0.5)
        scores[:, ~np.tri(tokens, dtype=bool)] = -np.inf
        softmax(scores)
        return (scores @ value).swapaxes(0, 1).reshape(tokens, self.dim) @ self.attention_out

    def mlp(self, y: np.ndarray) -> np.ndarray:
        """SwiGLU of (tokens, dim): N. Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202."""
        gate, up = np.split(y @ self.gate_up, 2, axis=-1)
        return (silu(gate) * up) @ self.down


class Decoder:
    """Layers, and the norm after the last one."""

    def __init__(self, layers: int, dim: int, rng: np.random.Generator) -> None:
        self.layers = [Layer(dim, rng) for _ in range(layers)]
        self.output_norm = 1 + rng.standard_normal(dim, dtype=np.float32) / 10

    def __call__(self, embeddings: np.ndarray, add_norm: AddNorm) -> tuple[np.ndarray, np.ndarray, float]:
        """Run (tokens, dim) through all layers.

        Returns
        -------
        output, residual : ndarray
            The norm of the residual stream after the last layer, and the stream itself.
        seconds : float
            Time spent in `add_norm`.
        """
        angles = rotary_angles(len(embeddings))
        # What follows a layer is the norm of the next one.
        following = [layer.attention_norm for layer in self.layers[1:]] + [self.output_norm]
        seconds = 0.0

        def timed(y: np.ndarray, weight: np.ndarray) -> np.ndarray:
            nonlocal seconds
            start = time.perf_counter()
            add_norm(y, residual, weight)
            seconds += time.perf_counter() - start
            return y

        residual = embeddings.copy()
        y = wn.rms_norm(residual, self.layers[0].attention_norm)
        for layer, next_norm in zip(self.layers, following, strict=True):
            y = timed(layer.attention(y, angles), layer.mlp_norm)
            y = timed(layer.mlp(y), next_norm)
        return y, residual, seconds


def different_bits(a: np.ndarray, b: np.ndarray) -> int:
    """How many float32 elements differ, -0 from 0 as well."""
    return int(np.sum(a.view(np.uint32) != b.view(np.uint32)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="A decoder as in Llama, with residual sum and norm in one.")
    parser.add_argument("--layers", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--dim", type=int, default=256, help=f"a multiple of {HEAD} (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="runs that are timed (default: %(default)s)")
    args = parser.parse_args(arguments)
    for name, value in vars(args).items():
        if value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    if args.dim % HEAD:
        parser.error(f"--dim must be a multiple of {HEAD}, got {args.dim}")

    rng = np.random.default_rng(SEED)
    decoder = Decoder(args.layers, args.dim, rng)
    embeddings = rng.standard_normal((args.tokens, args.dim), dtype=np.float32)

    forms: dict[str, AddNorm] = {"add_rms_norm": one_pass, "add, then rms_norm": two_steps}
    results = {name: decoder(embeddings, form)[:2] for name, form in forms.items()}  # warms up, too
    best = dict.fromkeys(forms, (float("inf"), float("inf")))
    for _ in range(args.repeats):
        for name, form in forms.items():  # in turn, so that both have the same conditions
            start = time.perf_counter()
            *_, in_norms = decoder(embeddings, form)
            total = time.perf_counter() - start
            best[name] = (min(best[name][0], total), min(best[name][1], in_norms))

    print(f"{args.layers} layers of dim {args.dim}, {args.tokens} tokens")
    print(f"us/token, best of {args.repeats} runs:")
    print(f"{'':20}{'all':>10}{'add, norm':>12}")
    for name, (total, in_norms) in best.items():
        print(f"{name:20}{1e6 * total / args.tokens:10.2f}{1e6 * in_norms / args.tokens:12.3f}")

    (output, residual), (expected_output, expected_residual) = results.values()
    of_output = different_bits(output, expected_output)
    of_residual = different_bits(residual, expected_residual)
    print(f"Elements with other bits: {of_output} of the output, {of_residual} of the residual stream")
    return 0 if of_output == of_residual == 0 and np.all(np.isfinite(output)) else 1


if __name__ == "__main__":
    sys.exit(main())
