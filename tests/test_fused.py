"""What a call does beside the norm, in the same pass: residual additions, int8, folding."""

import itertools

import numpy as np
import pytest
import welnorm as wn
from cases import (
    LAYER,
    LAYOUTS,
    NORMS,
    RMS,
    WIDE,
    Norm,
    compute_type,
    finfo,
    laid_out,
    name_of,
    random_data,
    random_parameters,
    same_bytes,
    same_values,
    ulp_of,
)

SHAPE = (5, 6, 7, 4)
EVERY_NORM = pytest.mark.parametrize("norm", NORMS, ids=name_of)
ALONG = {"last": -1, "middle": 1, "apart": (0, -1), "trailing": (-2, -1)}
EVERY_AXIS = pytest.mark.parametrize("axis", ALONG.values(), ids=ALONG)


def problem(norm, dtype, shape=SHAPE):
    return random_data(0, shape, dtype, 0.5), *random_parameters(1, norm.affine_shape(shape), dtype)


# ---- residual additions


ADD = {
    "add_layer_norm": (wn.add_layer_norm, wn.layer_norm, {}),
    "add_rms_norm": (wn.add_rms_norm, wn.rms_norm, {}),
    "add_rms_norm offset": (wn.add_rms_norm, wn.rms_norm, {"weight_offset": 1.0}),
}
EVERY_ADD = pytest.mark.parametrize("call", ADD)
ALL_LAYOUTS = {"C-order": np.zeros} | LAYOUTS


def add_problem(dtype, axis=-1, shape=SHAPE):
    """x, residual, weight, bias; what comes out in two steps."""
    affine = Norm("", "layer_norm", axis).affine_shape(shape)
    return (
        random_data(0, shape, dtype, 0.5),
        random_data(1, shape, dtype),
        *random_parameters(2, affine, dtype),
    )


def two_steps(call, x, residual, weight=None, bias=None, **options):
    _, norm, extra = ADD[call]
    h = x + residual
    return norm(h, weight, bias, **extra, **options), h


def one_step(call, *arrays, **options):
    function, _, extra = ADD[call]
    return function(*arrays, **extra, **options)


def same_pair(result, expected):
    return all(map(same_bytes, result, expected))


@EVERY_ADD
class TestAdd:
    @EVERY_AXIS
    def test_is_the_two_steps(self, call, axis, dtype, engine):
        x, residual, weight, bias = add_problem(dtype, axis)
        for pair in itertools.product((None, weight), (None, bias)):
            for options in ({"eps": 0.25}, {"dtype": np.float64}, {"dtype": np.float16}, {}):
                expected = two_steps(call, x, residual, *pair, axis=axis, **options)
                result = one_step(call, x, residual, *pair, axis=axis, **options)
                assert same_pair(result, expected)
                assert result[1].dtype == dtype
        assert same_pair(one_step(call, x, x, axis=axis), two_steps(call, x, x, axis=axis))

    @pytest.mark.parametrize("n", [1, 3, 8, 31, 64, 130, 769, 4097, 9000])
    def test_lengths(self, call, n, dtype, engine):
        arrays = add_problem(dtype, -1, (5, n))
        assert same_pair(one_step(call, *arrays), two_steps(call, *arrays))

    @EVERY_AXIS
    def test_any_layout(self, call, axis, dtype, backend):
        arrays = add_problem(dtype, axis)
        expected = two_steps(call, *arrays, axis=axis)
        layouts = list(ALL_LAYOUTS)
        for i, layout in enumerate(layouts):  # each array in a layout of its own
            x, residual, weight, bias = arrays
            if i:
                x, weight = laid_out(x, layout), laid_out(weight, layout)
            residual = laid_out(residual, layouts[1 + (i + 2) % (len(layouts) - 1)])
            before = x.tobytes(), residual.tobytes()
            out, sum_out = (ALL_LAYOUTS[layouts[(i + k) % len(layouts)]](SHAPE, dtype) for k in (3, 5))
            assert same_pair(one_step(call, x, residual, weight, bias, axis=axis), expected)
            result = one_step(call, x, residual, weight, bias, axis=axis, out=out, sum_out=sum_out)
            assert result[0] is out
            assert result[1] is sum_out
            assert same_pair(result, expected)
            assert (x.tobytes(), residual.tobytes()) == before

    @EVERY_AXIS
    @pytest.mark.parametrize(("out_is", "sum_is"), [
        (None, "residual"), (None, "x"), ("x", None), ("residual", None), ("x", "residual"),
         ("residual", "x"),
    ])  # fmt: skip
    def test_in_place(self, call, out_is, sum_is, axis, dtype, backend):
        arrays = add_problem(dtype, axis)
        expected = two_steps(call, *arrays, axis=axis)
        for layout, make in ALL_LAYOUTS.items():
            named = {"x": make(SHAPE, dtype), "residual": make(SHAPE, dtype), None: None}
            named["x"][...], named["residual"][...] = arrays[:2]
            pair, (out, sum_out) = (named["x"], named["residual"]), (named[out_is], named[sum_is])
            result = one_step(call, *pair, *arrays[2:], axis=axis, out=out, sum_out=sum_out)
            assert same_pair(result, expected), layout
            assert out is None or result[0] is out
            assert sum_out is None or result[1] is sum_out

    @pytest.mark.parametrize("shift", [-3, -1, 1, 2, 64, 839])
    @pytest.mark.parametrize(
        "which", ["out over x", "out over residual", "sum_out over x", "sum_out over residual"]
    )
    def test_partial_overlap(self, call, which, shift, dtype, backend):
        x, residual, weight, bias = add_problem(dtype)
        expected = two_steps(call, x, residual, weight, bias)
        memory = np.zeros(3 * x.size, dtype)
        view, other = (memory[s : s + x.size].reshape(SHAPE) for s in (x.size, x.size + shift))
        output, over = which.split(" over ")
        view[...] = x if over == "x" else residual
        arrays = (view, residual) if over == "x" else (x, view)
        assert same_pair(one_step(call, *arrays, weight, bias, **{output: other}), expected)

    def test_overlap_in_another_order(self, call, dtype, backend):
        shape = (5, 5, 5, 5)
        x, residual, weight, bias = add_problem(dtype, -1, shape)
        expected = two_steps(call, x, residual, weight, bias)
        for reorder in (lambda a: a[::-1], lambda a: a[..., ::-1], lambda a: a.T, lambda a: a.swapaxes(1, 3)):
            for name in ("out", "sum_out"):
                view, other = x.copy(), residual.copy()
                assert same_pair(
                    one_step(call, view, residual, weight, bias, **{name: reorder(view)}), expected
                )
                assert same_pair(one_step(call, x, other, weight, bias, **{name: reorder(other)}), expected)

    @pytest.mark.parametrize("output", ["out", "sum_out"])
    @pytest.mark.parametrize("which", [2, 3])
    def test_overlap_with_a_parameter(self, call, which, output, dtype, backend):
        arrays = list(add_problem(compute_type(dtype)))  # parameters of the compute type are used as they are
        arrays[:2] = (array.astype(dtype) for array in arrays[:2])
        expected = two_steps(call, *arrays)
        memory = np.zeros(2 * arrays[0].size, dtype)
        target = memory[: arrays[0].size].reshape(SHAPE)
        for start in (0, 8):
            copy = list(arrays)
            view = memory[start:].view(arrays[which].dtype)[: arrays[which].size]
            view[...] = arrays[which]
            copy[which] = view
            assert same_pair(one_step(call, *copy, **{output: target}), expected)

    def test_x_and_residual_are_one(self, call, dtype, backend):
        x, _, weight, bias = add_problem(dtype)
        expected = two_steps(call, x, x, weight, bias)
        view = x.copy()
        assert same_pair(one_step(call, view, view, weight, bias, sum_out=view), expected)
        assert same_bytes(view, expected[1])
        view = x.copy()
        assert same_pair(one_step(call, view, view, weight, bias, out=view), expected)

    def test_sums_round_overflow_and_cancel(self, call, dtype, backend):
        largest = float(finfo(dtype).max)
        x = np.array([[1, 1, 1, 1], [largest, 1, 2, 3], [1, 2, 3, 4], [np.inf, 1, 2, 3]], dtype)
        residual = np.array(
            [[1e-9, 1e-3, 1e-5, 0], [largest, 1, 1, 1], [-1, -2, -3, -4], [-np.inf, 0, 0, 0]], dtype
        )
        with np.errstate(all="ignore"):
            expected = two_steps(call, x, residual)
        result = one_step(call, x, residual)
        assert all(map(same_values, result, expected))

    def test_empty(self, call, dtype, backend):
        for shape in ((0, 3), (3, 0), (0,)):
            y, h = one_step(call, np.empty(shape, dtype), np.empty(shape, dtype))
            assert (y.shape, h.shape, y.dtype, h.dtype) == (shape, shape, dtype, dtype)

    def test_what_asarray_takes(self, call, backend):
        x, residual = [[1.0, 2.0, 4.0]], [[1, 2, 3]]
        expected = two_steps(call, np.array(x), np.float64(residual))
        assert same_pair(one_step(call, x, residual), expected)
        assert same_pair(one_step(call, np.array(x, ">f8"), residual), expected)


# ---- int8


INT8 = {
    "layer_norm_int8": (wn.layer_norm_int8, wn.layer_norm, {}),
    "rms_norm_int8": (wn.rms_norm_int8, wn.rms_norm, {}),
    "rms_norm_int8 offset": (wn.rms_norm_int8, wn.rms_norm, {"weight_offset": 1.0}),
}


def quantised(call, x, *pair, axis=-1, scale=None, **options):
    """The documented formula, on the float result."""
    _, norm, extra = INT8[call]
    axes = tuple(np.atleast_1d(axis) % x.ndim)
    y = norm(x, *pair, axis=axis, dtype=compute_type(x.dtype), **extra, **options)
    if scale is None:
        largest = np.max(np.abs(y), axis=axes, keepdims=True)
        scale = (largest / y.dtype.type(127)).astype(np.float32)
        scale[scale == 0] = 1
    shape = tuple(1 if axis in axes else length for axis, length in enumerate(x.shape))
    scale = np.broadcast_to(np.float32(scale), shape)
    with np.errstate(invalid="ignore", over="ignore"):
        q = np.clip(np.rint(y / scale.astype(y.dtype)), -127, 127)
    return np.where(np.isnan(q), 0, q).astype(np.int8), scale


def assert_quantised(call, x, *pair, **options):
    function, _, extra = INT8[call]
    q, scale = function(x, *pair, **options, **extra)
    expected_q, expected_scale = quantised(call, x, *pair, **options)
    assert (q.dtype, q.shape, scale.dtype, scale.shape) == (
        np.int8,
        x.shape,
        np.float32,
        expected_scale.shape,
    )
    np.testing.assert_array_equal(scale, expected_scale)
    np.testing.assert_array_equal(q, expected_q)
    return q, scale


@pytest.mark.parametrize("call", INT8)
class TestInt8:
    @EVERY_AXIS
    def test_is_the_formula(self, call, axis, dtype, engine):
        x, _, weight, bias = add_problem(dtype, axis)
        for pair in itertools.product((None, weight), (None, bias)):
            for scale in (None, 0.02, 1, 1e-30, 1e30):
                assert_quantised(call, x, *pair, axis=axis, scale=scale)
        q, _ = assert_quantised(call, x, weight, bias, axis=axis, eps=0.5)
        assert np.abs(q.astype(int)).max() == 127

    @pytest.mark.parametrize("n", [1, 2, 7, 16, 33, 513, 4097, 100_000])
    def test_lengths(self, call, n, dtype, engine):
        for offset in (0.0, 3.0):
            x = random_data(n, (3, n), dtype, offset)
            pair = random_parameters(1, n, dtype)
            assert_quantised(call, x, *pair)
            assert_quantised(call, x, *pair, scale=0.05)

    @EVERY_AXIS
    def test_scale_of_each_row(self, call, axis, dtype, backend):
        x, _, weight, bias = add_problem(dtype, axis)
        shape = quantised(call, x, axis=axis)[1].shape
        scales = np.exp(random_data(3, shape, np.float64)) / 50
        for scale in (
            scales,
            scales.astype(np.float32),
            scales.astype(np.float16),
            np.asfortranarray(scales),
        ):
            _, given = assert_quantised(call, x, weight, bias, axis=axis, scale=scale)
            assert not np.shares_memory(given, scale)
        _, given = assert_quantised(call, x, weight, axis=axis, scale=[0.5])
        assert np.all(given == 0.5)

    def test_ties_go_to_even_and_ends_are_clipped(self, call, dtype, backend):
        bias = np.array([-1000, -127.5, -127, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 126.5, 127.5, 1000], dtype)
        function = INT8[call][0]
        q, _ = function(np.zeros((2, bias.size), dtype), None, bias, scale=1.0)
        np.testing.assert_array_equal(q, [[-127, -127, -127, -2, -2, 0, 0, 2, 2, 126, 127, 127]] * 2)

    def test_rows_of_zeros(self, call, dtype, engine):
        x = random_data(0, (5, 40), dtype)
        x[1], x[3] = 0, 0
        q, scale = assert_quantised(call, x)
        assert not np.any(q[[1, 3]])
        assert np.all(scale[[1, 3]] == 1)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_rows_that_are_not_finite(self, call, value, dtype, engine):
        x = random_data(0, (5, 40), dtype)
        clean = INT8[call][0](x)
        x[2, 7] = value
        q, scale = INT8[call][0](x)
        where = np.arange(5) != 2
        assert same_bytes(q[where], clean[0][where])
        assert same_bytes(scale[where], clean[1][where])
        assert not np.any(q[2])
        y = INT8[call][1](x)
        static, _ = INT8[call][0](x, scale=0.01)
        assert not np.any(static[2][np.isnan(y[2])])

    def test_tiny_results(self, call, dtype, engine):
        """Scales down to the smallest float32: what is below counts as zeros."""
        for tiny in (1e-5, 1e-30, 1e-40, 1e-44, 1e-300):
            weight = np.full(33, tiny)
            assert_quantised(call, random_data(0, (3, 33), dtype), weight)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @EVERY_AXIS
    def test_any_layout(self, call, axis, layout, dtype, backend):
        x, _, weight, bias = add_problem(dtype, axis)
        expected = INT8[call][0](x, weight, bias, axis=axis)
        other = [laid_out(array, layout) for array in (x, weight, bias)]
        assert same_pair(INT8[call][0](*other, axis=axis), expected)

    def test_empty(self, call, dtype, backend):
        for shape, kept in (((0, 3), (0, 1)), ((3, 0), (3, 1)), ((0,), (1,))):
            q, scale = INT8[call][0](np.empty(shape, dtype))
            assert (q.shape, q.dtype, scale.shape, scale.dtype) == (shape, np.int8, kept, np.float32)

    def test_integers(self, call, backend):
        x = np.arange(24).reshape(4, 6)
        assert same_pair(INT8[call][0](x), INT8[call][0](x.astype(np.float64)))


# ---- the offset of RMS norm's weight


@pytest.mark.parametrize("offset", [1.0, -0.5, 1 / 3])
def test_weight_offset(offset, dtype, engine):
    """Added in the compute type: the same as adding it before."""
    x, weight, bias = problem(RMS, dtype)
    compute = compute_type(dtype)
    whole = weight.astype(compute) + compute.type(offset)
    assert same_bytes(wn.rms_norm(x, weight, bias, weight_offset=offset), wn.rms_norm(x, whole, bias))
    assert same_bytes(wn.rms_norm(x, bias=bias, weight_offset=offset), wn.rms_norm(x, bias=bias))


def test_rms_of_a_row_without_spread(dtype, backend):
    """Not centred: a constant row comes out as its sign, and zeros as zeros."""
    x = np.repeat(np.array([[3.0], [-0.5], [0.0]], dtype), 40, axis=1)
    np.testing.assert_array_equal(
        np.float64(wn.rms_norm(x, eps=0.0)[:2]), np.repeat([[1.0], [-1.0]], 40, axis=1)
    )
    assert not np.any(wn.rms_norm(x)[2])


def test_norms_that_are_others(dtype, backend):
    """Group norm of one channel a group is instance norm; of one group, layer norm over all but the batch."""
    x = random_data(0, SHAPE, dtype)
    assert same_bytes(wn.group_norm(x, SHAPE[1]), wn.instance_norm(x))
    rounding = 4 * float(finfo(dtype).eps)  # their blocks may be cut otherwise
    whole = np.float64(wn.layer_norm(x, axis=(1, 2, 3)))
    np.testing.assert_allclose(np.float64(wn.group_norm(x, 1)), whole, rtol=rounding, atol=rounding)
    assert same_bytes(wn.instance_norm(x), wn.layer_norm(x, axis=(2, 3)))
    assert same_bytes(LAYER(x), wn.instance_norm(x.reshape(1, -1, 4)).reshape(SHAPE))


# ---- folding batch norm into the layer before it


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("given", list(itertools.product([True, False], repeat=3)))
def test_fold_batch_norm(given, axis, dtype):
    weight = random_data(0, (4, 4, 4), dtype)
    bias, bn_weight, bn_bias = (
        random_data(k, 4, dtype) if there else None for k, there in enumerate(given, 1)
    )
    mean, var = random_data(5, 4, dtype), random_data(6, 4, dtype) ** 2
    before = [a.tobytes() for a in (weight, mean, var)]
    folded = wn.fold_batch_norm(weight, bias, mean, var, bn_weight, bn_bias, eps=1e-3, axis=axis)
    wide = [
        None if a is None else a.astype(np.longdouble) for a in (weight, bias, mean, var, bn_weight, bn_bias)
    ]
    scale = (1 if bn_weight is None else wide[4]) / np.sqrt(wide[3] + np.longdouble(1e-3))
    shift = (0 if bias is None else wide[1]) - wide[2]
    exact = (
        np.moveaxis(np.moveaxis(wide[0], axis, -1) * scale, -1, axis),
        shift * scale + (0 if bn_bias is None else wide[5]),
    )
    sizes = np.abs(exact[0]), np.abs(shift * scale) + np.abs(exact[1]) + 1e-30
    for value, of, size in zip(folded, exact, sizes, strict=True):
        assert value.dtype == dtype
        assert np.all(
            np.abs(value.astype(np.longdouble) - of) <= (0.5 + 2.0**-9) * ulp_of(of, dtype) + size * 2.0**-50
        )
    assert [a.tobytes() for a in (weight, mean, var)] == before


@pytest.mark.parametrize("dtype", WIDE)
def test_folded_is_the_same_network(dtype, backend):
    """linear, then batch norm, in one."""
    x, weight, bias = random_data(0, (30, 9), dtype), random_data(1, (5, 9), dtype), random_data(2, 5, dtype)
    mean, var = random_data(3, 5, dtype), random_data(4, 5, dtype) ** 2 + dtype(0.1)
    pair = random_parameters(5, 5, dtype)
    apart = wn.batch_norm(x @ weight.T + bias, mean, var, *pair)
    folded, shift = wn.fold_batch_norm(weight, bias, mean, var, *pair)
    np.testing.assert_allclose(x @ folded.T + shift, apart, rtol=0, atol=200 * np.finfo(dtype).eps)
