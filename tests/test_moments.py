"""Moments and mean_var: streams, merging in any grouping, what crosses a process."""

import pickle

import numpy as np
import pytest
import welnorm as wn


def exact(x, axis, ddof=0):
    wide = x.astype(np.longdouble)
    mean = wide.mean(axis=axis, keepdims=True)
    deviation = wide - mean
    mean += deviation.mean(axis=axis, keepdims=True)
    return np.squeeze(mean, axis), (deviation**2).mean(axis=axis)


@pytest.fixture
def x():
    return np.random.default_rng(1).standard_normal((40, 3, 7)) * 3 + 100


@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (1, 2), (2, 0), ()])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_statistics(x, axis, dtype, backend):
    x = x.astype(dtype)
    axes = tuple(range(3)) if axis is None else axis
    mean, var = exact(x, axes)
    with wn.backend(backend):
        m = wn.moments(x, axis)
        got_mean, got_var = wn.mean_var(x, axis)
    np.testing.assert_allclose(np.float64(m.mean), np.float64(mean), rtol=4e-16)
    rtol = 2.0**-32 if dtype == np.float32 else 1e-14  # float32's 24 bits, and 8 to spare
    np.testing.assert_allclose(np.float64(m.var()), np.float64(var), rtol=rtol)
    assert m.shape == np.shape(mean)
    assert m.count == x.size // max(1, np.size(mean))
    assert got_mean.dtype == got_var.dtype == dtype
    np.testing.assert_array_max_ulp(got_mean, mean.astype(dtype), 1 if dtype == np.float32 else 2)
    np.testing.assert_array_max_ulp(got_var, var.astype(dtype), 1 if dtype == np.float32 else 8)


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
    with wn.backend(backend):
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
        np.testing.assert_allclose(m.var(), whole.var(), rtol=2e-15)


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
    assert (big + wn.moments([1.0])).count == 2**53


def test_large_offset_float32(backend):
    values = np.float32(1e6) + np.arange(1000, dtype=np.float32) % 7
    with wn.backend(backend):
        m = wn.moments(values)
    exact_values = [int(v) for v in values]
    assert m.mean == sum(exact_values) / 1000
    np.testing.assert_allclose(m.var(), np.var(np.arange(1000) % 7), rtol=1e-13)


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
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
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
        np.testing.assert_allclose(m.mean, np.float64(mean), rtol=3e-16)
        np.testing.assert_allclose(m.var(), np.float64(var), rtol=2.0**-32)
        np.testing.assert_allclose(m.std(ddof=1) ** 2, m.m2 / (m.count - 1), rtol=1e-15)
