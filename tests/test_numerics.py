"""The promises N1 to N6 on accuracy and range, and what went wrong elsewhere."""

import functools
import itertools
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import welnorm as wn
from cases import (
    BATCH,
    BATCH_BLOCKED,
    BATCH_LAST,
    ENGINES,
    GROUP,
    GROUP_LAST,
    INSTANCE,
    INSTANCE_LAST,
    LAYER,
    LAYER_MIDDLE,
    NARROW,
    RMS,
    RMS_MIDDLE,
    WIDE,
    assert_precise,
    exact_affine,
    exact_norm,
    finfo,
    name_of,
    random_data,
    rational_moments,
    rational_norm,
    rounded_once,
    same_bytes,
)
from ml_dtypes import bfloat16

DATA = Path(__file__).parent / "data"
NIST = json.loads((DATA / "nist_strd_univariate.json").read_text(encoding="utf-8"))["sets"]
EVERY_ENGINE = pytest.mark.parametrize("engine", ENGINES, indirect=True)


# The norms by the way their statistics run, and how rows, the slices to normalise, are laid out for each.
def in_groups(rows):
    """Two groups a sample, each with the sample's row: in one channel, or in two."""
    channels = 1 if rows.shape[1] % 2 else 2
    return np.stack([rows, rows], axis=1).reshape(len(rows), 2 * channels, -1)


def in_blocks(rows):
    """A channel for each row, in blocks of two; the last row once more where they are odd."""
    pairs = np.concatenate([rows, rows[len(rows) - len(rows) % 2 :]]).reshape(-1, 2, rows.shape[1])
    return np.stack([pairs.swapaxes(1, 2)] * 2)


LAY = {
    LAYER: np.ascontiguousarray,
    BATCH: lambda rows: np.stack([rows, rows]),
    BATCH_LAST: lambda rows: np.tile(rows.T, (1 + (rows.shape[1] == 1), 1)),
    LAYER_MIDDLE: lambda rows: rows.T.copy()[None],
    BATCH_BLOCKED: in_blocks,
    GROUP: in_groups,
    GROUP_LAST: lambda rows: np.ascontiguousarray(np.moveaxis(in_groups(rows), 1, -1)),
    INSTANCE: lambda rows: np.stack([rows, rows], axis=1),
    INSTANCE_LAST: lambda rows: np.stack([rows, rows], axis=2),
}
CENTRED = pytest.mark.parametrize("norm", list(LAY), ids=name_of)
LAY |= {RMS: LAY[LAYER], RMS_MIDDLE: LAY[LAYER_MIDDLE]}
PATTERNS = pytest.mark.parametrize("norm", list(LAY), ids=name_of)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
@pytest.mark.parametrize("n", [1, 2, 9, 200])
def test_the_judge_is_right(n, offset, dtype):
    """The long double reference agrees with exact rationals far below any budget."""
    x = random_data(n, (n,), dtype, offset)
    exact, _ = exact_norm(LAYER, x)
    for value, rational in zip(exact, rational_norm(x, 1e-5), strict=True):
        error = abs(Fraction(*value.as_integer_ratio()) - rational)
        assert error <= max(abs(rational), 1) * Fraction(1, 2**60)


# ---- N1: y of float32


LENGTHS = {
    "1 to 70": range(1, 71),
    "powers of 2": [2**k + d for k in range(7, 16) for d in (-1, 0, 1)],
    "2^17": [2**17 - 1, 2**17 + 1],
    "2^20": [2**20],
    "few": [127, 128, 129, 1023, 1025, 4097, 16385],
}
# The ways that statistics run in full; the rest are the same kernels on other axes.
N1_CASES = [
    (norm, lengths, offset)
    for norm, lengths, offset in itertools.product(LAY, LENGTHS, [0.0, 1.0, 1e2, 1e4, 1e6])
    if (norm in (LAYER, BATCH_LAST) and lengths != "few")
    or (norm in (LAYER_MIDDLE, BATCH) and lengths != "few" and (lengths != "2^20" or offset in (0.0, 1e6)))
    or (norm is RMS and offset == 1e4 and lengths != "few")
    or (offset == 1e6 and lengths in ("1 to 70", "few"))
]


def parameters(kind, x, norm):
    """No weight and bias, ordinary ones, a bias that cancels weight * x_hat of one slice, huge ones."""
    if kind == "none":
        return None, None
    weight, bias = (random_data((1, n), norm.affine_shape(x.shape), np.float32, 0.5) for n in range(2))
    if kind == "cancelling":
        x_hat = norm(x.astype(np.float64)).reshape(norm.split(x.shape))
        affine = norm.affine(x.shape)
        x_hat = np.moveaxis(x_hat, affine, range(len(affine)))[(..., *[0] * (x_hat.ndim - len(affine)))]
        bias = (-weight * x_hat.reshape(weight.shape)).astype(np.float32)
    if kind == "huge":
        weight, bias = weight * np.float32(1e36), bias * np.float32(1e36)
    return weight, bias


@functools.lru_cache(maxsize=1)
def n1_problems(norm, lengths, offset):
    """Problems and their exact results; the engines take turns while these are at hand."""
    problems = []
    for n, kind in itertools.product(LENGTHS[lengths], ["none", "ordinary", "cancelling", "huge"]):
        if n <= 1025 or kind == "ordinary":
            x = LAY[norm](random_data(n, (3 if n <= 1025 else 2, n), np.float32, offset))
            pair = parameters(kind, x, norm)
            problems.append((x, pair, exact_norm(norm, x, *pair)))
    return problems


@EVERY_ENGINE
@pytest.mark.parametrize(("norm", "lengths", "offset"), N1_CASES, ids=name_of)
def test_n1_float32(norm, lengths, offset, engine):
    for x, pair, exact in n1_problems(norm, lengths, offset):
        assert_precise(norm(x, *pair), *exact)


LIKE_SQUARES = {
    "one magnitude": lambda rng, n: np.tile(rng.uniform(1, 2, (16, 1)), n),
    "two magnitudes": lambda rng, n: np.take_along_axis(
        rng.uniform(1, 3, (16, 2)), rng.integers(0, 2, (16, n)), 1
    ),
    "growing": lambda rng, n: np.linspace(0.01, 1, n) * rng.uniform(1, 2, (16, 1)),
    "shrinking": lambda rng, n: np.geomspace(1, 1e-6, n) * rng.uniform(1, 2, (16, 1)),
}


@EVERY_ENGINE
@pytest.mark.parametrize("rows", LIKE_SQUARES)
def test_n1_squares_that_round_alike(rows, engine):
    """Of RMS norm: where the squares of a lane all round to one side, nothing averages out."""
    for n in (1, 63, 64, 575, 576, 768, 4096, 4099):
        x = LIKE_SQUARES[rows](np.random.default_rng(n), n).astype(np.float32)
        x[:, ::3] *= -1
        assert_precise(RMS(x), *exact_norm(RMS, x))


# ---- N2: y of float16 and bfloat16


@EVERY_ENGINE
@pytest.mark.parametrize("activation", [None, "relu", "silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e3])
@pytest.mark.parametrize("dtype", NARROW)
@PATTERNS
def test_n2_rounded_once(norm, dtype, offset, activation, engine):
    """The float32 result, which is held to N1 elsewhere, as the narrow type has it: bit for bit."""
    for n in (1, 2, 9, 33, 130, 4099) if activation is None else (33, 130):
        x = LAY[norm](random_data(n, (3, n), dtype, offset))
        for kind in ("none", "ordinary", "huge"):
            pair = parameters(kind, x, norm)
            wide = norm(x.astype(np.float32), *pair, activation=activation)
            assert same_bytes(norm(x, *pair, activation=activation), rounded_once(wide, dtype)), (n, kind)


# ---- N3 and N4: mean and variance


ROWS = {
    "offset 0": lambda n: random_data(n, n, np.float32),
    "offset 1": lambda n: random_data(n, n, np.float32, 1.0),
    "offset 1e4": lambda n: random_data(n, n, np.float32, 1e4),
    "offset 1e6": lambda n: random_data(n, n, np.float32, 1e6),
    "uniform": lambda n: np.random.default_rng(n).random(n, np.float32),
    "hardly spread": lambda n: random_data(n, n, np.float32, 100, 1e-5),
    "all exponents": lambda n: np.ldexp(random_data(n, n, np.float32), np.arange(n) * 37 % 101 - 50),
    "ramp": lambda n: np.arange(n, dtype=np.float32) + 3e5,
    "outlier first": lambda n: np.float32([1e9] + [0.1, 0.2] * n)[:n],
    "outlier last": lambda n: np.float32([0.1, 0.2] * n + [-1e9])[-n:],
    "subnormal": lambda n: random_data(n, n, np.float32, 1.0) * np.float32(1e-41),
    "mean cancels": lambda n: np.float32([(-1) ** i * (1 + i // 2) + 2.0**-8 for i in range(n)]),
}  # fmt: skip


def ulps(value, exact):
    """How far value is from an exact fraction rounded to its dtype, in units in the last place of that."""
    rounded = value.dtype.type(float(exact))
    return abs(Fraction(float(value)) - Fraction(float(rounded))) / Fraction(float(np.spacing(abs(rounded))))


@functools.lru_cache
def row_with_moments(rows, n):
    row = ROWS[rows](n)
    return row, *rational_moments(row)


@EVERY_ENGINE
@pytest.mark.parametrize("rows", ROWS)
def test_n3_mean_and_var_of_float32(rows, engine):
    for n in (1, 2, 3, 5, 8, 17, 31, 33, 64, 127, 129, 700, 4096, 4099, 17000):
        row, exact_mean, exact_var = row_with_moments(rows, n)
        for axis in (0, 1):
            mean, var = wn.mean_var(np.stack([row] * 3, axis=1 - axis), axis)
            assert mean.dtype == var.dtype == np.float32
            assert ulps(mean[0], exact_mean) <= 1, (n, axis)
            assert ulps(var[0], exact_var) <= 1, (n, axis)
            assert np.all(var >= 0)


@EVERY_ENGINE
@pytest.mark.parametrize("rows", ["offset 0", "offset 1", "uniform", "hardly spread", "mean cancels"])
@pytest.mark.parametrize("dtype", NARROW)
def test_n3_mean_and_var_of_16_bits(rows, dtype, engine):
    for n in (1, 3, 8, 33, 129, 700, 4099):
        row = ROWS[rows](n).astype(dtype)
        exact = rational_moments(row)
        for axis in (0, 1):
            for value, rational in zip(
                wn.mean_var(np.stack([row] * 3, axis=1 - axis), axis), exact, strict=True
            ):
                assert value.dtype == dtype
                assert value[0] == rounded_once(np.float64(rational), dtype)


@EVERY_ENGINE
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", NIST)
def test_n4_nist(name, axis, engine):
    values = np.array(NIST[name]["values"])
    exact_mean, exact_var = rational_moments(values)
    exact_var *= Fraction(values.size, values.size - 1)
    x = np.stack([values] * 3, axis=1 - axis)
    mean, var = (value[0] for value in wn.mean_var(x, axis, ddof=1))
    error, numpys = ulps(var, exact_var), ulps(np.var(x, axis, ddof=1)[0], exact_var)
    certified = NIST[name]["certified_std_ddof1"]
    digits = -math.log10(max(abs(math.sqrt(var) - certified) / certified, 1e-15))
    report = f"{float(error):.2f} ULP, np.var {float(numpys):.2f}; {digits:.1f} certified digits of the std"
    assert ulps(mean, exact_mean) <= 2
    assert error <= 2, report


# ---- N5: y is finite, and right, wherever the exact y is finite


SCALES = {
    np.float32: (3e38, 1e30, 1.5e19, 1e-20, 1e-38, 1e-40, 3e-45),
    np.float64: (1.7e308, 1e200, 1e155, 1e-150, 1e-200, 1e-300, 1e-310, 2e-323),
    np.float16: (65504, 300, 1e-4, 1e-6, 3e-7),
    bfloat16: (3.3e38, 1e19, 1e-20, 1e-38, 1e-39, 5e-40),
}


@EVERY_ENGINE
@pytest.mark.parametrize("eps", [0.0, 1e-300, 1e-12])
@PATTERNS
def test_n5_range(norm, eps, dtype, engine):
    for scale, n in itertools.product(SCALES[dtype], (2, 7, 33, 4099)):
        rows = np.clip(random_data(n, (3, n), np.float64, 0.5, 0.5), -1, 1)
        rows[:, :2] = 1.0, 0.2  # no constant row: with eps=0 its exact y is NaN
        x = LAY[norm]((rows * scale).astype(dtype))
        assert_precise(norm(x, eps=eps), *exact_norm(norm, x, eps=eps))


@EVERY_ENGINE
@PATTERNS
def test_n5_largest_and_smallest(norm, dtype, engine):
    info = finfo(dtype)
    for a, b in ((info.max, -info.max), (info.max, 0), (info.max, 1), (info.smallest_subnormal, 0)):
        for n in (3, 8, 4099):
            x = LAY[norm](np.resize(np.array([a, b, a], dtype), (3, n)))
            assert_precise(norm(x, eps=0.0), *exact_norm(norm, x, eps=0.0))


@EVERY_ENGINE
@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 40)])
def test_n5_running_statistics(shape, dtype, engine):
    largest = float(finfo(dtype).max)
    small, smaller = (2.0**-20, 2.0**-30) if dtype is np.float16 else (2.0**-60, 2.0**-99)
    for x, mean, var in ((0.9, -0.9, 0.5), (-0.9, 0.9, small), (small, 0.0, smaller)):
        x, mean, var = (np.full(s, v * largest, dtype) for s, v in ((shape, x), (2, mean), (2, var)))
        y = wn.batch_norm(x, mean, var, eps=0.0)
        deviations = x - np.longdouble(mean[0])
        assert_precise(y, *exact_affine(deviations, np.longdouble(var[0]), (1,), eps=0.0))


# The portable table has no fused multiply-add: there weight * x_hat itself must be in range.
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "c-portable"], indirect=True)
@PATTERNS
def test_n5_bias_brings_the_product_back(norm, dtype, engine):
    """weight * x_hat is 1.7 times the largest number (2 times if not centred), and bias takes that off."""
    largest = float(finfo(dtype).max)
    x = LAY[norm](np.array([[0, 0, 0, 1]] * 2, dtype))
    weight, bias = (np.full(norm.affine_shape(x.shape), value, dtype) for value in (largest, -largest))
    y, (exact, size) = norm(x, weight, bias, eps=0.0), exact_norm(norm, x, weight, bias, eps=0.0)
    finite = np.abs(exact) <= largest
    assert np.count_nonzero(finite) == (x.size // 4 if norm.centred else x.size)
    assert_precise(y[finite], exact[finite], size[finite])


@pytest.mark.parametrize("norm", [LAYER, RMS, INSTANCE], ids=name_of)
@pytest.mark.parametrize("n", [7, 64, 300, 768, 1024, 2048])
def test_powers_of_two_cancel_without_eps(norm, n, rng, engine):
    """Rows of ordinary size are finished in other ways than those near the ends of the range."""
    exponents = np.arange(-94, 95)
    if norm is RMS:  # whose sums of squares are of float32 here, of float64 beyond
        exponents = exponents[np.abs(exponents) < 48]
    x = np.broadcast_to(np.float32(rng.uniform(-0.5, 1.5, n)), (1, exponents.size, n))
    weight, bias = np.float32(rng.normal(size=(2, exponents.size if norm is INSTANCE else n)))
    y = norm(np.ldexp(x, exponents[:, None]), weight, bias, eps=0.0)
    assert y.tobytes() == norm(x, weight, bias, eps=0.0).tobytes()


# ---- N6: constant rows


CONSTANTS = {
    np.float32: (0.0, -0.0, 0.1, 1 / 3, 1234.0, -1e6 - 0.3, 1e-45, -1e-40, 1e19, -3.4e38),
    np.float64: (0.0, -0.0, 0.1, 1 / 3, 1234.0, -1e6 - 0.3, 5e-324, -1e-300, 1e20, 1e155, -1.79e308),
    np.float16: (0.0, -0.0, 0.1, 1 / 3, 1234.0, -6e4, 6e-8, -1e-5),
    bfloat16: (0.0, -0.0, 0.1, 1 / 3, 1234.0, -1e6, 1e-40, -1e-38, 1e19, -3.3e38),
}


def broadcast_parameter(values, norm, x):
    """Parameters of a norm, broadcast to x's shape."""
    affine, whole = norm.affine(x.shape), norm.split(x.shape)
    shape = tuple(length if axis in affine else 1 for axis, length in enumerate(whole))
    return np.broadcast_to(values.reshape(shape), whole).reshape(x.shape)


@EVERY_ENGINE
@pytest.mark.parametrize("eps", [1e-5, 1e-12, 1e-300])
@CENTRED
def test_n6_constant_rows(norm, eps, dtype, engine):
    constants = np.array(CONSTANTS[dtype], dtype)
    for n in (*range(1, 20), 31, 33, 100, 129, 513, 4097, 20001) if dtype in WIDE else (1, 2, 9, 33, 4097):
        x = LAY[norm](np.repeat(constants[:, None], n, axis=1))
        weight, bias = parameters("ordinary", x, norm)
        np.testing.assert_array_equal(norm(x, eps=eps), np.zeros_like(x))
        np.testing.assert_array_equal(norm(x, weight * np.float32(1e30), eps=eps), np.zeros_like(x))
        expected = broadcast_parameter(rounded_once(bias, dtype), norm, x)
        np.testing.assert_array_equal(norm(x, weight, bias, eps=eps), expected)


@EVERY_ENGINE
@pytest.mark.parametrize("eps", [1e-5, 1e-12, 1e-300])
@pytest.mark.parametrize("norm", [BATCH, BATCH_LAST], ids=name_of)
def test_n6_running_mean(norm, eps, dtype, engine):
    mean = np.array(CONSTANTS[dtype], dtype)
    bias = np.arange(mean.size).astype(dtype)
    x = LAY[norm](np.repeat(mean[:, None], 37, axis=1))
    y = wn.batch_norm(x, mean, np.zeros_like(mean), bias + 1, bias, eps=eps, axis=norm.axis)
    np.testing.assert_array_equal(y, broadcast_parameter(bias, norm, x))


# ---- NaN and inf stay where they are


SPOILERS = {"nan": ([np.nan], np.nan), "inf": ([np.inf], np.inf), "-inf": ([-np.inf], -np.inf),
            "both": ([np.inf, -np.inf], np.nan)}  # fmt: skip


SPOILT = [*itertools.product(WIDE, [5, 40, 600, 4500, 20000]), *itertools.product(NARROW, [40, 4500])]


@EVERY_ENGINE
@pytest.mark.parametrize("spoiler", SPOILERS)
@pytest.mark.parametrize(("dtype", "n"), SPOILT, ids=name_of)
@PATTERNS
def test_nan_and_inf_stay_in_their_slice(norm, n, spoiler, dtype, engine):
    bad, mean = SPOILERS[spoiler]
    rows = random_data(n, (5, n), dtype, 3.0)
    inside = LAY[norm](np.repeat([[0], [0], [1], [0], [0]], n, axis=1)) == 1
    clean = norm(LAY[norm](rows))
    for at in (0, n // 2, n - 2):
        spoilt = rows.copy()
        spoilt[2, at : at + len(bad)] = bad
        y = norm(LAY[norm](spoilt))
        # as the formula has it: mean not finite, var NaN; without a mean, finite x / inf is 0
        where = inside if norm.centred or spoiler == "nan" else np.isinf(LAY[norm](spoilt))
        np.testing.assert_array_equal(np.isnan(y), where)
        assert not np.any(y[inside & ~where])
        assert y[~inside].tobytes() == clean[~inside].tobytes()
        for x, axis in ((spoilt, 1), (np.ascontiguousarray(spoilt.T), 0)):
            means, variances = (value.astype(np.float64) for value in wn.mean_var(x, axis))
            np.testing.assert_array_equal(means[2], mean)
            np.testing.assert_array_equal(np.isnan(variances), np.arange(5) == 2)
            np.testing.assert_array_equal(np.isfinite(means), np.arange(5) != 2)


# ---- what went wrong elsewhere, each right here: layer norms of float32 rows, then the others


def normals(n, offset, spread=1.0):
    return random_data(n, (5, n), np.float32, offset, spread)


LAYER_NORMS = {
    "pytorch#51102": lambda: normals(4, 2000),  # randn(5, 4) + 2000: variance 48425 instead of 1
    "pytorch#40302": lambda: normals(32768, 100, 0.01),  # all variances 0
    "pytorch#54293": lambda: np.random.default_rng(0).random((1, 1 << 20), np.float32),  # long sums drift
    "pytorch#108072": lambda: np.float32([[2, 2], [14, 14]]),  # eps=1e-6: 1.0001 for a bias of 1
    "pytorch#162489": lambda: normals(16, 0) * np.float32(1e30),  # squares overflow, all zeros came out
    "onnxruntime#28463": lambda: np.float32([[40000, 40001, 40002, 40003]]),  # NaN
    "onnxruntime#21935": lambda: np.full((1, 256), 1234, np.float32),  # a constant row: NaN
    "tvm#19592": lambda: np.float32([[80000, 80001, 80002, 80003]]),  # E[x^2] - E[x]^2 < 0: NaN
    "mlx#2238": lambda: normals(16, 1449.5, 0.5),  # NaN on the GPU
    "tt-metal#47791": lambda: normals(1024, 1e6),  # float32 Welford: means off by up to 0.3
    "flax use_fast_variance": lambda: np.float32([[300.1] * 99 + [300.2]]),  # E[x^2] - E[x]^2 < 0: NaN
}


@EVERY_ENGINE
@pytest.mark.parametrize("issue", LAYER_NORMS)
def test_layer_norm_regression(issue, engine):
    x = LAYER_NORMS[issue]()
    weight, bias = np.full(x.shape[1], 1.5, np.float32), np.ones(x.shape[1], np.float32)
    for eps in (1e-5, 1e-6):
        for pair in ((None, None), (weight, bias)):
            assert_precise(LAYER(x, *pair, eps=eps), *exact_norm(LAYER, x, *pair, eps=eps))
    assert np.all(wn.mean_var(x, 1)[1] >= 0)


# pytorch#98075: one element of weight 1e10 and more, eps 0.1: not exactly the bias
@pytest.mark.parametrize("weight", [1e10, 1e16, 1e300])
def test_pytorch_98075_huge_weight(weight, engine):
    np.testing.assert_array_equal(wn.layer_norm([-3.0], [weight], [-1.0], eps=0.1), [-1.0])


# pytorch#149301: a row changed with the size of its batch
def test_pytorch_149301_batch_size(engine):
    x = np.tanh(random_data(0, (24, 49, 768), np.float32))
    y = wn.layer_norm(x)
    for count in (1, 2, 5, 23):
        assert wn.layer_norm(x[:count]).tobytes() == y[:count].tobytes()


# numpy#14691: std of columns of 100 and of -100, 1.32 instead of 0
def test_numpy_14691_constant_columns(engine):
    mean, var = wn.mean_var(np.tile(np.float32([100, -100]), (200_000, 1)), 0)
    np.testing.assert_array_equal(mean, [100, -100])
    np.testing.assert_array_equal(var, [0, 0])


# numpy#8869: mean of ones over two axes of three, 0.419 (from 2^24 values on; 0.1 shows it sooner)
def test_numpy_8869_mean_of_equal_values(engine):
    mean, var = wn.mean_var(np.full((100_000, 4, 3), 0.1, np.float32), (0, 1))
    np.testing.assert_array_equal(mean, np.full(3, 0.1, np.float32))
    np.testing.assert_array_equal(var, np.zeros(3))


# numpy#29772: a mean of float32 over axis 0, off by 6 %
def test_numpy_29772_mean_of_columns(engine):
    x = np.random.default_rng(802701).uniform(250, 320, (32 * 32 * 320, 2)).astype(np.float32)
    for value, exact in zip(wn.mean_var(x, 0), zip(*map(rational_moments, x.T), strict=True), strict=True):
        assert max(map(ulps, value, exact)) <= 1
