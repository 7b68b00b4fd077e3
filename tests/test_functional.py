"""What the norms compute, on every backend: values, parameters, outputs, layouts, empty arrays."""

import functools
import itertools

import numpy as np
import pytest
import welnorm as wn
from cases import (
    BATCH,
    BATCH_BLOCKED,
    CASES,
    DTYPES,
    ENGINES,
    INSTANCE,
    INSTANCE_BLOCKED,
    LAYOUTS,
    MAX_ULP,
    NARROW,
    NORMS,
    WIDE,
    Norm,
    assert_precise,
    compute_type,
    exact_affine,
    exact_deviations,
    exact_moments,
    exact_norm,
    finfo,
    is_rounded,
    laid_out,
    name_of,
    random_data,
    random_parameters,
    rounded_once,
    same_bytes,
)

SHAPE = (5, 6, 7, 4)
THREE_DIGITS = pytest.mark.parametrize("dtype", [*WIDE, np.float16])  # bfloat16 has two


def problem(norm, shape, dtype, offset=0.0):
    """Data with a weight and a bias."""
    x = random_data((1, *shape), shape, dtype, offset)
    return x, *random_parameters((2, *shape), norm.affine_shape(shape), dtype)


def test_all_backends_are_here():
    assert wn.available_backends() == ("c", "numba", "reference")


class TestWorkedExamples:
    table = np.array([[10.0, 12.0, 14.0], [20.0, 22.0, 24.0], [30.0, 32.0, 34.0], [40.0, 42.0, 44.0]])

    @THREE_DIGITS
    def test_batch_norm_by_column(self, backend, dtype):
        y = wn.batch_norm(self.table.astype(dtype), training=True)
        assert y.dtype == dtype
        np.testing.assert_array_equal(
            y.astype(np.float64).round(2), np.tile([[-1.34], [-0.45], [0.45], [1.34]], 3)
        )

    @THREE_DIGITS
    def test_layer_norm_by_row(self, backend, dtype):
        y = wn.layer_norm(self.table.astype(dtype))
        assert y.dtype == dtype
        np.testing.assert_array_equal(y.astype(np.float64).round(2), np.tile([-1.22, 0.0, 1.22], (4, 1)))

    def test_four_numbers(self, backend):
        expected = [-1.34, -0.45, 0.45, 1.34]
        np.testing.assert_array_equal(wn.layer_norm([2.0, 4.0, 6.0, 8.0]).round(2), expected)
        np.testing.assert_array_equal(
            wn.layer_norm([2, 4, 6, 8], [2, 2, 2, 2], [1, 1, 1, 1]).round(2), [-1.68, 0.11, 1.89, 3.68]
        )

    def test_running_statistics(self, backend):
        mean, var = np.zeros(3), np.ones(3)
        wn.batch_norm(self.table, mean, var, training=True)
        np.testing.assert_allclose(mean, [2.5, 2.7, 2.9], rtol=1e-15)
        np.testing.assert_allclose(var, 0.9 + 0.1 * 500 / 3, rtol=1e-15)


@functools.lru_cache(maxsize=1)
def exact_results(norm, shape, dtype):
    """What each choice of parameters must give; the engines take turns on a case while this is at hand."""
    x, weight, bias = problem(norm, shape, dtype)
    moments, affine = exact_moments(norm, x), norm.affine(shape)
    choices = itertools.product((None, weight), (None, bias))
    return x, [
        (*pair, *(value.reshape(shape) for value in exact_affine(*moments, affine, *pair, norm.eps)))
        for pair in choices
    ]


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
@pytest.mark.parametrize(("norm", "shape"), CASES, ids=name_of)
def test_values(norm, shape, dtype, engine):
    x, choices = exact_results(norm, shape, dtype)
    for weight, bias, exact, size in choices:
        y = norm(x, weight, bias)
        assert_precise(y, exact, size)
        if dtype in NARROW:
            assert same_bytes(y, rounded_once(norm(x.astype(np.float32), weight, bias), dtype))


@pytest.mark.parametrize("axis", [
    axes for count in (1, 2, 3, 4) for axes in itertools.combinations(range(4), count)
], ids=str)  # fmt: skip
def test_layer_norm_over_any_axes(axis, dtype, backend):
    norm = Norm("any", "layer_norm", axis)
    x, weight, bias = problem(norm, (3, 4, 5, 6), dtype)
    y = norm(x, weight, bias)
    assert_precise(y, *exact_norm(norm, x, weight, bias))
    for same in (tuple(a - 4 for a in axis), axis[::-1], list(axis)):
        assert same_bytes(wn.layer_norm(x, weight, bias, axis=same), y)


def test_layer_norm_over_no_axes(backend, dtype):
    x = random_data(0, (3, 4), dtype)
    np.testing.assert_array_equal(wn.layer_norm(x, 2.0, 0.5, axis=()), np.full((3, 4), 0.5))


@pytest.mark.parametrize("channel_axis", [1, -1])
class TestBatchNorm:
    shapes = (9, 5), (2, 3, 40), (3, 2, 5, 7), (2, 3, 4, 5, 6), (600, 70)

    @pytest.mark.parametrize("engine", ENGINES, indirect=True)
    @pytest.mark.parametrize("shape", [*shapes, (1, 1), (1, 2, 1)], ids=name_of)
    def test_inference(self, shape, channel_axis, dtype, engine):
        norm = Norm("batch_norm", "batch_norm", channel_axis)
        x, weight, bias = problem(norm, shape, dtype)
        mean, var = random_data(3, weight.shape, dtype, 3.0), random_data(4, weight.shape, dtype) ** 2
        before = mean.copy(), var.copy()
        per_channel = np.expand_dims(np.longdouble([mean, var]), tuple(a + 1 for a in norm.reduced(x.shape)))
        for pair in itertools.product((None, weight), (None, bias)):
            y = wn.batch_norm(x, mean, var, *pair, axis=channel_axis, eps=1e-3)
            exact = exact_affine(x - per_channel[0], per_channel[1], norm.affine(x.shape), *pair, eps=1e-3)
            assert_precise(y, *exact)
        assert same_bytes(mean, before[0])
        assert same_bytes(var, before[1])

    @pytest.mark.parametrize("momentum", [0.0, 0.1, 0.37, 1.0])
    @pytest.mark.parametrize("shape", shapes, ids=name_of)
    def test_running_update(self, shape, channel_axis, momentum, dtype, backend):
        norm = Norm("batch_norm", "batch_norm", channel_axis)
        x = problem(norm, shape, dtype)[0]
        reduced = norm.reduced(x.shape)
        deviations, var = exact_deviations(x, reduced)
        count = x.size // var.size
        batch = np.mean(x - deviations, axis=reduced), var.ravel() * count / (count - 1)
        for buffer, max_ulp in ((np.float32, 1), (np.float64, 2 * MAX_ULP[np.dtype(np.float64)])):
            before = random_data(3, (2, var.size), buffer, 2.0)
            after = before.copy()
            y = wn.batch_norm(x, *after, training=True, momentum=momentum, axis=channel_axis)
            assert same_bytes(y, wn.batch_norm(x, training=True, axis=channel_axis))
            for new, old, of_batch in zip(after, before, batch, strict=True):
                terms = np.array([(1 - np.longdouble(momentum)) * old, np.longdouble(momentum) * of_batch])
                size = np.abs([*terms, momentum * np.sqrt(batch[1])]).max(axis=0)
                errors = np.abs(new - terms.sum(axis=0)) / (np.finfo(buffer).eps * size)
                assert errors.max() <= max_ulp

    def test_one_buffer_alone(self, channel_axis, backend):
        x = random_data(0, (6, 5, 6), np.float64)
        mean, var = np.zeros(x.shape[channel_axis]), np.ones(x.shape[channel_axis])
        wn.batch_norm(x, mean, var, axis=channel_axis, training=True)
        for name, both in (("running_mean", mean), ("running_var", var)):
            alone = np.full_like(both, name == "running_var")
            wn.batch_norm(x, **{name: alone}, axis=channel_axis, training=True)
            assert same_bytes(alone, both)

    def test_buffers_of_any_stride(self, channel_axis, backend, dtype):
        x = random_data(0, (4, 5, 5), dtype)
        mean, var = np.zeros(5, dtype), np.ones(5, dtype)
        wn.batch_norm(x, mean, var, axis=channel_axis, training=True)
        for layout in LAYOUTS:
            views = laid_out(np.zeros(5, dtype), layout), laid_out(np.ones(5, dtype), layout)
            wn.batch_norm(x, *views, axis=channel_axis, training=True)
            assert same_bytes(views[0], mean)
            assert same_bytes(views[1], var)
            y = wn.batch_norm(x, *views, axis=channel_axis)
            assert same_bytes(y, wn.batch_norm(x, mean, var, axis=channel_axis))


def inference(x, weight=None, bias=None, **options):
    """Batch norm by running statistics, channels first."""
    mean, var = np.linspace([-1, 0.5], [1, 2], np.shape(x)[1], axis=1)
    return wn.batch_norm(x, mean, var, weight, bias, **options)


inference.affine_shape = BATCH.affine_shape
EVERY_CALL = pytest.mark.parametrize("norm", [*NORMS, inference], ids=name_of)


@EVERY_CALL
class TestOut:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_any_layout(self, norm, layout, dtype, backend):
        arrays = problem(norm, SHAPE, dtype)
        out = LAYOUTS[layout](SHAPE, dtype)
        memory = out if out.base is None else out.base
        before = memory.tobytes()
        assert norm(*arrays, out=out) is out
        assert same_bytes(out, norm(*arrays))
        out[...] = 0  # and nothing was written between its elements
        assert memory.tobytes() == before

    @pytest.mark.parametrize("layout", ["C-order", *LAYOUTS])
    def test_in_place(self, norm, layout, dtype, backend):
        x, weight, bias = problem(norm, SHAPE, dtype)
        y = norm(x, weight, bias)
        x = x if layout == "C-order" else laid_out(x, layout)
        assert norm(x, weight, bias, out=x) is x
        assert same_bytes(x, y)

    @pytest.mark.parametrize("shift", [-128, -3, -1, 1, 2, 64, 839])
    def test_overlap_with_x(self, norm, shift, dtype, backend):
        x, weight, bias = problem(norm, SHAPE, dtype)
        y = norm(x, weight, bias)
        memory = np.zeros(3 * x.size, dtype)
        view, out = (memory[start : start + x.size].reshape(SHAPE) for start in (x.size, x.size + shift))
        view[...] = x
        assert same_bytes(norm(view, weight, bias, out=out), y)

    def test_overlap_with_x_in_another_order(self, norm, dtype, backend):
        x, weight, bias = problem(norm, (5, 5, 5, 5), dtype)
        y = norm(x, weight, bias)
        for reorder in (lambda a: a[::-1], lambda a: a[..., ::-1], lambda a: a.T, lambda a: a.swapaxes(1, 3)):
            view = x.copy()
            assert same_bytes(norm(view, weight, bias, out=reorder(view)), y)

    @pytest.mark.parametrize("wide_first", [True, False])
    @pytest.mark.parametrize("pair", [(np.float64, np.float32), (np.float32, np.float16)], ids=str)
    def test_overlap_of_another_dtype(self, norm, pair, wide_first, backend):
        dtypes = pair if wide_first else pair[::-1]
        x, weight, bias = problem(norm, SHAPE, dtypes[0])
        y = norm(x, weight, bias, dtype=dtypes[1])
        memory = np.zeros(2 * x.size)
        view, out = (memory.view(dtype)[: x.size].reshape(SHAPE) for dtype in dtypes)
        view[...] = x
        assert same_bytes(norm(view, weight, bias, out=out, dtype=dtypes[1]), y)

    @pytest.mark.parametrize("which", [1, 2])
    def test_overlap_with_a_parameter(self, norm, which, dtype, backend):
        arrays = list(problem(norm, SHAPE, dtype))
        y = norm(*arrays)
        out = np.zeros(SHAPE, dtype)
        view = out.reshape(-1)[: arrays[which].size].reshape(arrays[which].shape)
        view[...] = arrays[which]
        arrays[which] = view
        assert same_bytes(norm(*arrays, out=out), y)


@EVERY_CALL
class TestArguments:
    def test_dtype_of_the_result(self, norm, dtype, backend):
        arrays = problem(norm, SHAPE, dtype)
        y = norm(*arrays, dtype=compute_type(dtype))
        assert same_bytes(norm(*arrays), rounded_once(y, dtype))
        for other in DTYPES:
            result = norm(*arrays, dtype=np.dtype(other).name)
            assert (result.dtype, is_rounded(result, y)) == (other, True)
            assert same_bytes(norm(*arrays, dtype=other, out=np.empty(SHAPE, other)), result)

    def test_parameters_of_another_dtype(self, norm, dtype, backend):
        x, *parameters = problem(norm, SHAPE, np.float64)
        x, whole = x.astype(dtype), np.arange(parameters[0].size).reshape(parameters[0].shape)
        pairs = [[parameter.astype(other) for parameter in parameters] for other in DTYPES]
        for pair in (*pairs, (whole, whole > 1)):
            converted = [parameter.astype(compute_type(dtype)) for parameter in pair]
            assert same_bytes(norm(x, *pair), norm(x, *converted))

    @pytest.mark.parametrize("code", ["?", "b", "B", "h", "H", "i", "I", "l", "L", ">i4"])
    def test_integers_become_float64(self, norm, code, backend):
        x = random_data(0, SHAPE, np.float64, 50, 20).astype(code)
        y = norm(x)
        assert y.dtype == np.float64
        assert same_bytes(y, norm(x.astype(np.float64)))

    @pytest.mark.parametrize("layout", ["byte-swapped", *LAYOUTS])
    def test_inputs_of_any_layout(self, norm, layout, dtype, backend):
        arrays = problem(norm, SHAPE, dtype)
        swapped = np.dtype(dtype).newbyteorder()
        others = [a.astype(swapped) if layout == "byte-swapped" else laid_out(a, layout) for a in arrays]
        before = [a.tobytes() for a in others]
        y = norm(*others)
        assert same_bytes(y, norm(*arrays))
        assert y.flags.c_contiguous
        assert [a.tobytes() for a in others] == before

    def test_broadcast_input(self, norm, dtype, backend):
        x, weight, bias = problem(norm, SHAPE, dtype)
        for axis in range(x.ndim):
            view = np.broadcast_to(x.take([1], axis), SHAPE)
            assert view.strides[axis] == 0
            assert same_bytes(norm(view, weight, bias), norm(view.copy(), weight, bias))

    def test_windows_that_overlap(self, norm, dtype, backend):
        x = random_data(0, (6, 5, 10), dtype)
        windows = np.lib.stride_tricks.sliding_window_view(x, 4, axis=-1)
        assert same_bytes(norm(windows), norm(windows.copy()))

    def test_what_asarray_takes(self, norm, backend):
        x, weight, bias = problem(norm, SHAPE, np.float64)
        y = norm(x, weight, bias)

        class Special(np.ndarray):
            pass

        result = norm(x.view(Special), weight.view(Special), bias.view(Special))
        assert type(result) is np.ndarray
        assert same_bytes(result, y)
        out = np.empty(SHAPE).view(Special)
        assert norm(x.view(Special), weight, bias, out=out) is out
        assert same_bytes(np.asarray(out), y)
        assert same_bytes(norm(x.tolist(), weight.tolist(), bias.tolist()), y)
        assert same_bytes(norm(memoryview(x), tuple(weight.tolist()), memoryview(bias)), y)


class TestGroups:
    """Every number of groups, in every layout of the channels."""

    @pytest.mark.parametrize("positions", [(), (1,), (7,), (3, 5)], ids=name_of)
    @pytest.mark.parametrize(("channels", "block"), [(12, 4), (16, 16), (24, 8), (7, 1)])
    def test_any_divisor(self, channels, block, positions, dtype, backend):
        x = random_data(0, (2, channels, *positions), dtype, 3.0)
        weight, bias = random_parameters(1, channels, dtype)
        for groups in (n for n in range(1, channels + 1) if channels % n == 0):
            apart = x.reshape(2, groups, -1)
            deviations, var = exact_deviations(apart, (2,))
            deviations = deviations.reshape(x.shape)
            var = np.broadcast_to(var, apart.shape).reshape(x.shape)
            exact = exact_affine(deviations, var, (1,), weight, bias)
            y = wn.group_norm(x, groups, weight, bias)
            assert_precise(y, *exact)
            last = np.moveaxis(x, 1, -1)
            y = wn.group_norm(np.ascontiguousarray(last), groups, weight, bias, axis=-1)
            assert_precise(np.moveaxis(y, -1, 1), *exact)
            length = channels // groups
            if length % block == 0 or block % length == 0:
                y = wn.group_norm(wn.to_blocked(x, block), groups, weight, bias, axis=(1, -1))
                assert_precise(wn.from_blocked(y), *exact)


@pytest.mark.parametrize(
    "shape", [(9, 7, 1), (9, 2, 4), (4, 3, 5, 1), (2, 3, 6, 16), (3, 2, 5, 3, 4)], ids=name_of
)
def test_blocks_in_any_strides(shape, dtype):
    """Batch norm of channel blocks by the fast lane, or not contiguous: the same results and statistics."""
    x = random_data(0, shape, dtype, 3.0)
    strided = np.zeros([2 * n for n in shape], dtype)[(slice(None, None, 2),) * len(shape)]
    strided[...] = x
    channels = shape[1] * shape[-1]
    weight, bias = random_parameters(1, channels, dtype)
    results = []
    for of in (x, strided):
        running = np.zeros(channels, weight.dtype), np.ones(channels, weight.dtype)
        trained = wn.batch_norm(of, *running, weight, bias, training=True, axis=(1, -1))
        given = wn.batch_norm(of, *running, weight, bias, axis=(1, -1))
        results.append([array.tobytes() for array in (trained, given, *running)])
    assert results[0] == results[1]


class TestPaddedBlocks:
    """Channels that do not fill their last block: parameters are of the channels, padding stays 0."""

    @pytest.mark.parametrize("block", [4, 8, 16])
    @pytest.mark.parametrize("channels", [1, 3, 5, 17, 33])
    def test_like_channels_first(self, channels, block, dtype, backend):
        x = random_data(0, (3, channels, 5, 2), dtype, 3.0)
        weight, bias = random_parameters(1, channels, dtype)
        blocked = wn.to_blocked(x, block)
        mean, var = random_data(2, channels, dtype), random_data(3, channels, dtype) ** 2
        for norm, first in ((BATCH_BLOCKED, BATCH), (INSTANCE_BLOCKED, INSTANCE)):
            y = norm(blocked, weight, bias)
            assert_precise(wn.from_blocked(y, channels), *exact_norm(first, x, weight, bias))
            assert not np.any(y.astype(bool) & ~wn.to_blocked(np.ones_like(x), block).astype(bool))
        y = wn.batch_norm(blocked, mean, var, weight, bias, axis=(1, -1))
        assert same_bytes(wn.from_blocked(y, channels), wn.batch_norm(x, mean, var, weight, bias))
        y = wn.group_norm(blocked, channels, weight, bias, axis=(1, -1))
        assert same_bytes(y, wn.instance_norm(blocked, weight, bias, axis=(1, -1)))

    def test_running_statistics(self, dtype, backend):
        x = random_data(0, (3, 5, 7), dtype, 3.0)
        running = np.zeros((2, 2, 5))
        wn.batch_norm(x, *running[0], training=True)
        wn.batch_norm(wn.to_blocked(x, 4), *running[1], training=True, axis=(1, -1))
        np.testing.assert_allclose(running[1], running[0], rtol=2.0**-40)


class TestEmpty:
    @pytest.mark.parametrize("axis", [-1, 0, (0, 1), (0, 1, 2)])
    @pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (2, 4, 0), (0, 0, 0)], ids=name_of)
    def test_layer_norm(self, shape, axis, dtype, backend):
        norm = Norm("any", "layer_norm", axis)
        x, weight, bias = problem(norm, shape, dtype)
        y = norm(x, weight, bias)
        assert (y.shape, y.dtype) == (shape, dtype)
        out = np.empty(shape, np.float32)
        assert norm(x, weight, bias, out=out, dtype=np.float32) is out
        assert norm(x, out=x) is x

    def test_layer_norm_of_nothing(self, backend):
        assert same_bytes(wn.layer_norm([]), np.empty(0))
        assert same_bytes(wn.layer_norm(np.empty((2, 0), ">f4")), np.empty((2, 0), np.float32))

    @pytest.mark.parametrize("channel_axis", [1, -1])
    @pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0, 3, 5), (2, 0, 0), (2, 3, 0, 3)], ids=name_of)
    def test_batch_norm(self, shape, channel_axis, dtype, backend):
        x = np.empty(shape, dtype)
        mean, var = np.full((2, shape[channel_axis]), 3.0, dtype)
        for training in (False, True):
            y = wn.batch_norm(x, mean, var, var, mean, training=training, axis=channel_axis)
            assert (y.shape, y.dtype) == (shape, dtype)
            out = np.empty(shape, dtype)
            assert wn.batch_norm(x, mean, var, axis=channel_axis, training=training, out=out) is out
        assert np.all([mean, var] == dtype(3))  # no data, nothing learnt
        assert wn.batch_norm(x, training=True, axis=channel_axis).shape == shape

    @pytest.mark.parametrize("norm", NORMS[4:], ids=name_of)
    @pytest.mark.parametrize("shape", [(0, 4, 3), (2, 0, 3), (2, 4, 0), (0, 0, 0)], ids=name_of)
    def test_other_norms(self, norm, shape, dtype, backend):
        x, weight, bias = problem(norm, shape, dtype)
        y = norm(x, weight, bias)
        assert (y.shape, y.dtype) == (shape, dtype)
        out = np.empty(shape, np.float32)
        assert norm(x, weight, bias, out=out, dtype=np.float32) is out
        if norm.op not in ("layer_norm", "rms_norm"):
            own = np.delete(shape, [axis % 3 for axis in np.atleast_1d(norm.axis)])
            assert norm(x, weight, bias, mask=np.ones(own, bool)).shape == shape

    @pytest.mark.parametrize(("shape", "axis"), [((0,), 0), ((0, 3), 0), ((2, 0), 1), ((2, 0), None)])
    def test_statistics(self, shape, axis, dtype, backend):
        x = np.empty(shape, dtype)
        kept = np.empty(shape).sum(axis=axis).shape
        for value in wn.mean_var(x, axis):
            assert (np.shape(value), value.dtype) == (kept, dtype)
            assert np.all(np.isnan(value))
        m = wn.moments(x, axis)
        assert m.shape == kept
        assert m.count == 0
        assert np.all(m.m2 == 0)
        assert np.all(np.isnan(m.mean))


class TestStatistics:
    @pytest.mark.parametrize("ddof", [0, 1, 2.5])
    @pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (2, 1), (0, 1, 2), ()])
    def test_mean_var(self, axis, ddof, dtype, backend):
        x = random_data(0, (7, 6, 9), dtype, 3.0)
        for keepdims in (False, True):
            mean, var = wn.mean_var(x, axis, ddof=ddof, keepdims=keepdims)
            options = {"axis": axis, "dtype": np.longdouble, "keepdims": keepdims}
            exact_mean = np.mean(x, **options)
            count = x.size // exact_mean.size
            exact_var = np.var(x, **options) * count / (count - ddof) if count > ddof else exact_mean * np.nan
            for value, exact in ((mean, exact_mean), (var, exact_var)):
                rtol = 2 * float(finfo(dtype).eps)
                assert (np.shape(value), value.dtype) == (np.shape(exact), dtype)
                np.testing.assert_allclose(np.float64(value), np.float64(exact), rtol=rtol)
        assert isinstance(wn.mean_var(x)[0], dtype)

    def test_promotion_and_layouts(self, dtype, backend):
        x = random_data(0, (7, 6, 9), dtype, 3.0)
        expected = wn.mean_var(x, (0, 2))
        for other in (*(laid_out(x, layout) for layout in LAYOUTS), x.astype(x.dtype.newbyteorder())):
            assert all(map(same_bytes, wn.mean_var(other, (0, 2)), expected))
        mean, var = wn.mean_var([True, False, True, True])
        assert (mean, var, mean.dtype) == (0.75, 0.1875, np.float64)
