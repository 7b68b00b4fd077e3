"""Every public name, called in every backend and with every dtype: a name without an entry here fails."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import welnorm as wn
from cases import (
    BATCH,
    GROUP,
    INSTANCE,
    LAYER,
    RMS,
    assert_precise,
    compute_type,
    exact_norm,
    finfo,
    random_data,
    random_parameters,
    same_bytes,
)

SHAPE = (5, 6, 7)


def data(dtype, shape=SHAPE):
    return random_data(0, shape, dtype, 3.0)


def norm(table_row):
    """The function of a row of the table of norms, with and without what all of them take."""

    def exercise(dtype):
        x = data(dtype)
        weight, bias = random_parameters(1, table_row.affine_shape(SHAPE), dtype)
        exact = exact_norm(table_row, x, weight, bias, 1e-3)
        y = table_row(x, weight, bias, eps=1e-3)
        assert y.dtype == dtype
        assert_precise(y, *exact)
        out = np.empty(SHAPE, np.float64)
        assert table_row(x, weight, bias, eps=1e-3, out=out, dtype="float64") is out
        wide = table_row(x, weight, bias, eps=1e-3, dtype=compute_type(dtype), activation="relu")
        assert np.all(wide == np.where(out < 0, 0, out))

    return exercise


def batch_norm(dtype):
    norm(BATCH)(dtype)
    x, (mean, var) = data(dtype), np.array([np.zeros(6), np.ones(6)], dtype)
    wn.batch_norm(x, mean, var, training=True, momentum=0.5)
    assert np.all((mean > 0.5) & (mean < 2.5) & (var != 1))
    y = wn.batch_norm(np.full_like(x, 3), mean * 0 + 3, var, None, mean, eps=0.0)
    np.testing.assert_array_equal(y, np.broadcast_to(mean[:, None], SHAPE))


def add_norm(name, single):
    def exercise(dtype):
        x, residual = data(dtype), data(dtype)[::-1]
        y, h = getattr(wn, name)(x, residual)
        assert same_bytes(h, x + residual)
        assert same_bytes(y, single(h))

    return exercise


def int8_norm(name, single):
    def exercise(dtype):
        x = data(dtype)
        q, scale = getattr(wn, name)(x)
        assert (q.dtype, q.shape, scale.dtype, scale.shape) == (np.int8, SHAPE, np.float32, (5, 6, 1))
        y = np.float64(single(x, dtype=compute_type(dtype)))
        assert np.all(np.abs(q * np.float64(scale) - y) <= 0.5001 * scale)
        assert np.all(np.abs(q.astype(int)).max(axis=-1) == 127)

    return exercise


def fold_batch_norm(dtype):
    weight = random_data(0, (6, 4), dtype)
    folded, bias = wn.fold_batch_norm(weight, None, np.zeros(6), np.full(6, 4.0), eps=0.0)
    assert same_bytes(folded, (weight.astype(np.float64) / 2).astype(dtype))
    assert same_bytes(bias, np.zeros(6, dtype))


def output_cache(dtype):
    y = wn.layer_norm(np.zeros((600, 600), dtype))
    del y
    wn.clear_output_cache()
    assert wn.clear_output_cache() == 0


def aligned_empty(dtype):
    a = wn.aligned_empty((3, 5), dtype, alignment=256)
    assert (a.shape, a.dtype, a.ctypes.data % 256) == ((3, 5), dtype, 0)


def blocked(dtype):
    x = data(dtype)
    b = wn.to_blocked(x, 4)
    assert (b.shape, b.dtype) == ((5, 2, 7, 4), dtype)
    assert same_bytes(wn.from_blocked(b, 6), x)


def statistics(dtype):
    x = data(dtype)
    wide = x.astype(np.float64)
    m = wn.moments(x, 0)
    mean, var = wn.mean_var(x, 0)
    assert mean.dtype == var.dtype == dtype
    eps = 4 * float(finfo(dtype).eps)
    for value, exact in (
        (mean, wide.mean(0)),
        (m.mean, wide.mean(0)),
        (var, wide.var(0)),
        (m.var(), wide.var(0)),
    ):
        np.testing.assert_allclose(np.float64(value), exact, rtol=eps)
    assert (m.count, m.shape) == (5, (6, 7))
    merged = wn.Moments.merge_all([wn.moments(x[:2], 0), wn.moments(x[2:], 0)])
    np.testing.assert_allclose(merged.m2, m.m2, rtol=1e-15)
    back = wn.Moments.from_array(merged.to_array())
    assert isinstance(back, wn.Moments)
    assert back == merged


def layer(make, function, names):
    def exercise(dtype):
        own, x = make(dtype), data(dtype)
        own.weight[...] = np.linspace(0.5, 2, own.weight.size).reshape(own.weight.shape)
        assert sorted(own.state_dict()) == sorted(names)
        assert same_bytes(own(x), function(x, own))
        other = make(dtype).load_state_dict(own.state_dict("a."), prefix="a.")
        out = np.empty_like(x)
        assert other.eval()(x, out=out) is out
        assert same_bytes(out, own(x))
        assert type(own).__name__ in repr(own)

    return exercise


def batch_norm_layer(dtype):
    names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    layer(
        lambda dtype: wn.BatchNorm(6, dtype=dtype),
        lambda x, own: wn.batch_norm(x, own.running_mean, own.running_var, own.weight, own.bias),
        names,
    )(dtype)
    own = wn.BatchNorm(6, dtype=dtype).train()
    y = own(data(dtype))
    assert same_bytes(y, wn.batch_norm(data(dtype), None, None, own.weight, own.bias, training=True))
    assert own.num_batches_tracked == 1


def threads(dtype):
    before = wn.get_num_threads()
    x = random_data(0, (3000, 70), dtype)
    with wn.num_threads(1):
        assert wn.get_num_threads() == 1
        y = wn.layer_norm(x)
    wn.set_num_threads(2)
    try:
        assert wn.get_num_threads() == 2
        assert same_bytes(wn.layer_norm(x), y)
    finally:
        wn.set_num_threads(before)
    assert wn.get_num_threads() == before


def backends(dtype):
    here = wn.get_backend()
    assert here in wn.available_backends()
    x = data(dtype)
    y = wn.layer_norm(x)
    with wn.backend("reference"):
        assert wn.get_backend() == "reference"
        assert_precise(wn.layer_norm(x), *exact_norm(LAYER, x))
    assert wn.get_backend() == here
    assert same_bytes(wn.layer_norm(x), y)


def set_backend(dtype):
    """For all threads, but for one that is inside `with wn.backend`, as this one is."""
    here = wn.get_backend()
    with ThreadPoolExecutor(1) as other:
        before = other.submit(wn.get_backend).result()
        wn.set_backend("reference")
        try:
            assert other.submit(wn.get_backend).result() == "reference"
            assert wn.get_backend() == here
        finally:
            wn.set_backend(before)
        assert other.submit(wn.get_backend).result() == before
    backends(dtype)


def show_config(dtype):
    config = wn.show_config("dicts")
    text = repr(config)
    assert wn.get_backend() in text
    assert wn.__version__ in text


def available_isas(dtype):
    isas = wn.available_isas()
    assert set(isas) <= {"portable", "avx2", "avx512", "neon"}
    assert "portable" in isas


TABLE = {
    "BatchNorm": batch_norm_layer,
    "GroupNorm": layer(
        lambda dtype: wn.GroupNorm(2, 6, dtype=dtype),
        lambda x, own: wn.group_norm(x, 2, own.weight, own.bias),
        ("weight", "bias"),
    ),
    "InstanceNorm": layer(
        lambda dtype: wn.InstanceNorm(6, affine=True, dtype=dtype),
        lambda x, own: wn.instance_norm(x, own.weight, own.bias),
        ("weight", "bias"),
    ),
    "LayerNorm": layer(
        lambda dtype: wn.LayerNorm((6, 7), dtype=dtype),
        lambda x, own: wn.layer_norm(x, own.weight, own.bias, axis=(1, 2)),
        ("weight", "bias"),
    ),
    "Moments": statistics,
    "RMSNorm": layer(
        lambda dtype: wn.RMSNorm(7, dtype=dtype),
        lambda x, own: wn.rms_norm(x, own.weight),
        ("weight",),
    ),
    "add_layer_norm": add_norm("add_layer_norm", wn.layer_norm),
    "add_rms_norm": add_norm("add_rms_norm", wn.rms_norm),
    "aligned_empty": aligned_empty,
    "available_backends": backends,
    "available_isas": available_isas,
    "backend": backends,
    "batch_norm": batch_norm,
    "clear_output_cache": output_cache,
    "fold_batch_norm": fold_batch_norm,
    "from_blocked": blocked,
    "get_backend": backends,
    "get_num_threads": threads,
    "group_norm": norm(GROUP),
    "instance_norm": norm(INSTANCE),
    "layer_norm": norm(LAYER),
    "layer_norm_int8": int8_norm("layer_norm_int8", wn.layer_norm),
    "mean_var": statistics,
    "moments": statistics,
    "num_threads": threads,
    "rms_norm": norm(RMS),
    "rms_norm_int8": int8_norm("rms_norm_int8", wn.rms_norm),
    "set_backend": set_backend,
    "set_num_threads": threads,
    "show_config": show_config,
    "to_blocked": blocked,
}


def test_every_name_has_an_entry():
    assert set(TABLE) == set(wn.__all__)


def test_every_name_is_there_with_a_docstring():
    for name in wn.__all__:
        assert getattr(wn, name).__doc__, name


@pytest.mark.parametrize("name", TABLE)
def test_api(name, dtype, backend):
    TABLE[name](dtype)
