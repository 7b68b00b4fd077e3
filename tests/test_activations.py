"""relu, silu, gelu and gelu_tanh in the same pass as any norm: values, rounding, far tails, every route."""

import functools
import itertools
import math

import numpy as np
import pytest
import welnorm as wn
from cases import (
    BATCH,
    DTYPES,
    ENGINES,
    NARROW,
    NORMS,
    WIDE,
    compute_type,
    finfo,
    is_rounded,
    name_of,
    rounded_once,
    same_bytes,
    ulp_of,
)
from test_fused import SHAPE, problem

EVERY_NORM = pytest.mark.parametrize("norm", NORMS, ids=name_of)
ALONG = {"last": -1, "middle": 1, "apart": (0, -1), "trailing": (-2, -1)}
EVERY_AXIS = pytest.mark.parametrize("axis", ALONG.values(), ids=ALONG)


def erfc(values):
    """math.erfc, for each: float64 to its last digits at any size."""
    return np.vectorize(math.erfc, otypes=[np.float64])(values)


def gelu_tanh(y):
    return y / (1.0 + np.exp(-2.0 * math.sqrt(2.0 / math.pi) * (y + 0.044715 * y * y * y)))


EXACT = {
    "relu": lambda y: np.where(y < 0, 0, y),
    "silu": lambda y: y / (1.0 + np.exp(-y)),
    "gelu": lambda y: y * 0.5 * erfc(y * -math.sqrt(0.5)),
    "gelu_tanh": gelu_tanh,
}
EVERY_ACTIVATION = pytest.mark.parametrize("activation", EXACT)


def exact_activation(name, y):
    """The activation of exactly these numbers, in float64 or long double."""
    with np.errstate(over="ignore", under="ignore"):
        return EXACT[name](y if name == "gelu" else y.astype(np.longdouble))


def activate(values, name):
    """The activation of exactly these numbers: each is the bias of a slice whose x_hat is 0."""
    values = np.asarray(values)
    return wn.layer_norm(np.zeros((2, values.size), values.dtype), bias=values, activation=name)[1]


@functools.cache
def numbers_to_activate(dtype):
    """All sizes and both signs, densely where the functions bend; the ends of the range."""
    generator = np.random.default_rng(5)
    info = finfo(dtype)
    ends = [0.0, -0.0, float(info.max), -float(info.max), float(info.smallest_subnormal)]
    wide = generator.choice([-1, 1], 4000) * np.exp(generator.uniform(math.log(1e-30), math.log(1e4), 4000))
    return np.concatenate([ends, np.linspace(-20, 20, 4001), np.linspace(-120, 120, 2001), wide]).astype(
        dtype
    )


def tail(activation, values):
    """What the rounding of an argument comes to in the left tail, in units of the result.

    There gelu is erfc(z), which magnifies an error of z by 2 z**2, and gelu_tanh the exp of a cubic.
    """
    size = np.clip(-np.float64(values), 0, 1e3)
    return {"relu": 0 * size, "silu": 0 * size, "gelu": 2 * size**2, "gelu_tanh": size**3 + 3 * size}[
        activation
    ]


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("engine", ENGINES, indirect=True)
@EVERY_ACTIVATION
def test_activation(activation, dtype, engine):
    """Within 4 ULP of the exact value, but for the tail: 2 of exp and erf, half of each operation about them.

    Results below the smallest normal number may be 0.
    """
    values = numbers_to_activate(dtype)
    y = activate(values, activation)
    exact = exact_activation(activation, values.astype(np.float64))
    budget = 4 + tail(activation, values)
    below = float(finfo(dtype).smallest_normal)
    errors = np.maximum(np.abs(y - exact) - below, 0) / ulp_of(exact, dtype)
    worst = (errors / budget).argmax()
    assert errors[worst] <= budget[worst], (values[worst], y[worst], exact[worst])


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
@pytest.mark.parametrize("dtype", NARROW)
@EVERY_ACTIVATION
def test_activation_of_16_bits_is_rounded_once(activation, dtype, engine):
    values = numbers_to_activate(np.float32)
    values = values[np.abs(values) < 6e4].astype(dtype)
    x = np.zeros((2, values.size), dtype)
    wide = wn.layer_norm(x, bias=values, activation=activation, dtype=np.float32)
    assert same_bytes(wide[1], activate(values.astype(np.float32), activation))
    assert same_bytes(activate(values, activation), rounded_once(wide[1], dtype))


@EVERY_ACTIVATION
def test_activation_far_out(activation, dtype, engine):
    """Finite wherever the exact value is; where exp or erfc leave the range, too."""
    largest = float(finfo(dtype).max)
    far = [
        v
        for v in (40, 88, 88.8, 89, 104, 120, 700, 710, 745, 1e4, 1e15, 1e19, 1e30, 1e154, 1e300)
        if v < largest
    ]
    far = np.array([*far, largest], dtype)
    assert same_bytes(activate(far, activation), far)
    below = activate(-far, activation)
    exact = exact_activation(activation, np.float64(-far))
    limit = 2 * ulp_of(exact, dtype) + np.abs(exact) * 2.0**-40
    limit += float(finfo(compute_type(dtype)).smallest_normal)
    assert np.all(np.isfinite(below))
    assert np.all(np.abs(np.float64(below) - exact) <= limit)
    assert np.all(below <= 0)
    if activation == "relu":
        assert not np.any(below)


@EVERY_ACTIVATION
def test_activation_of_what_is_not_finite(activation, dtype, engine):
    """NaN stays NaN; inf stays inf; of -inf the limit is 0."""
    bias = np.array([np.nan, np.inf, 1.0, -np.inf], dtype)
    x, weight = np.zeros((3, 4), dtype), np.ones(4, dtype)
    y = np.float64(wn.layer_norm(x, weight, bias, activation=activation))
    assert np.all(np.isnan(y[:, 0]))
    assert np.all(y[:, 1] == np.inf)
    assert np.all(np.isfinite(y[:, 2]))
    if activation == "relu":
        assert np.all(y[:, 3] == 0)
    nan = np.array([[1, np.nan, 2, 3], [1, 2, 3, 5]], dtype)
    spoilt = wn.layer_norm(nan, activation=activation)
    assert np.all(np.isnan(spoilt[0]))
    assert not np.any(np.isnan(spoilt[1]))


@EVERY_ACTIVATION
@EVERY_NORM
def test_activation_after_any_norm(norm, activation, dtype, backend):
    """The same function of the same number in every route: y of the norm alone, then the activation."""
    x, weight, bias = problem(norm, dtype)
    compute = compute_type(dtype)
    for pair in itertools.product((None, weight), (None, bias)):
        plain = norm(x, *pair, dtype=compute)
        expected = activate(plain.reshape(-1), activation).reshape(SHAPE)
        y = norm(x, *pair, activation=activation)
        if backend != "c":  # the others do not round in between
            difference = np.abs(np.float64(y) - np.float64(expected))
            size = np.maximum(np.abs(plain), 1) * (1.0 + np.abs(plain))
            assert np.all(difference <= 2 * float(finfo(dtype).eps) * size)
        else:
            assert same_bytes(y, rounded_once(expected, dtype))
        assert same_bytes(norm(x, *pair, activation=activation, out=x.copy()), y)
        for other in DTYPES:
            wide = norm(x, *pair, activation=activation, dtype=compute)
            narrow = norm(x, *pair, activation=activation, dtype=other)
            assert (narrow.dtype, is_rounded(narrow, wide)) == (other, True)
    assert same_bytes(norm(x, activation=None), norm(x))


@EVERY_ACTIVATION
def test_activation_in_inference(activation, dtype, backend):
    x, weight, bias = problem(BATCH, dtype)
    mean, var = np.linspace(-1, 1, 6), np.linspace(0.5, 2, 6)
    y = wn.batch_norm(x, mean, var, weight, bias, activation=activation)
    plain = wn.batch_norm(x, mean, var, weight, bias, dtype=compute_type(dtype))
    expected = np.float64(exact_activation(activation, np.float64(plain)))
    limit = 4 * float(finfo(dtype).eps) * (1 + np.abs(plain)) * np.maximum(np.abs(plain), 1)
    assert np.all(np.abs(np.float64(y) - expected) <= limit)
