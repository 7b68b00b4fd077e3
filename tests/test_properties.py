"""Properties that hold for whatever data and layout: found wanting by hypothesis, if by anyone."""

import math
import pickle
from fractions import Fraction

import cases
import numpy as np
import welnorm as wn
from cases import (
    BATCH,
    BATCH_LAST,
    INSTANCE,
    INSTANCE_LAST,
    LAYER,
    MAX_ULP,
    RMS,
    Norm,
    assert_precise,
    exact_norm,
    finfo,
    rational_moments,
    ulp_errors,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

DTYPES = st.sampled_from([np.float32, np.float64])
ALL_DTYPES = st.sampled_from(cases.DTYPES)
SEEDS = st.integers(0, 2**32 - 1)


#: Error of merged statistics, in float64 whatever the data.
MERGED_ULP = 2


def ulps(value, exact, dtype, size=0.0):
    """Error of value in units in the last place, in dtype, of the larger of exact and size."""
    ulp = np.spacing(dtype(max(abs(float(exact)), size)))
    return abs(Fraction(float(value)) - exact) / Fraction(float(ulp)) if ulp else 0


@st.composite
def axes(draw, ndim, at_least=1):
    """Some of the axes."""
    return tuple(draw(st.sets(st.integers(0, ndim - 1), min_size=at_least)))


def integers(seed, shape, dtype, most=1000):
    """Whole numbers, so that shifts of them are exact."""
    return np.random.default_rng(seed).integers(-most, most, shape, endpoint=True).astype(dtype)


@st.composite
def views(draw):
    """An array that is a view with any strides of a larger one: steps either way, swapped, repeated."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=4, max_side=9))
    dtype = draw(ALL_DTYPES)
    steps = [draw(st.sampled_from([1, 1, 2, 3, -1, -2])) for _ in shape]
    memory = np.random.default_rng(draw(SEEDS)).standard_normal(
        [n * abs(step) + draw(st.integers(0, 2)) for n, step in zip(shape, steps, strict=True)]
    )
    view = memory.astype(dtype)[tuple(slice(None, None, step) for step in steps)]
    view = view[tuple(slice(n) for n in shape)].transpose(draw(st.permutations(range(len(shape)))))
    if draw(st.booleans()):
        view = np.broadcast_to(view[:1], (draw(st.integers(1, 5)), *view.shape[1:]))
    return view


@given(view=views(), data=st.data())
def test_layer_norm_of_any_view(backend, view, data):
    norm = Norm("any", data.draw(st.sampled_from(["layer_norm", "rms_norm"])), data.draw(axes(view.ndim)))
    weight, bias = integers(data.draw(SEEDS), (2, *norm.affine_shape(view.shape)), view.dtype, 3)
    y = norm(view, weight, bias)
    assert y.tobytes() == norm(view.copy(), weight, bias).tobytes()
    assert_precise(y, *exact_norm(norm, view, weight, bias))


@given(view=views(), data=st.data())
def test_batch_norm_of_any_view(backend, view, data):
    norm = Norm("any", "batch_norm", data.draw(st.integers(1, view.ndim - 1)))
    channels = view.shape[norm.axis]
    assume(view.size > channels)
    weight, bias = integers(data.draw(SEEDS), (2, channels), view.dtype, 3)
    running = np.zeros((2, 2, channels))
    y = norm(view, weight, bias, running_mean=running[0, 0], running_var=running[0, 1])
    copy = norm(view.copy(), weight, bias, running_mean=running[1, 0], running_var=running[1, 1])
    assert y.tobytes() == copy.tobytes()
    assert running[0].tobytes() == running[1].tobytes()
    assert_precise(y, *exact_norm(norm, view, weight, bias))


@given(view=views(), data=st.data())
def test_other_norms_of_any_view(backend, view, data):
    axis = data.draw(st.one_of(st.integers(1, view.ndim - 1), st.just((1, -1))))
    assume(axis != (1, -1) or view.ndim > 2)
    norm = Norm("any", data.draw(st.sampled_from(["group_norm", "instance_norm"])), axis)
    weight, bias = integers(data.draw(SEEDS), (2, *norm.affine_shape(view.shape)), view.dtype, 3)
    y = norm(view, weight, bias)
    assert y.tobytes() == norm(view.copy(), weight, bias).tobytes()
    assert_precise(y, *exact_norm(norm, view, weight, bias))


@given(view=views(), data=st.data())
def test_masks_of_any_view(backend, view, data):
    """Whatever lies under the mask, and however it lies in memory."""
    op, axis = data.draw(st.sampled_from(["batch_norm", "group_norm", "instance_norm"])), view.ndim - 1
    norm = Norm("any", op, axis)
    bits = np.random.default_rng(data.draw(SEEDS)).random(view.shape[:-1]) < data.draw(st.floats(0, 1))
    assume(op != "batch_norm" or np.count_nonzero(bits) != 1)
    other = np.where(
        bits[..., None], view, np.array(data.draw(st.sampled_from([np.nan, np.inf, 1e4, 0.0])), view.dtype)
    )
    y = norm(view, mask=bits)
    assert y.tobytes() == norm(other, mask=np.asfortranarray(bits)).tobytes()
    assert not np.any(y[~bits])


@given(view=views(), data=st.data())
def test_moments_of_any_view(backend, view, data):
    over = data.draw(axes(view.ndim))
    assert wn.moments(view, over) == wn.moments(view.copy(), over)
    mean, var = wn.mean_var(view, over)
    exact, eps = view.astype(np.longdouble), float(finfo(view.dtype).eps)
    std = np.std(exact, over)
    mean, var = np.float64(mean), np.float64(var)
    assert np.all(np.abs(mean - np.mean(exact, over)) <= 2 * eps * (std + np.abs(mean)))
    np.testing.assert_allclose(
        var, np.float64(std**2), rtol=16 * eps, atol=float(finfo(view.dtype).smallest_subnormal)
    )


@given(x=hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
                    elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
       eps=st.sampled_from([1e-5, 1e-12, 1e-30, 1e-300]))  # fmt: skip
def test_any_finite_numbers(backend, x, eps):
    for norm in (LAYER, RMS):
        assert_precise(norm(x, eps=eps), *exact_norm(norm, x, eps=eps))
    if len(x) > 1:
        assert_precise(BATCH(x, eps=eps), *exact_norm(BATCH, x, eps=eps))
    assert np.all(wn.mean_var(x, 1)[1] >= 0)


@given(seed=SEEDS, n=st.integers(1, 300), shift=st.integers(-(2**22), 2**22), dtype=DTYPES)
def test_shift_invariance(backend, seed, n, shift, dtype):
    rows = integers(seed, (3, n), dtype)
    for norm, x in ((LAYER, rows), (BATCH_LAST, np.tile(rows.T, (2, 1)))):
        y, exact = norm(x), exact_norm(norm, x)
        assert np.all(ulp_errors(norm(x + dtype(shift)), y, exact[1]) <= 2 * MAX_ULP[np.dtype(dtype)])
        (mean, var), (shifted_mean, shifted_var) = (
            wn.mean_var(data, norm.reduced(x.shape)) for data in (x, x + dtype(shift))
        )
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(shifted_var, var, rtol=4 * eps)
        np.testing.assert_allclose(shifted_mean - shift, mean, rtol=0, atol=(abs(shift) + 1000) * eps)


@given(seed=SEEDS, n=st.integers(2, 300), power=st.integers(-40, 40), dtype=DTYPES)
def test_scale_invariance(backend, seed, n, power, dtype):
    rows = np.random.default_rng(seed).standard_normal((3, n)).astype(dtype)
    columns = np.stack([rows.T, rows.T])
    for norm, x in ((LAYER, rows), (BATCH, rows.T), (BATCH, np.stack([rows, rows])), (RMS, rows),
                    (INSTANCE, rows[None]), (INSTANCE_LAST, columns)):  # fmt: skip
        assert norm(np.ldexp(x, power), eps=0.0).tobytes() == norm(x, eps=0.0).tobytes()
        (mean, var), (scaled_mean, scaled_var) = (
            wn.mean_var(data, norm.reduced(x.shape)) for data in (x, np.ldexp(x, power))
        )
        assert np.ldexp(mean, power).tobytes() == scaled_mean.tobytes()
        assert np.ldexp(var, 2 * power).tobytes() == scaled_var.tobytes()


@given(seed=SEEDS, shape=st.tuples(st.integers(1, 40), st.integers(2, 60)), dtype=DTYPES)
def test_permutations(backend, seed, shape, dtype):
    generator = np.random.default_rng(seed)
    x = generator.standard_normal(shape).astype(dtype)
    rows, columns = map(generator.permutation, shape)
    assert wn.layer_norm(x[rows]).tobytes() == wn.layer_norm(x)[rows].tobytes()
    assert wn.rms_norm(x[rows]).tobytes() == wn.rms_norm(x)[rows].tobytes()
    x = np.concatenate([x, x])
    y = wn.batch_norm(x, training=True)
    assert wn.batch_norm(x[:, columns], training=True).tobytes() == y[:, columns].tobytes()
    x = np.repeat(x[..., None], 5, axis=-1) + np.arange(5, dtype=dtype)
    y = wn.batch_norm(x, training=True)
    assert wn.batch_norm(x[:, columns], training=True).tobytes() == y[:, columns].tobytes()


@given(seed=SEEDS, shape=st.tuples(st.integers(2, 70), st.integers(1, 9), st.integers(1, 40)), dtype=DTYPES,
       offset=st.sampled_from([0.0, 1e3, 1e6]))  # fmt: skip
def test_batch_norm_standardises(backend, seed, shape, dtype, offset):
    x = (np.random.default_rng(seed).standard_normal(shape) + offset).astype(dtype)
    y = wn.batch_norm(x, training=True, eps=1e-12).astype(np.longdouble)
    var = np.var(x.astype(np.longdouble), axis=(0, 2))
    assert np.all(np.abs(y.mean(axis=(0, 2))) <= 4 * np.finfo(dtype).eps)
    rtol = 2 * MAX_ULP[np.dtype(dtype)] * np.finfo(dtype).eps
    np.testing.assert_allclose(np.mean(y * y, axis=(0, 2)), var / (var + 1e-12), rtol=rtol)


@given(seed=SEEDS, sizes=st.lists(st.integers(0, 40), min_size=1, max_size=8), offset=st.floats(-1e6, 1e6),
       dtype=DTYPES, data=st.data())  # fmt: skip
def test_moments_merge_in_any_grouping(backend, seed, sizes, offset, dtype, data):
    assume(sum(sizes))
    x = (np.random.default_rng(seed).standard_normal((sum(sizes), 2)) + offset).astype(dtype)
    pieces = np.split(x, np.cumsum(sizes[:-1]))
    parts = [wn.moments(piece, 0) for piece in pieces]
    before, grouped = [part.copy() for part in parts], [part.copy() for part in parts]
    while len(grouped) > 1:
        i = data.draw(st.integers(0, len(grouped) - 2))
        grouped[i : i + 2] = [grouped[i] + grouped[i + 1]]
    updated = wn.moments(x[:0], 0)
    for piece in pieces:
        assert updated.update(piece) is updated
    exact = [rational_moments(column) for column in x.T]
    for merged in (wn.moments(x, 0), grouped[0], wn.Moments.merge_all(parts), updated):
        assert merged.count == len(x)
        for mean, var, (exact_mean, exact_var) in zip(merged.mean, merged.var(), exact, strict=True):
            assert ulps(mean, exact_mean, np.float64, math.sqrt(exact_var)) <= MERGED_ULP
            assert ulps(var, exact_var, np.float64) <= MERGED_ULP
    assert parts == before  # what is merged is not changed


@given(view=views(), data=st.data())
def test_moments_travel(backend, view, data):
    m = wn.moments(view, data.draw(axes(view.ndim)))
    assert pickle.loads(pickle.dumps(m)) == m
    assert m.copy() == m
    array = m.to_array()
    assert array.shape == (3, *m.shape)
    there = wn.Moments.from_array(array)
    assert there.to_array().tobytes() == array.tobytes()
    assert (there.count, np.asarray(there.var(1)).tobytes()) == (m.count, np.asarray(m.var(1)).tobytes())
