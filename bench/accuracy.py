"""Accuracy of layer norm at any offset of the data, and of mean and variance on the NIST StRD sets.

    python bench/accuracy.py

prints, for welnorm and whatever rivals are installed, the largest error of float32 layer norm in ULP of
max(|y|, 2**-7) (the measure of promise N1 in docs/numerics.md) over rows of many lengths, and the error of
float64 mean and variance in ULP of the exact value of the rounded inputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import welnorm as wn

OFFSETS = (0.0, 1.0, 1e2, 1e4, 1e6)
LENGTHS = (*range(1, 65), 100, 128, 255, 384, 768, 1023, 4096, 4097, 2**14, 2**17, 2**20)
NIST = Path(__file__).parent.parent / "tests" / "data" / "nist_strd_univariate.json"

Implementation = Callable[[np.ndarray], np.ndarray]


def exact_layer_norm(x: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Layer norm of float32 rows in extended precision: 11 bits more than float64, 40 more than float32."""
    wide = x.astype(np.longdouble)
    mean = wide.mean(axis=-1, keepdims=True)
    deviation = wide - mean
    mean = deviation.mean(axis=-1, keepdims=True)
    deviation -= mean
    var = (deviation * deviation).mean(axis=-1, keepdims=True)
    return deviation / np.sqrt(var + np.longdouble(eps))


def numpy_layer_norm(x: np.ndarray) -> np.ndarray:
    """Layer norm as one writes it in NumPy, in the data's dtype."""
    mean = x.mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(x.var(axis=-1, keepdims=True) + x.dtype.type(1e-5))


def implementations() -> dict[str, Implementation]:
    """Name and function of each implementation that is installed."""
    found: dict[str, Implementation] = {}
    for backend in wn.available_backends():

        def run(x: np.ndarray, backend: str = backend) -> np.ndarray:
            with wn.backend(backend):
                return wn.layer_norm(x)

        found[f"welnorm {backend}"] = run
    found["NumPy float32"] = numpy_layer_norm
    try:
        import torch
    except ImportError:
        pass
    else:
        found[f"PyTorch {torch.__version__}"] = lambda x: torch.nn.functional.layer_norm(
            torch.from_numpy(x), x.shape[-1:]
        ).numpy()
    return found


def worst_ulp(run: Implementation, offset: float) -> float:
    """The largest error in ULP over rows of all lengths."""
    worst = 0.0
    for length in LENGTHS:
        rows = max(1, min(2000, 2**17 // length))
        rng = np.random.default_rng(length)
        x = rng.standard_normal((rows, length), dtype=np.float32) + np.float32(offset)
        exact = exact_layer_norm(x)
        ulp = np.spacing(np.maximum(np.abs(exact), 2.0**-7).astype(np.float32))
        worst = max(worst, float(np.max(np.abs(run(x) - exact) / ulp)))
    return worst


def nist_errors() -> dict[str, list[float]]:
    """ULP errors of mean and variance for each NIST set: welnorm's two, then NumPy's two."""
    errors = {}
    for name, dataset in json.loads(NIST.read_text())["sets"].items():
        x = np.array(dataset["values"], dtype=np.float64)
        values = [Fraction(value) for value in x.tolist()]
        mean = sum(values) / len(values)
        var = sum((value - mean) ** 2 for value in values) / len(values)
        got = [*map(float, wn.mean_var(x)), float(x.mean()), float(x.var())]
        errors[name] = [
            float(abs((Fraction(value) - exact) / Fraction(float(np.spacing(float(exact))))))
            for value, exact in zip(got, (mean, var, mean, var), strict=True)
        ]
    return errors


def main() -> None:
    print("float32 layer norm, largest error in ULP of max(|y|, 2**-7), rows of 1 to 2**20 elements")
    print(f"{'mean / std':24}" + "".join(f"{offset:>12g}" for offset in OFFSETS))
    for name, run in implementations().items():
        print(f"{name:24}" + "".join(f"{worst_ulp(run, offset):12.3g}" for offset in OFFSETS), flush=True)
    print("\nfloat64 mean and variance on the NIST StRD sets, error in ULP of the exact value")
    print(f"{'set':12}{'mean':>10}{'var':>10}{'np.mean':>12}{'np.var':>10}")
    for name, errors in nist_errors().items():
        print(f"{name:12}{errors[0]:10.2f}{errors[1]:10.2f}{errors[2]:12.2f}{errors[3]:10.2f}")


if __name__ == "__main__":
    main()
