"""What once went wrong here, each a case of its own; what went wrong elsewhere is in test_numerics.py."""

import numpy as np
import pytest
import welnorm as wn
from numpy.lib.stride_tricks import as_strided


def test_tiny_rows_with_a_tiny_eps(backend):
    """Scaling the row must not take eps, scaled with it, out of the range."""
    y = wn.layer_norm(np.array([1.0, -1, 2, -2]) * 1e-305, np.full(4, 1e200), eps=1e-272)
    np.testing.assert_allclose(y, [1e31, -1e31, 2e31, -2e31], rtol=1e-12)


def test_running_mean_far_from_large_data(backend):
    """The difference of x and mean left the range, the result does not."""
    x = np.full((2, 1), np.finfo(np.float64).max)
    y = wn.batch_norm(x, np.array([-1e301]), np.array([1e4]))
    np.testing.assert_allclose(y, 1.797693e306, rtol=1e-6)


def test_product_beyond_the_range_on_the_wide_path(backend):
    x = np.array([1, -0.3, -0.3, -0.3]) * 1e200
    y = wn.layer_norm(x, np.full(4, 1.5e308), np.full(4, -1e308))
    np.testing.assert_allclose(y[0], 1.5980762113533157e308, rtol=1e-12)


def test_floating_point_errors_of_the_caller_do_not_interrupt_training(backend):
    """Both running statistics are updated, whatever np.errstate says."""
    x = np.full((4, 2), 1e-30, np.float32)
    x[0] = 2e-30
    mean, var = np.zeros(2, np.float32), np.ones(2, np.float32)
    with np.errstate(all="raise"):
        wn.batch_norm(x, mean, var, training=True)
    assert (mean > 0).all()
    np.testing.assert_array_equal(var, np.float32(0.9))


def test_output_that_overlaps_itself():
    view = as_strided(np.zeros(2000, np.float32), (10, 100), (400, 4))
    assert wn.layer_norm(view, out=view) is view
    view = as_strided(np.zeros(2000, np.float32), (10, 101), (400, 4))
    with pytest.raises(ValueError, match="out has elements that share memory"):
        wn.layer_norm(view, out=view)


def test_misaligned_parameters(backend):
    record = np.zeros(3, dtype=[("pad", "i1"), ("weight", "f4"), ("bias", "f4")])
    record["weight"], record["bias"] = [1, 2, 3], [4, 5, 6]
    x = np.random.default_rng(0).standard_normal((4, 3, 5), dtype=np.float32)
    y = wn.batch_norm(x, None, None, record["weight"], record["bias"], training=True)
    expected = wn.batch_norm(x, None, None, record["weight"].copy(), record["bias"].copy(), training=True)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize("count", [-1, 1.5, 1e30])
def test_a_count_that_is_none(count):
    layer = wn.BatchNorm(2)
    with pytest.raises(ValueError, match="num_batches_tracked"):
        layer.load_state_dict(layer.state_dict() | {"num_batches_tracked": count})


def test_moments_over_no_axes_update():
    m = wn.moments([1.0, 2.0], axis=())
    m.update([3.0, 6.0])
    np.testing.assert_array_equal(m.mean, [2.0, 4.0])


@pytest.mark.parametrize("far_channel", [None, 0, 9000])
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("threads", [1, 2])
def test_more_channels_in_inference_than_are_finished_at_a_time(axis, far_channel, threads):
    """Each as it is among a few, in place, too: which way all of them go is known before any is written."""
    channels, rng = 9001, np.random.default_rng(0)
    x = rng.standard_normal((2, channels, 5) if axis == 1 else (2, 5, channels), dtype=np.float32)
    mean, var, weight, bias = rng.random((4, channels), dtype=np.float32)
    if far_channel is not None:
        mean[far_channel] = 1e38
    with wn.num_threads(threads):
        y = wn.batch_norm(x, mean, var, weight, bias, axis=axis)
        own = x.copy()
        wn.batch_norm(own, mean, var, weight, bias, axis=axis, out=own)
    np.testing.assert_array_equal(own, y)
    for c in (0, 1, 4095, 4096, 8999, 9000):
        few = [c, c]
        alike = wn.batch_norm(x.take(few, axis), mean[few], var[few], weight[few], bias[few], axis=axis)
        np.testing.assert_array_equal(y.take(few, axis), alike)
