"""Moments and mean_var: streams, merging in any grouping, what crosses a process."""

import functools
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
import welnorm as wn
from cases import WIDE, finfo, name_of, rational_moments
from ml_dtypes import bfloat16


def exact(x, axis, ddof=0):
    wide = x.astype(np.longdouble)
    mean = wide.mean(axis=axis, keepdims=True)
    deviation = wide - mean
    mean += deviation.mean(axis=axis, keepdims=True)
    return np.squeeze(mean, axis), (deviation**2).mean(axis=axis)


ULP = 2.0**-52


@pytest.fixture
def x():
    return np.random.default_rng(1).standard_normal((40, 3, 7)) * 3 + 100


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (1, 2), (2, 0), ()])
def test_statistics(x, axis, dtype, backend):
    x = x.astype(dtype)
    axes = tuple(range(3)) if axis is None else axis
    mean, var = (np.asarray(value, np.float64) for value in exact(x, axes))
    m = wn.moments(x, axis)
    got_mean, got_var = wn.mean_var(x, axis)
    np.testing.assert_allclose(m.mean, mean, rtol=ULP * 2)
    np.testing.assert_allclose(m.var(), var, rtol=ULP * 2)
    assert m.shape == np.shape(mean)
    assert m.count == x.size // max(1, np.size(mean))
    assert got_mean.dtype == got_var.dtype == dtype
    rtol = 2 * ULP if dtype == np.float64 else float(finfo(dtype).eps)
    np.testing.assert_allclose(np.float64(got_mean), mean, rtol=rtol)
    np.testing.assert_allclose(np.float64(got_var), var, rtol=rtol)


def test_mean_var_keepdims_and_ddof(x):
    mean, var = wn.mean_var(x, (0, 2), ddof=1, keepdims=True)
    assert mean.shape == var.shape == (1, 3, 1)
    np.testing.assert_allclose(var, x.var((0, 2), ddof=1, keepdims=True), rtol=1e-13)
    mean, var = wn.mean_var([1, 2, 3, 4])
    assert isinstance(mean, np.float64)
    assert (mean, var) == (2.5, 1.25)


def test_not_enough_values():
    m = wn.moments([[1.0], [2.0]], axis=1)
    np.testing.assert_array_equal(m.var(), [0, 0])
    assert np.isnan(m.var(ddof=1)).all()
    assert np.isnan(wn.mean_var(np.empty((0, 2)), axis=0)).all()


def test_update_and_merge_agree_with_one_pass(x, backend):
    whole = wn.moments(x, (0, 2))
    parts = [wn.moments(part, (0, 2)) for part in np.split(x, [1, 2, 13, 30])]
    stream = wn.moments(x[:1], (0, 2))
    for part in np.split(x[1:], [5, 6, 20]):
        assert stream.update(part) is stream
    groupings = [
        stream,
        wn.Moments.merge_all(parts),
        wn.Moments.merge_all(iter(parts[::-1])),
        parts[0] + (parts[1] + (parts[2] + (parts[3] + parts[4]))),
        ((parts[3] + parts[1]) + parts[4]) + (parts[2] + parts[0]),
    ]
    for m in groupings:
        assert m.count == whole.count == 280
        np.testing.assert_array_max_ulp(m.mean, whole.mean, 2)
        np.testing.assert_array_max_ulp(m.var(), whole.var(), 3)


def test_merge_leaves_the_other_alone(x):
    a, b = wn.moments(x[:20], 0), wn.moments(x[20:], 0)
    before = pickle.dumps(b)
    c = a + b
    assert c != a
    assert a.merge(b) is a
    assert a == c
    assert pickle.dumps(b) == before
    copy = a.copy()
    copy.update(x)
    assert a == c
    assert copy.count == 80
    assert wn.Moments.merge_all([b]) == b
    assert wn.Moments.merge_all([b]) is not b


def test_empty_state_is_neutral(x):
    some, none = wn.moments(x, 0), wn.moments(x[:0], 0)
    assert none.count == 0
    assert np.isnan(none.mean).all()
    assert some + none == some
    assert none + some == some
    assert (none + none).count == 0


def test_infinite_data():
    with_inf = wn.moments([1.0, np.inf]) + wn.moments([2.0, 3.0])
    assert with_inf.mean == np.inf
    assert np.isnan(with_inf.var())
    assert np.isnan((wn.moments([np.inf]) + wn.moments([-np.inf])).mean)


def test_equality_and_hash(x):
    m = wn.moments(x, 0)
    assert m == wn.moments(x.copy(), 0)
    assert m != wn.moments(x[1:], 0)
    assert m != "moments"
    with pytest.raises(TypeError):
        hash(m)


def test_pickle_and_arrays(x):
    m = wn.moments(x, (0, 2))
    loaded = pickle.loads(pickle.dumps(m))
    assert loaded == m
    loaded.update(x)  # knows its axes
    array = m.to_array()
    assert array.shape == (3, 3)
    assert array.dtype == np.float64
    back = wn.Moments.from_array(array)
    assert back.count == m.count
    np.testing.assert_array_equal(back.mean, m.mean)
    np.testing.assert_array_equal(back.m2, m.m2)
    array[:] = 0
    assert back.count == m.count
    pairs, others = [[2, 3], [1.0, 1.0], [0.0, 0.0]], [[1, 0], [4.0, 9.0], [0.0, 0.0]]
    merged = wn.Moments.from_array(pairs) + wn.Moments.from_array(others)
    np.testing.assert_array_equal(merged.count, [3, 3])
    np.testing.assert_array_equal(merged.mean, [2.0, 1.0])
    np.testing.assert_array_equal(merged.m2, [6.0, 0.0])


def test_counts_are_exact_to_2_to_the_53():
    big = wn.Moments.from_array([2.0**53 - 1, 1.0, 0.0])
    assert big.count == 2**53 - 1
    assert (big + wn.moments([1.0])).count == 2**53
    parts = [wn.Moments.from_array([float(n), 3.0, 0.0]) for n in (2**52 + 1, 2**51 + 3, 7, 1)]
    merged = wn.Moments.merge_all(parts)
    assert merged.count == 2**52 + 2**51 + 12
    assert (merged.mean, merged.m2) == (3.0, 0.0)
    with pytest.raises(ValueError, match=r"2\*\*53"):
        wn.Moments.from_array([2.0**54, 1.0, 0.0])


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)], ids=name_of)
def test_array_and_back_is_the_same(shape, backend):
    m = wn.moments(np.random.default_rng(0).standard_normal((9, *shape)) + 1e3, 0)
    back = wn.Moments.from_array(m.to_array())
    assert back == m
    assert m == back
    assert back.to_array().tobytes() == m.to_array().tobytes()
    assert pickle.loads(pickle.dumps(back)) == m
    assert back.shape == m.shape == shape
    with pytest.raises(ValueError, match="axes"):
        back.update(np.ones((2, *shape)))


def test_large_offset_float32(backend):
    values = np.float32(1e6) + np.arange(1000, dtype=np.float32) % 7
    m = wn.moments(values)
    exact_values = [int(v) for v in values]
    assert m.mean == sum(exact_values) / 1000
    assert abs(Fraction(float(m.var())) - rational_moments(values)[1]) <= 2 * Fraction(
        float(np.spacing(m.var()))
    )


# ---- merging: in any grouping as good as one pass


MANY = 900


def groupings(parts):
    """States of parts of the data, merged in many ways: names and results."""

    def sequence(order):
        total = order[0].copy()
        for part in order[1:]:
            total.merge(part)
        return total

    def tree(order):
        return (
            order[0]
            if len(order) == 1
            else tree(order[: len(order) // 3 or 1]) + tree(order[len(order) // 3 or 1 :])
        )

    shuffled = [parts[k] for k in np.random.default_rng(0).permutation(len(parts))]
    yield "in sequence", sequence(parts)
    yield "from the end", sequence(parts[::-1])
    yield "shuffled", sequence(shuffled)
    yield "a lopsided tree", tree(parts)
    yield "a lopsided tree, shuffled", tree(shuffled)
    yield "merge_all", wn.Moments.merge_all(parts)
    yield "merge_all from the end", wn.Moments.merge_all(iter(parts[::-1]))
    yield "by way of pickle", sequence([pickle.loads(pickle.dumps(part)) for part in parts])


def cuts(count):
    """Ways to cut so many values into parts."""
    generator = np.random.default_rng(1)
    yield "singles", np.arange(1, count)
    yield "pairs", np.arange(2, count, 2)
    yield "random", np.sort(generator.integers(0, count, 40))
    yield "one and the rest", [1]
    yield "the rest and one", [count - 1]
    yield "sevens", np.arange(7, count, 7)


def normal(offset, spread=1.0):
    return lambda: offset + spread * np.random.default_rng(2).standard_normal(MANY)


DATA = {
    "about 0": normal(0.0),
    "offset 1": normal(1.0),
    "offset 1e3": normal(1e3),
    "offset 1e6": normal(1e6),
    "offset 1e9": normal(1e9),
    "offset 1e9, hardly spread": normal(1e9, 1e-3),
    "sorted": lambda: np.sort(normal(10.0)()),
    "ramp": lambda: np.arange(MANY) + 3e4,
    "ramp down": lambda: 1e4 - np.arange(MANY) / 7,
    "outlier first": lambda: np.concatenate([[6e4], normal(0.1, 0.01)()[1:]]),
    "outlier last": lambda: np.concatenate([normal(0.1, 0.01)()[1:], [-6e4]]),
    "outliers": lambda: np.where(np.arange(MANY) % 97, normal(1.0)(), 5e4),
    "all exponents": lambda: np.ldexp(normal(0.0)(), np.arange(MANY) * 37 % 21 - 10),
    "huge": normal(0.0, 1e30),
    "tiny": normal(0.0, 1e-30),
    "constant": lambda: np.full(MANY, 0.1),
    "two values": lambda: np.where(np.arange(MANY) % 2, 1.0, -1.0),
    "uniform": lambda: np.random.default_rng(3).random(MANY),
}
BEYOND_FLOAT16 = (
    "offset 1e6",
    "offset 1e9",
    "offset 1e9, hardly spread",
    "huge",
    "tiny",
    "outlier first",
    "outlier last",
)


@functools.cache
def columns(dtype):
    """All kinds of data as columns of one array, and the exact mean and variance of each."""
    names = [name for name in DATA if dtype != np.float16 or name not in BEYOND_FLOAT16]
    x = np.stack([DATA[name]().astype(dtype) for name in names], axis=1)
    return x, {name: rational_moments(x[:, k]) for k, name in enumerate(names)}


def assert_merged(m, mean, var, what):
    """Within 2 ULP; the mean's measured by the standard deviation where it cancels."""
    unit = Fraction(float(np.spacing(max(abs(float(mean)), math.sqrt(var), 1e-300))))
    assert abs(Fraction(float(m.mean)) - mean) <= 2 * unit, what
    unit = Fraction(float(np.spacing(max(float(var), 1e-300))))
    assert abs(Fraction(float(m.var())) - var) <= 2 * unit, what


def assert_columns(m, exact, *what):
    assert m.count == MANY
    for state, (name, (mean, var)) in zip(m.to_array().T, exact.items(), strict=True):
        assert_merged(wn.Moments.from_array(state), mean, var, (*what, name))


@pytest.mark.parametrize("dtype", [*WIDE, np.float16], ids=name_of)
def test_merging_in_any_grouping(dtype, backend):
    x, exact = columns(dtype)
    assert_columns(wn.moments(x, 0), exact, "whole")
    for cut, where in cuts(MANY):
        parts = [wn.moments(part, 0) for part in np.split(x, where)]
        for grouping, m in groupings(parts):
            assert_columns(m, exact, cut, grouping)


@pytest.mark.parametrize("dtype", [*WIDE, np.float16], ids=name_of)
def test_merging_on_any_engine(dtype, engine):
    """Statistics of columns and of rows."""
    x, exact = columns(dtype)
    for where in ([], [1, 2, 700], np.arange(50, MANY, 50)):
        for axis, data in ((0, x), (1, np.ascontiguousarray(x.T))):
            parts = [wn.moments(part, axis) for part in np.split(data, where, axis=axis)]
            assert_columns(wn.Moments.merge_all(parts), exact, where, axis)


def test_streams_of_batches(backend):
    """update() with batches of all lengths, bfloat16 and float32 mixed, is one pass over all of it."""
    generator = np.random.default_rng(0)
    batches = [
        (generator.standard_normal((n, 3)) + 1e3).astype(dtype)
        for n, dtype in zip((5, 1, 0, 300, 2, 33, 1, 64), (np.float32, bfloat16) * 4, strict=True)
    ]
    m = wn.moments(batches[0], 0)
    for batch in batches[1:]:
        m.update(batch)
    whole = np.concatenate([batch.astype(np.float64) for batch in batches])
    assert m.count == len(whole)
    for k in range(3):
        assert_merged(wn.Moments.from_array(m.to_array()[:, k]), *rational_moments(whole[:, k]), k)


def test_many_small_updates_do_not_drift(backend):
    """10,000 merges."""
    values = (np.arange(10_000) % 7 + 1e6).astype(np.float32)
    m = wn.moments(values[:1], 0)
    ones = [wn.moments(np.float32([v]), 0) for v in values[:7]]
    for k in range(1, values.size):
        m.merge(ones[k % 7])
    assert m.count == values.size
    assert_merged(m, *rational_moments(values), "sequence")


def test_merging_with_itself(x, backend):
    m = wn.moments(x, 0)
    mean, var = m.mean.copy(), m.var().copy()
    m.merge(m)
    assert m.count == 80
    np.testing.assert_array_equal(m.mean, mean)
    np.testing.assert_allclose(m.var(), var, rtol=ULP)


def test_counts_that_differ(backend):
    """Masks with counts of their own for each statistic; empty ones merge as nothing."""
    values = np.arange(60.0).reshape(20, 3) ** 2 + 1e6
    masks = np.arange(20)[:, None] < np.array([20, 7, 0])
    m = wn.moments(values, 0, mask=masks)
    np.testing.assert_array_equal(m.count, [20, 7, 0])
    assert m.count.dtype == np.int64
    assert np.isnan(m.mean[2])
    assert np.isnan(m.var()[2])
    assert m.m2[2] == 0
    other = wn.moments(values, 0, mask=~masks)
    for total in (
        m + other,
        other + m,
        wn.Moments.merge_all([m, other]),
        m.copy().update(values, mask=~masks),
    ):
        assert total.count == 20
        for k in range(3):
            assert_merged(wn.Moments.from_array(total.to_array()[:, k]), *rational_moments(values[:, k]), k)
    nothing = wn.moments(values, 0, mask=False)
    assert nothing.count == 0
    assert m + nothing == m
    assert nothing + m == m
    assert pickle.loads(pickle.dumps(m)) == m
    assert repr(m) == "Moments(count=[20  7  0], shape=(3,))"


def test_infinity_is_not_made_by_merging(backend):
    """Sums of squares that leave the range are inf; means of huge numbers are not NaN."""
    big = np.array([1.7e308, 1.6e308])
    m = wn.moments(big[:1]) + wn.moments(big[1:])
    assert m.count == 2
    assert m.mean == pytest.approx(1.65e308)
    assert not np.isnan(m.m2)
    m = wn.moments([1e308]) + wn.moments([-1e308])
    assert not np.isnan(m.mean)


def test_repr_and_constructor():
    assert repr(wn.moments(np.zeros((4, 2)), 0)) == "Moments(count=4, shape=(2,))"
    with pytest.raises(TypeError, match="moments"):
        wn.Moments()


def test_no_axes(x, backend):
    """One statistic per element: each is of one value a batch."""
    m = wn.moments(x, ()).update(x + 2)
    assert m.count == 2
    np.testing.assert_allclose(m.mean, x + 1, rtol=1e-15)
    np.testing.assert_allclose(m.var(), 1, rtol=1e-13)


def test_axes_are_those_of_the_first_call(x):
    axes = [0, 1]
    m = wn.moments(x, axes)
    axes.append(2)
    assert m.update(x).count == 2 * 120


@pytest.mark.parametrize("data", [[np.inf, 1], [1, -np.inf, 2], [1, np.nan], [np.inf, -np.inf], [np.inf]])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", WIDE)
def test_nan_and_inf_as_numpy_has_them(data, axis, dtype, backend):
    """Beside a column or a row that they do not touch, in short blocks and in many."""
    for repeat in (1, 3000):
        column = np.array([0.5] * repeat + data, dtype)
        x = np.stack([column, np.arange(column.size, dtype=dtype)], axis=1 - axis)
        mean, var = wn.mean_var(x, axis)
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(mean, x.mean(axis, dtype=np.float64), rtol=1e-6)
            np.testing.assert_allclose(var, x.var(axis, dtype=np.float64), rtol=1e-6)
        parts = np.array_split(x, 3, axis)
        merged = wn.Moments.merge_all([wn.moments(part, axis) for part in parts])
        np.testing.assert_allclose(merged.mean, np.float64(mean), rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, (0, 2), (0, 1, 2)])
def test_unequal_parts_merge_exactly(axis, x, backend):
    """float32 data far from 0 in parts of 0 to 17 rows, in a stream and in trees, against long double."""
    data = np.concatenate([x] * 3).astype(np.float32) + np.float32(1e5)
    mean, var = exact(data, axis)
    sizes = np.cumsum([1, 0, 2, 17, 5, 0, 40, 3])
    parts = np.split(data, sizes) if axis != 1 else np.split(data, [1, 1, 2], axis=1)
    stream = wn.moments(parts[0], axis)
    for part in parts[1:]:
        if axis == 1:
            stream += wn.moments(part, axis)
        else:
            stream.update(part)
    for m in (stream, wn.Moments.merge_all([wn.moments(part, axis) for part in parts])):
        assert np.all(m.count == data.size // np.size(mean))
        np.testing.assert_allclose(m.mean, np.float64(mean), rtol=2 * ULP)
        np.testing.assert_allclose(m.var(), np.float64(var), rtol=2 * ULP)
        np.testing.assert_allclose(m.std(ddof=1) ** 2, m.m2 / (m.count - 1), rtol=1e-15)


def test_of_a_single_number(backend):
    m = wn.moments(5.0)
    assert (m.count, m.mean, m.var()) == (1, 5.0, 0.0)
    assert wn.mean_var(3.0, keepdims=True) == (3.0, 0.0)


def test_axis_of_any_kind_is_remembered(backend):
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    axis = np.array([0, 2])
    m = wn.moments(x, axis)
    axis[:] = 1
    assert m.update(x) == wn.moments(np.concatenate([x, x]), (0, 2))
