"""Errors of statistics, layers, settings, memory and folding: as in test_errors.py."""

import numpy as np
import pytest
import welnorm as wn
from numpy.exceptions import AxisError
from test_errors import check, load, matrix

FOLD = [
    ("weight complex", lambda w: wn.fold_batch_norm(w.complex, None, w.mean, w.var), TypeError, "weight",
     "complex128"),
    ("weight a scalar", lambda w: wn.fold_batch_norm(2.0, None, w.mean, w.var), AxisError, "axis"),
    ("axis", lambda w: wn.fold_batch_norm(w.x, None, w.mean, w.var, axis=2), AxisError, "axis", "2"),
    ("two axes", lambda w: wn.fold_batch_norm(w.x, None, w.mean, w.var, axis=(0, 1)), ValueError, "axis",
     "(0, 1)"),
    ("channels", lambda w: wn.fold_batch_norm(w.x, None, w.mean, w.var), ValueError, "running_mean", "(3,)",
     "(4,)"),
    ("running_var", lambda w: wn.fold_batch_norm(w.x.T, None, w.mean, w.four), ValueError, "running_var",
     "(4,)"),
    ("running_var None", lambda w: wn.fold_batch_norm(w.x.T, None, w.mean, None), TypeError, "running_var"),
    ("bias", lambda w: wn.fold_batch_norm(w.x.T, w.four, w.mean, w.var), ValueError, "bias", "(4,)", "(3,)"),
    ("bn_weight", lambda w: wn.fold_batch_norm(w.x.T, None, w.mean, w.var, w.column), ValueError,
     "bn_weight", "(3, 1)"),
    ("bn_bias", lambda w: wn.fold_batch_norm(w.x.T, None, w.mean, w.var, None, w.object), TypeError,
     "bn_bias", "object"),
    ("eps", lambda w: wn.fold_batch_norm(w.x.T, None, w.mean, w.var, eps=-1), ValueError, "eps", "-1"),
]  # fmt: skip

MOMENTS = [
    ("constructor", lambda w: wn.Moments(), TypeError, "moments", "from_array"),
    ("update: another shape", lambda w: w.moments.update(w.x[:, :2]), ValueError, "batch", "(2,)", "(3,)"),
    ("update: an axis less", lambda w: w.others.update(w.x1), AxisError, "axis"),
    ("update: from an array", lambda w: wn.Moments.from_array(w.x[:3]).update(w.x), ValueError, "axes"),
    ("merge: an array", lambda w: w.moments.merge(w.x), TypeError, "other", "ndarray"),
    ("merge: another shape", lambda w: w.moments.merge(w.others), ValueError, "other", "(4,)", "(3,)"),
    ("update: mask of integers", lambda w: w.moments.update(w.x, mask=w.x.astype(int)), TypeError, "mask",
     "int64"),
    ("update: mask of another shape", lambda w: w.moments.update(w.x, mask=w.x[:3] > 0), ValueError, "mask",
     "(3, 3)", "(4, 3)"),
    ("moments: mask", lambda w: wn.moments(w.x, 0, mask=[True] * 4), ValueError, "mask", "(4,)", "(4, 3)"),
    ("mean_var: mask", lambda w: wn.mean_var(w.x, 0, mask=w.x), TypeError, "mask", "float64"),
    ("var: ddof a word", lambda w: w.moments.var("one"), TypeError, "ddof", "one"),
    ("add: a number", lambda w: w.moments + 1, TypeError, "Moments"),
    ("add: another shape", lambda w: w.moments + w.others, ValueError, "(4,)", "(3,)"),
    ("merge_all: nothing", lambda w: wn.Moments.merge_all([]), ValueError, "states"),
    ("merge_all: arrays", lambda w: wn.Moments.merge_all([w.x, w.x]), TypeError, "states"),
    ("merge_all: shapes", lambda w: wn.Moments.merge_all([w.moments, w.others]), ValueError, "(4,)", "(3,)"),
    ("from_array: a scalar", lambda w: wn.Moments.from_array(1.0), ValueError, "array", "()", "(3, ...)"),
    ("from_array: two rows", lambda w: wn.Moments.from_array(w.x[:2]), ValueError, "array", "(2, 3)"),
    ("from_array: count negative", lambda w: wn.Moments.from_array([-1, 0, 0]), ValueError, "array[0]"),
    ("from_array: half a count", lambda w: wn.Moments.from_array([0.5, 0, 0]), ValueError, "array[0]"),
    ("from_array: count NaN", lambda w: wn.Moments.from_array([np.nan, 0, 0]), ValueError, "array[0]"),
    ("from_array: count infinite", lambda w: wn.Moments.from_array([np.inf, 0, 0]), ValueError, "array[0]"),
    ("from_array: m2 negative", lambda w: wn.Moments.from_array([2, 0, -1]), ValueError, "array[2]"),
    ("from_array: count too large", lambda w: wn.Moments.from_array([2.0**54, 0, 0]), ValueError, "array[0]"),
    ("from_array: complex", lambda w: wn.Moments.from_array(w.complex), TypeError, "array", "complex128"),
    ("from_array: words", lambda w: wn.Moments.from_array(["a", "b", "c"]), TypeError, "array"),
]  # fmt: skip

LAYERS = [
    *((f"LayerNorm({shape!r})", lambda w, s=shape: wn.LayerNorm(s), error, "normalized_shape")
      for shape, error in ((0, ValueError), (-2, ValueError), ((4, 0), ValueError), ((), ValueError),
                           (1.5, TypeError), ("4", TypeError), (None, TypeError))),
    ("LayerNorm: dtype", lambda w: wn.LayerNorm(3, dtype="int64"), TypeError, "dtype", "int64"),
    ("LayerNorm: too long", lambda w: w.layer(np.ones((2, 4))), ValueError, "x", "(2, 4)", "(3,)"),
    ("LayerNorm: a scalar", lambda w: w.layer(1.0), ValueError, "x", "()", "(3,)"),
    ("LayerNorm: out", lambda w: w.layer(w.x, out=w.fixed_out), ValueError, "out", "read-only"),
    ("LayerNorm: eps", lambda w: wn.LayerNorm(3, eps=-1.0)(w.x), ValueError, "eps", "-1.0"),
    ("BatchNorm: features", lambda w: wn.BatchNorm(0), ValueError, "num_features", "0"),
    ("BatchNorm: half a feature", lambda w: wn.BatchNorm(2.5), TypeError, "num_features", "2.5"),
    ("BatchNorm: dtype", lambda w: wn.BatchNorm(3, dtype="bool"), TypeError, "dtype", "bool"),
    ("BatchNorm: channels", lambda w: w.batch(w.x.T), ValueError, "x", "(3, 4)", "3 channels", "axis 1"),
    ("BatchNorm: one dimension", lambda w: w.batch(w.x1), ValueError, "x", "(3,)"),
    ("BatchNorm: one value", lambda w: w.batch(w.single), ValueError, "layer_norm"),
    ("BatchNorm: momentum", lambda w: wn.BatchNorm(3, momentum=2.0).train()(w.x), ValueError, "momentum",
     "2.0"),
    ("BatchNorm: out", lambda w: w.batch(w.x, out=w.fixed_out), ValueError, "out", "read-only"),
    ("state: missing", lambda w: load(w, bias=None, running_var=None), KeyError, "bias", "running_var",
     "missing"),
    ("state: unknown", lambda w: load(w, gamma=w.weight), KeyError, "gamma", "unexpected"),
    ("state: prefix", lambda w: w.batch.load_state_dict(w.state, prefix="a."), KeyError, "a.weight",
     "missing"),
    ("state: shape", lambda w: load(w, running_mean=w.four), ValueError, "running_mean", "(4,)", "(3,)"),
    ("state: shape (1,)", lambda w: load(w, num_batches_tracked=[1]), ValueError, "num_batches_tracked",
     "(1,)"),
    ("state: complex", lambda w: load(w, running_var=w.complex), TypeError, "running_var", "complex128"),
    ("state: objects", lambda w: load(w, weight=w.object), TypeError, "weight", "object"),
    ("state: variance negative", lambda w: load(w, weight=w.weight * 2, running_var=[1, -1, 1]), ValueError,
     "running_var", "negative"),
    ("state: NaN", lambda w: load(w, weight=w.four[:3] * 2, bias=[0, np.nan, 0]), ValueError, "bias",
     "finite"),
    ("state: infinite", lambda w: load(w, weight=w.weight * 2, running_var=[1, 1, np.inf]), ValueError,
     "running_var"),
    ("state: count NaN", lambda w: load(w, weight=w.weight * 2, num_batches_tracked=np.nan), ValueError,
     "num_batches_tracked"),
    ("state: too large", lambda w: wn.LayerNorm(3).load_state_dict({"weight": [1e300] * 3, "bias": [0] * 3}),
     ValueError, "weight", "float32"),
]  # fmt: skip

CONTROL = [
    *((f"set_num_threads({n!r})", lambda w, n=n: wn.set_num_threads(n), error, "n")
      for n, error in ((0, ValueError), (-1, ValueError), (2**31, ValueError),
                       (1.5, TypeError), ("2", TypeError))),
    ("num_threads", lambda w: wn.num_threads(0).__enter__(), ValueError, "n", "0"),
    ("set_backend", lambda w: wn.set_backend("gpu"), ValueError, "name", "gpu", "c, numba, reference"),
    ("backend", lambda w: wn.backend("gpu").__enter__(), ValueError, "name", "gpu"),
    ("show_config", lambda w: wn.show_config("json"), ValueError, "mode", "json", "stdout"),
]  # fmt: skip


@matrix([*MOMENTS, *LAYERS, *CONTROL, *FOLD])
def test_objects(call, exception, words):
    check(call, exception, words)


def test_corners():
    x = np.random.default_rng(0).standard_normal((4, 6, 8))
    blocked = wn.to_blocked(x, 4)
    with pytest.raises(ValueError, match="last axis"):
        wn.from_blocked(np.zeros((1, 2, 0)))
    for offset, error in ((np.ones(3), TypeError), (1e300, ValueError)):
        with pytest.raises(error, match="weight_offset"):
            wn.rms_norm(x.astype(np.float32), np.ones(8), weight_offset=offset)
    with pytest.raises(ValueError, match="running_mean"):
        wn.batch_norm(blocked, [[1, 2], [3]], running_var=np.ones(6), axis=(1, -1))
    with pytest.raises(TypeError, match="dtype"):
        wn.layer_norm(x, dtype="i4,,")
    with pytest.raises(ValueError, match="momentum"):
        wn.batch_norm(x, np.zeros(6), np.ones(6), momentum=7)
    with pytest.raises(ValueError, match="mask"):
        wn.batch_norm(x, training=True, mask=np.arange(32).reshape(4, 8) == 5)
    with pytest.raises(ValueError, match="shape"):
        wn.aligned_empty(2**62)
    both = np.zeros(6)
    with pytest.raises(ValueError, match="running_mean shares memory"):
        wn.batch_norm(x, both, both, training=True)
    with pytest.raises(ValueError, match="running_var shares memory"):
        wn.batch_norm(x, None, x[0, :, 0], training=True, out=x)
    assert not both.any()
