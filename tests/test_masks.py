"""Masks: padding enters no statistic, leaks nowhere and comes out as 0."""

import itertools

import numpy as np
import pytest
import welnorm as wn
from cases import (
    DTYPES,
    LAYOUTS,
    MAX_ULP,
    Norm,
    assert_precise,
    compute_type,
    exact_affine,
    exact_deviations,
    exact_norm,
    finfo,
    is_rounded,
    laid_out,
    name_of,
    random_data,
    random_parameters,
    rational_moments,
    rounded_once,
    same_bytes,
)

OPS = ("batch_norm", "group_norm", "instance_norm")
CHANNELS = 6
#: How channels lie: their axis, and how channels first is brought there and back.
PLACES = {
    "first": (1, np.ascontiguousarray, np.asarray),
    "last": (-1, lambda x: np.ascontiguousarray(np.moveaxis(x, 1, -1)), lambda y: np.moveaxis(y, -1, 1)),
    "blocked": ((1, -1), lambda x: wn.to_blocked(x, 3), wn.from_blocked),
    "padded blocks": ((1, -1), lambda x: wn.to_blocked(x, 4), lambda y: wn.from_blocked(y, CHANNELS)),
}
EVERY_OP = pytest.mark.parametrize("op", OPS)
EVERY_PLACE = pytest.mark.parametrize("place", PLACES)
POSITIONS = [(), (1,), (5,), (33,), (3, 4), (200,)]
GARBAGE = (np.nan, np.inf, -np.inf, 1e30, -1e-30, 7.0)


def problem(dtype, positions, samples=5, keep=0.6, seed=0):
    """x with channels first, weight, bias, and a mask with an empty and a full sample."""
    x = random_data((seed, 1), (samples, CHANNELS, *positions), dtype, 3.0)
    mask = np.random.default_rng((seed, 2)).random((samples, *positions)) < keep
    mask[1], mask[2] = False, True
    return x, *random_parameters((seed, 3), CHANNELS, dtype), mask


def groups_of(place, has_parameters=True):
    """Groups of 3 channels; of 2 in blocks of 4, where without parameters the padding is a group, too."""
    return 2 if place != "padded blocks" else 3 if has_parameters else 4


def call(op, place, x, weight=None, bias=None, **options):
    """The norm on data with channels first, brought to another place and back."""
    axis, there, back = PLACES[place]
    x = there(x)
    options |= {"axis": axis}
    if op == "group_norm":
        groups = groups_of(place, weight is not None or bias is not None)
        y = wn.group_norm(x, groups, weight, bias, **options)
    elif op == "batch_norm":
        y = wn.batch_norm(x, weight=weight, bias=bias, training=True, **options)
    else:
        y = wn.instance_norm(x, weight, bias, **options)
    return back(y)


def spoilt(x, mask, value):
    """x with a value under the mask."""
    with np.errstate(over="ignore"):
        return np.where(np.expand_dims(mask, 1), x, np.array(value).astype(x.dtype))


def packed(op, place, x, weight, bias, mask):
    """What the data without padding gives, exactly: y and its size where the mask is True, each (k, C)."""
    rows = np.moveaxis(x, 1, -1)
    if op == "batch_norm":
        return exact_norm(Norm("", op, 1), rows[mask], weight, bias)
    groups = CHANNELS if op == "instance_norm" else groups_of(place)
    parts = []
    for row, kept in zip(rows, mask, strict=True):
        values = row[kept].reshape(-1, groups, CHANNELS // groups)
        if len(values):
            deviations, var = exact_deviations(values, (0, 2))
            shape = -1, CHANNELS
            var = np.broadcast_to(var, values.shape).reshape(shape)
            parts.append(exact_affine(deviations.reshape(shape), var, (1,), weight, bias))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


@EVERY_OP
@EVERY_PLACE
class TestMasked:
    @pytest.mark.parametrize("positions", POSITIONS, ids=name_of)
    def test_equals_the_packed_data(self, op, place, positions, dtype, engine):
        x, weight, bias, mask = problem(dtype, positions)
        for pair in itertools.product((None, weight), (None, bias)):
            y = np.moveaxis(call(op, place, x, *pair, mask=mask), 1, -1)
            assert_precise(y[mask], *packed(op, place, x, *pair, mask))
            assert not np.any(y[~mask])

    @pytest.mark.parametrize("positions", POSITIONS, ids=name_of)
    def test_nothing_leaks(self, op, place, positions, dtype, engine):
        x, weight, bias, mask = problem(dtype, positions)
        clean = call(op, place, spoilt(x, mask, 0), weight, bias, mask=mask)
        for value in GARBAGE:
            y = call(op, place, spoilt(x, mask, value), weight, bias, mask=mask)
            assert same_bytes(y, clean), value

    def test_first_values_masked(self, op, place, dtype, engine):
        """Where shifts are taken from, and blocks begin."""
        x, weight, bias, mask = problem(dtype, (300,))
        for count in (1, 8, 32, 128, 299):
            mask[:, :count], mask[:, count:] = False, True
            x = spoilt(x, mask, 1e4 if dtype != np.float16 else 1e3)
            y = np.moveaxis(call(op, place, x, weight, bias, mask=mask), 1, -1)
            assert_precise(y[mask], *packed(op, place, x, weight, bias, mask))

    def test_long(self, op, place, dtype, engine):
        x, weight, bias, mask = problem(dtype, (9000,), samples=3)
        y = np.moveaxis(call(op, place, x, weight, bias, mask=mask), 1, -1)
        assert_precise(y[mask], *packed(op, place, x, weight, bias, mask))
        assert not np.any(y[~mask])

    def test_rounded_once(self, op, place, dtype, backend):
        x, weight, bias, mask = problem(dtype, (33,))
        for activation in (None, "relu", "silu", "gelu", "gelu_tanh"):
            options = {"mask": mask, "activation": activation}
            wide = call(op, place, x.astype(compute_type(dtype)), weight, bias, **options)
            y = call(op, place, x, weight, bias, **options)
            assert same_bytes(y, rounded_once(wide, dtype))
            assert not np.any(np.moveaxis(y, 1, -1)[~mask])

    def test_shapes_of_masks(self, op, place, backend):
        x, weight, bias, _ = problem(np.float32, (4, 5))
        generator = np.random.default_rng(0)
        for shape in ((5, 4, 5), (1, 4, 5), (4, 5), (5, 1, 5), (5, 4, 1), (5,), (4, 1), (5, 1, 1), (1,)):
            mask = generator.random(shape) < 0.7
            mask.flat[0] = True
            whole = np.broadcast_to(mask, (5, 4, 5))
            y = call(op, place, x, weight, bias, mask=mask)
            assert same_bytes(y, call(op, place, x, weight, bias, mask=whole.copy()))
            assert same_bytes(y, call(op, place, x, weight, bias, mask=mask.tolist()))
        plain = call(op, place, x, weight, bias, mask=True)
        for everything in (np.ones((5, 4, 5), bool), [True], np.True_):
            assert same_bytes(call(op, place, x, weight, bias, mask=everything), plain)
        assert not np.any(call(op, place, x, weight, bias, mask=False))

    def test_all_true_is_as_none(self, op, place, dtype, backend):
        x, weight, bias, mask = problem(dtype, (33,))
        mask[...] = True
        y = call(op, place, x, weight, bias, mask=mask)
        exact = packed(op, place, x, weight, bias, mask)
        for result in (y, call(op, place, x, weight, bias)):
            assert_precise(np.moveaxis(result, 1, -1)[mask], *exact)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_layouts(self, op, place, layout, dtype, backend):
        axis, there, _ = PLACES[place]
        x, weight, bias, mask = problem(dtype, (7, 4))
        x, groups = there(x), [groups_of(place)] if op == "group_norm" else []
        options = {"axis": axis} | ({"training": True} if op == "batch_norm" else {})

        def norm(x, mask, out=None):
            pair = {"weight": weight, "bias": bias}
            return getattr(wn, op)(x, *groups, **pair, mask=mask, out=out, **options)

        expected = norm(x, mask)
        other, other_mask = laid_out(x, layout), laid_out(mask, layout)
        before = other_mask.tobytes()
        assert same_bytes(norm(other, mask), expected)
        assert same_bytes(norm(x, other_mask), expected)
        assert same_bytes(norm(other, other_mask), expected)
        assert same_bytes(norm(x.astype(x.dtype.newbyteorder()), mask), expected)
        out = LAYOUTS[layout](x.shape, dtype)
        assert norm(x, other_mask, out=out) is out
        assert same_bytes(out, expected)
        assert norm(other, other_mask, out=other) is other
        assert same_bytes(other, expected)
        assert other_mask.tobytes() == before

    def test_mask_in_the_memory_of_out(self, op, place, dtype, backend):
        x, weight, bias, mask = problem(dtype, (33,))
        expected = call(op, place, x, weight, bias, mask=mask)
        out = PLACES[place][1](np.zeros(x.shape, dtype))
        inside = out.reshape(-1).view(np.bool_)[: mask.size].reshape(mask.shape)
        inside[...] = mask
        assert same_bytes(call(op, place, x, weight, bias, mask=inside, out=out), expected)

    def test_another_dtype_out(self, op, place, dtype, backend):
        x, weight, bias, mask = problem(dtype, (33,))
        wide = call(op, place, x, weight, bias, mask=mask, dtype=compute_type(dtype))
        for other in DTYPES:
            y = call(op, place, x, weight, bias, mask=mask, dtype=other)
            assert (y.dtype, is_rounded(y, wide)) == (other, True)

    def test_neither_nan_nor_inf_spreads(self, op, place, dtype, backend):
        """Not masked, they stay in their slice as ever."""
        x, _, _, mask = problem(dtype, (33,))
        mask[3, 4] = True
        clean = call(op, place, x, mask=mask)
        x[3, 2, 4] = np.nan
        y = np.moveaxis(call(op, place, x, mask=mask), 1, -1)
        bad = np.isnan(y)
        assert bad[3, 4, 2]
        assert not np.any(bad[~mask])
        assert not np.any(bad[..., 4:])
        assert same_bytes(y[~bad], np.moveaxis(clean, 1, -1)[~bad])


@EVERY_PLACE
class TestInference:
    @pytest.mark.parametrize("positions", POSITIONS, ids=name_of)
    def test_is_zero_under_the_mask(self, place, positions, dtype, engine):
        axis, there, back = PLACES[place]
        x, weight, bias, mask = problem(dtype, positions)
        mean, var = np.linspace([-1, 0.5], [1, 2], CHANNELS, axis=1)
        plain = np.moveaxis(back(wn.batch_norm(there(x), mean, var, weight, bias, axis=axis)), 1, -1)
        for value in (0.0, np.nan, np.inf):
            data = there(spoilt(x, mask, value))
            y = wn.batch_norm(data, mean, var, weight, bias, axis=axis, mask=mask)
            y = np.moveaxis(back(y), 1, -1)
            assert same_bytes(y[mask], plain[mask])
            assert not np.any(y[~mask])
        assert not np.any(wn.batch_norm(there(x), mean, var, weight, bias, axis=axis, mask=False))


@EVERY_PLACE
class TestRunningStatistics:
    @pytest.mark.parametrize("positions", POSITIONS[1:], ids=name_of)
    def test_count_what_the_mask_selects(self, place, positions, dtype, engine):
        axis, there, _ = PLACES[place]
        x, weight, bias, mask = problem(dtype, positions)
        values = np.moveaxis(x, 1, -1)[mask]
        deviations, var = exact_deviations(values, (0,))
        batch = (values - deviations)[0], var[0] * len(values) / (len(values) - 1)
        running = np.stack([np.zeros(CHANNELS), np.ones(CHANNELS)])
        data = there(spoilt(x, mask, np.nan))
        wn.batch_norm(data, *running, weight, bias, training=True, momentum=0.25, axis=axis, mask=mask)
        for got, old, new in zip(running, (0.0, 1.0), batch, strict=True):
            exact = 0.75 * old + 0.25 * new
            size = np.maximum(np.abs(exact), 0.25 * np.sqrt(batch[1]))
            budget = 2 * MAX_ULP[np.dtype(np.float64)] * np.finfo(np.float64).eps
            assert np.all(np.abs(got - exact) <= budget * size)

    def test_all_masked_leaves_them_alone(self, place, dtype, backend):
        axis, there, back = PLACES[place]
        x, weight, bias, mask = problem(dtype, (33,))
        mean, var = np.full(CHANNELS, 5.0, dtype), np.full(CHANNELS, 3.0, dtype)
        for value in (1.0, np.nan):
            data = there(np.full_like(x, value))
            y = wn.batch_norm(data, mean, var, weight, bias, training=True, axis=axis, mask=mask & False)
            assert not np.any(back(y))
            assert np.all(mean == 5)
            assert np.all(var == 3)

    def test_one_value_is_an_error(self, place, dtype, backend):
        axis, there, _ = PLACES[place]
        x, _, _, mask = problem(dtype, (33,))
        mask[...] = False
        mask[3, 7] = True
        mean, var = np.full(CHANNELS, 5.0, dtype), np.full(CHANNELS, 3.0, dtype)
        out = there(np.full_like(x, 9))
        for buffers in ((mean, var), (None, None)):
            with pytest.raises(ValueError, match=r"one value per channel.*training=False"):
                wn.batch_norm(there(x), *buffers, training=True, axis=axis, mask=mask, out=out)
        assert np.all(mean == 5)
        assert np.all(var == 3)
        assert np.all(out[:, 0] == there(np.full_like(x, 9))[:, 0])
        mask[0, 0] = True
        wn.batch_norm(there(x), mean, var, training=True, axis=axis, mask=mask)
        assert np.all(mean != 5)


def test_padded_sequences(dtype, backend):
    """What masks are for: sequences of 3, 5, 0 and 1, padded to 5, as one batch and one after the other."""
    lengths = np.array([3, 5, 0, 1])
    mask = np.arange(5) < lengths[:, None]
    x = spoilt(random_data(0, (4, 3, 5), dtype), mask, np.nan)
    running = np.zeros((2, 2, 3))
    y = wn.batch_norm(x, *running[0], training=True, mask=mask)
    together = np.concatenate([x[i, :, :n] for i, n in enumerate(lengths)], axis=1)[None]
    expected = exact_norm(Norm("", "batch_norm", 1), together)
    parts = np.concatenate([y[i, :, :n] for i, n in enumerate(lengths)], axis=1)[None]
    assert_precise(parts, *expected)
    wn.batch_norm(together, *running[1], training=True)
    np.testing.assert_allclose(running[0], running[1], rtol=2.0**-40)


# ---- statistics


def masked_exact(x, axis, mask):
    """Counts, and means and variances as exact fractions, of what is selected; in the order of the result."""
    kept = [a for a in range(x.ndim) if a not in axis]
    rows = np.transpose(x, [*kept, *axis]).reshape(-1, int(np.prod([x.shape[a] for a in axis])))
    masks = np.transpose(np.broadcast_to(mask, x.shape), [*kept, *axis]).reshape(rows.shape)
    for row, select in zip(rows, masks, strict=True):
        values = row[select]
        yield values.size, *(rational_moments(values) if values.size else (None, None))


def close(value, exact, ulps, std=0.0):
    """Within so many units in the last place, in value's dtype."""
    unit = float(np.spacing(np.abs(np.float64(exact)).astype(value.dtype)))
    unit = max(unit, float(std) * float(finfo(value.dtype).eps) / 2)
    return abs(float(value) - float(exact)) <= ulps * unit + (float(finfo(value.dtype).smallest_subnormal))


@pytest.mark.parametrize(
    "shape", [(5, 4, 6), (1, 4, 6), (4, 6), (5, 1, 6), (5, 4, 1), (6,), (4, 1), (1,), ()], ids=str
)
@pytest.mark.parametrize("axis", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2), ()], ids=str)
def test_moments(axis, shape, dtype, engine):
    x = random_data(0, (5, 4, 6), dtype, 3.0)
    mask = np.asarray(np.random.default_rng(1).random(shape) < 0.6)
    for value in (0.0, np.nan, np.inf):
        data = np.where(mask, x, np.array(value, dtype))
        m = wn.moments(data, axis, mask=mask)
        mean, var = wn.mean_var(data, axis, mask=mask)
        counts = np.broadcast_to(m.count, m.shape).ravel()
        results = zip(counts, *(np.atleast_1d(v).ravel() for v in (m.mean, m.var(), mean, var)), strict=True)
        for (count, *values), (exact_count, *exact) in zip(results, masked_exact(x, axis, mask), strict=True):
            assert count == exact_count
            if count == 0:
                assert np.all(np.isnan([float(v) for v in values]))
                continue
            std = float(exact[1]) ** 0.5
            assert close(values[0], exact[0], 2, std)
            assert close(values[1], exact[1], 2)
            assert close(values[2], exact[0], 1 if dtype != np.float64 else 2, std)
            assert close(values[3], exact[1], 1 if dtype != np.float64 else 2)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("n", [33, 129, 4099, 20_000])
def test_moments_of_many(n, axis, dtype, engine):
    """Each column with a mask of its own, or one for all."""
    x = random_data(n, (n, 3), dtype, 10.0)
    own = np.random.default_rng(n).random((n, 3)) < 0.5
    own[: n // 8] = False
    for mask in (own, own[:, :1]):
        data, select = np.where(mask, x, np.array(np.nan, dtype)), mask
        if axis == 1:
            data, select = np.ascontiguousarray(data.T), np.ascontiguousarray(mask.T)
        m = wn.moments(data, axis, mask=select)
        for k in range(3):
            values = x[np.broadcast_to(mask, x.shape)[:, k], k]
            exact = rational_moments(values)
            assert np.broadcast_to(m.count, 3)[k] == values.size
            if values.size:
                assert close(m.mean[k], exact[0], 2)
                assert close(m.var()[k], exact[1], 2)


def test_keepdims_and_ddof(dtype, backend):
    x, mask = random_data(0, (5, 4), dtype), np.arange(5)[:, None] < 3
    for keepdims in (False, True):
        result = wn.mean_var(x, 0, ddof=1, keepdims=keepdims, mask=mask)
        expected = wn.mean_var(x[:3], 0, ddof=1, keepdims=keepdims)
        for value, other in zip(result, expected, strict=True):
            assert (value.shape, value.dtype) == (other.shape, dtype)
            np.testing.assert_allclose(np.float64(value), np.float64(other), rtol=2 * float(finfo(dtype).eps))
    assert np.all(np.isnan(np.float64(wn.mean_var(x, 0, ddof=3, mask=mask)[1])))


def test_update(dtype, backend):
    """Batches with masks of their own; an empty one changes nothing."""
    x = random_data(0, (40, 3), dtype, 5.0)
    mask = np.random.default_rng(0).random((40, 3)) < 0.5
    data = np.where(mask, x, np.array(np.nan, dtype))
    m = wn.moments(data[:10], 0, mask=mask[:10])
    assert m.update(data[10:], mask=mask[10:]) is m
    np.testing.assert_array_equal(m.count, mask.sum(axis=0))
    before = m.copy()
    assert m.update(np.full((2, 3), np.nan, dtype), mask=False) == before
    assert m.update(data[:1], mask=np.zeros(3, bool)) == before
    for k in range(3):
        exact = rational_moments(x[mask[:, k], k])
        assert close(m.mean[k], exact[0], 2)
        assert close(m.var()[k], exact[1], 2)
    whole = wn.moments(x, 0).update(x)
    assert np.all(whole.update(data, mask=mask).count == 80 + mask.sum(axis=0))


def test_masks_of_empty_arrays(dtype, backend):
    for op in OPS:
        x, mask = np.empty((0, 4, 3), dtype), np.empty((0, 3), bool)
        groups = [2] if op == "group_norm" else []
        options = {"training": True} if op == "batch_norm" else {}
        assert getattr(wn, op)(x, *groups, mask=mask, **options).shape == x.shape
    m = wn.moments(np.empty((0, 3), dtype), 0, mask=np.empty((0, 3), bool))
    assert (m.count, m.shape) == (0, (3,))


@pytest.mark.parametrize("op", [*OPS, "moments", "mean_var"])
@pytest.mark.parametrize(("mask", "error", "words"), [
    (np.ones((4, 5), int), TypeError, r"mask has dtype int64"),
    (np.ones((4, 5)), TypeError, r"mask has dtype float64"),
    ([[1, 0, 1, 0, 1]] * 4, TypeError, r"mask has dtype int64"),
    (["a"] * 5, TypeError, r"mask has dtype <U1"),
    (np.ones((5, 4), bool), ValueError, r"mask has shape \(5, 4\)"),
    (np.ones((1, 4, 3, 5), bool), ValueError, r"mask has shape \(1, 4, 3, 5\)"),
    (np.ones(4, bool), ValueError, r"mask has shape \(4,\)"),
    ([[True], [True, False]], ValueError, r"mask"),
], ids=str)  # fmt: skip
def test_errors(op, mask, error, words, backend):
    x, out = np.ones((4, 3, 5)), np.full((4, 3, 5), 7.0)
    function = getattr(wn, op)
    arguments = {
        "batch_norm": {"training": True, "out": out},
        "group_norm": {"num_groups": 3, "out": out},
        "instance_norm": {"out": out},
    }.get(op, {})
    with pytest.raises(error, match=words):
        function(x, mask=mask, **arguments)
    if op == "moments":
        m = wn.moments(x)
        with pytest.raises(error, match=words):
            m.update(x, mask=mask)
        assert m == wn.moments(x)
    assert np.all(out == 7)
