"""Bad input: the right exception, a message that names the argument, and nothing changed."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import welnorm as wn
from numpy.exceptions import AxisError

ANY = (TypeError, ValueError)
BAD_DTYPES = ("complex64", "complex128", "longdouble", "object", "U3", "S3", "M8[s]", "m8[s]", "V8", "i4,f4")


def world():
    """Fresh arguments, good ones and bad ones, for one call. x is (4, 3)."""
    x = np.arange(12.0).reshape(4, 3) ** 2
    w = SimpleNamespace(x=x, x1=x[0].copy(), x3=np.ones((2, 3, 5)), single=np.ones((1, 3)))
    w.weight, w.bias, w.mean, w.var = np.ones(3), np.zeros(3), np.zeros(3), np.ones(3)
    w.out = np.full((4, 3), 7.0)
    w.four, w.column, w.whole, w.fixed = np.ones(4), np.ones((3, 1)), np.ones(3, int), np.ones(3)
    w.complex, w.object = np.ones(3, complex), np.array([1.0, 2.0, "x"], object)
    w.swapped, w.swapped_out = np.ones(3, np.float64().dtype.newbyteorder()), np.ones((4, 3), ">f8")
    w.fixed_out, w.flat_out = np.ones((4, 3)), np.broadcast_to(np.ones(3), (4, 3)).copy()
    w.fixed.flags.writeable = w.fixed_out.flags.writeable = False
    w.flat_out = np.lib.stride_tricks.as_strided(w.flat_out, strides=(0, 8))
    w.blocks, w.blocked_out = np.ones((2, 2, 5, 4)), np.full((2, 2, 5, 4), 7.0)
    w.residual, w.sum_out, w.ones8 = x[::-1].copy(), np.full((4, 3), 8.0), np.ones(8)
    w.layer, w.batch = wn.LayerNorm(3, dtype="float64"), wn.BatchNorm(3, dtype="float64").train()
    w.state = w.batch.state_dict()
    w.moments, w.others = wn.moments(x, 0), wn.moments(x, 1)
    return w


def contents(w):
    """The bytes of all arrays, those inside objects too."""
    arrays = {name: value for name, value in vars(w).items() if isinstance(value, np.ndarray)}
    for owner in ("layer", "batch"):
        arrays |= getattr(w, owner).state_dict(prefix=f"{owner}.")
    arrays |= {f"state.{name}": value for name, value in w.state.items()}
    arrays |= {name: getattr(w, name).to_array() for name in ("moments", "others")}
    return {name: (value.dtype, value.shape, value.tobytes()) for name, value in arrays.items()}


def train(w, **options):
    options = {"x": w.x, "running_mean": w.mean, "running_var": w.var} | options
    return wn.batch_norm(training=True, **options)


def infer(w, **options):
    options = {"x": w.x, "running_mean": w.mean, "running_var": w.var} | options
    return wn.batch_norm(**options)


def group(w, **options):
    return wn.group_norm(**({"x": w.x, "num_groups": 3} | options))


def blocks(w, **options):
    """Training on blocked data of 8 channels, or of 5 to 7 and padding."""
    options = {"x": w.blocks, "axis": (1, -1), "out": w.blocked_out} | options
    return wn.batch_norm(training=True, **options)


def add(w, **options):
    return wn.add_layer_norm(**({"x": w.x, "residual": w.residual} | options))


def load(w, **changes):
    """A state with changes; None takes a name away."""
    return w.batch.load_state_dict({k: v for k, v in (w.state | changes).items() if v is not None})


def bad(dtype):
    return np.zeros((4, 3), dtype)


# Calls that take data, and calls that take options, in the same way: bad ones go through all of them.
OF_DATA = {
    "layer_norm": lambda w, x: wn.layer_norm(x, out=w.out),
    "batch_norm": lambda w, x: infer(w, x=x),
    "training": lambda w, x: train(w, x=x),
    "rms_norm": lambda w, x: wn.rms_norm(x, out=w.out),
    "group_norm": lambda w, x: group(w, x=x, out=w.out),
    "instance_norm": lambda w, x: wn.instance_norm(x, out=w.out),
    "add_layer_norm": lambda w, x: add(w, x=x, out=w.out),
    "add_rms_norm": lambda w, x: wn.add_rms_norm(x, w.residual, sum_out=w.sum_out),
    "layer_norm_int8": lambda w, x: wn.layer_norm_int8(x),
    "rms_norm_int8": lambda w, x: wn.rms_norm_int8(x),
    "to_blocked": lambda w, x: wn.to_blocked(x),
    "from_blocked": lambda w, x: wn.from_blocked(x),
    "moments": lambda w, x: wn.moments(x),
    "mean_var": lambda w, x: wn.mean_var(x, 0),
    "LayerNorm": lambda w, x: w.layer(x, out=w.out),
    "BatchNorm": lambda w, x: w.batch(x),
}
WITH_OPTIONS = {
    "layer_norm": lambda w, **options: wn.layer_norm(w.x, **options),
    "batch_norm": infer,
    "training": train,
    "rms_norm": lambda w, **options: wn.rms_norm(w.x, **options),
    "group_norm": group,
    "instance_norm": lambda w, **options: wn.instance_norm(w.x, **options),
    "add_layer_norm": add,
    "add_rms_norm": lambda w, **options: wn.add_rms_norm(w.x, w.residual, **options),
}
NORMS = {name: call for name, call in WITH_OPTIONS.items() if not name.startswith("add")}
CHANNELLED = {name: NORMS[name] for name in ("batch_norm", "training", "group_norm")} | {
    "instance_norm": lambda w, **options: wn.instance_norm(**({"x": w.x} | options)),
}
OVER_AXES = {
    "rms_norm": lambda w, **options: wn.rms_norm(**({"x": w.x} | options)),
    "add_rms_norm": lambda w, **options: wn.add_rms_norm(**({"x": w.x, "residual": w.residual} | options)),
    "layer_norm_int8": lambda w, **options: wn.layer_norm_int8(**({"x": w.x} | options)),
    "rms_norm_int8": lambda w, **options: wn.rms_norm_int8(**({"x": w.x} | options)),
}
INT8 = {name: call for name, call in OVER_AXES.items() if name.endswith("int8")}
RMS = {name: call for name, call in OVER_AXES.items() if "rms" in name}
ADD = {name: WITH_OPTIONS[name] for name in ("add_layer_norm", "add_rms_norm")}


def per_function(functions, cases):
    """The cases for every function; a case is (its name, call of function and world, exception, words)."""
    return [
        (f"{name}: {title}", lambda w, f=function, call=call: call(f, w), exception, *words)
        for name, function in functions.items()
        for title, call, exception, *words in cases
    ]


OPTIONS = per_function(WITH_OPTIONS, [
    ("eps negative", lambda f, w: f(w, eps=-1e-5), ValueError, "eps", "-1e-05"),
    ("eps NaN", lambda f, w: f(w, eps=np.nan), ValueError, "eps", "nan"),
    ("eps infinite", lambda f, w: f(w, eps=float("inf")), ValueError, "eps", "inf"),
    ("eps beyond float", lambda f, w: f(w, eps=10**400), ValueError, "eps"),
    ("eps a word", lambda f, w: f(w, eps="small"), TypeError, "eps", "small"),
    ("eps a number in quotes", lambda f, w: f(w, eps="1e-5"), TypeError, "eps"),
    ("eps None", lambda f, w: f(w, eps=None), TypeError, "eps", "None"),
    ("eps complex", lambda f, w: f(w, eps=1j), TypeError, "eps"),
    ("eps an array", lambda f, w: f(w, eps=w.weight), TypeError, "eps"),
    ("axis too large", lambda f, w: f(w, axis=2), AxisError, "axis", "2"),
    ("axis too small", lambda f, w: f(w, axis=-3), AxisError, "axis", "-3"),
    ("axis beyond int64", lambda f, w: f(w, axis=2**70), AxisError, "axis"),
    ("axis a float", lambda f, w: f(w, axis=1.5), TypeError, "axis"),
    ("axis a word", lambda f, w: f(w, axis="last"), TypeError, "axis"),
    ("axis None", lambda f, w: f(w, axis=None), TypeError, "axis"),
    ("weight too long", lambda f, w: f(w, weight=w.four), ValueError, "weight", "(4,)", "(3,)"),
    ("weight a column", lambda f, w: f(w, weight=w.column), ValueError, "weight", "(3, 1)", "(3,)"),
    ("weight a scalar", lambda f, w: f(w, weight=2.0), ValueError, "weight", "()", "(3,)"),
    ("weight complex", lambda f, w: f(w, weight=w.complex), TypeError, "weight", "complex128"),
    ("bias too long", lambda f, w: f(w, weight=w.weight, bias=w.four), ValueError, "bias", "(4,)", "(3,)"),
    ("bias of objects", lambda f, w: f(w, bias=w.object), TypeError, "bias", "object"),
    ("bias of words", lambda f, w: f(w, bias=["a", "b", "c"]), TypeError, "bias", "U1"),
    ("bias ragged", lambda f, w: f(w, bias=[[1.0], [1.0, 2.0]]), ValueError, "bias"),
    ("out of another shape", lambda f, w: f(w, out=w.out.T), ValueError, "out", "(3, 4)", "(4, 3)"),
    ("out with an axis more", lambda f, w: f(w, out=w.out[None]), ValueError, "out", "(1, 4, 3)", "(4, 3)"),
    ("out of another dtype", lambda f, w: f(w, out=bad("f4")), TypeError, "out", "float32", "float64"),
    ("out not of dtype", lambda f, w: f(w, out=w.out, dtype="f4"), TypeError, "out", "float64", "float32"),
    ("out byte-swapped", lambda f, w: f(w, out=w.swapped_out), TypeError, "out", ">f8"),
    ("out of integers", lambda f, w: f(w, out=bad("i8")), TypeError, "out", "int64", "float64"),
    ("out read-only", lambda f, w: f(w, out=w.fixed_out), ValueError, "out", "read-only"),
    ("out a list", lambda f, w: f(w, out=[[0.0] * 3] * 4), TypeError, "out", "list", "ndarray"),
    ("out over itself", lambda f, w: f(w, out=w.flat_out), ValueError, "out", "share memory"),
    ("dtype of integers", lambda f, w: f(w, dtype="int32"), TypeError, "dtype", "int32", "float32"),
    ("dtype complex", lambda f, w: f(w, dtype=complex), TypeError, "dtype", "complex128"),
    ("dtype byte-swapped", lambda f, w: f(w, dtype=">f8"), TypeError, "dtype", ">f8"),
    ("dtype unknown", lambda f, w: f(w, dtype="float31"), TypeError, "dtype", "float31"),
])  # fmt: skip


ACTIVATIONS = per_function(NORMS, [
    ("activation unknown", lambda f, w: f(w, activation="tanh", out=w.out), ValueError, "activation", "tanh",
     "'relu', 'silu', 'gelu', 'gelu_tanh'"),
    ("activation in capitals", lambda f, w: f(w, activation="ReLU"), ValueError, "activation", "ReLU"),
    ("activation empty", lambda f, w: f(w, activation=""), ValueError, "activation"),
    ("activation a function", lambda f, w: f(w, activation=np.tanh), ValueError, "activation"),
    ("activation a number", lambda f, w: f(w, activation=1), ValueError, "activation", "1"),
    ("activation a list", lambda f, w: f(w, activation=["relu"]), ValueError, "activation"),
    ("activation an array", lambda f, w: f(w, activation=w.x), ValueError, "activation"),
])  # fmt: skip

CHANNELS = per_function(CHANNELLED, [
    ("a scalar", lambda f, w: f(w, x=3.0), ValueError, "x", "()", "2 dimensions"),
    ("one dimension", lambda f, w: f(w, x=w.x1), ValueError, "x", "(3,)", "2 dimensions"),
    ("batch axis", lambda f, w: f(w, axis=0), ValueError, "axis", "0"),
    ("batch axis from the end", lambda f, w: f(w, axis=-2), ValueError, "axis", "0"),
    ("no axes", lambda f, w: f(w, axis=()), ValueError, "axis", "()"),
    ("blocks of (N, C)", lambda f, w: f(w, axis=(1, -1)), ValueError, "axis"),
    ("two axes that are no blocks", lambda f, w: f(w, x=w.blocks, axis=(1, 2)), ValueError, "axis", "(1, 2)",
     "(1, -1)"),
    ("batch and blocks", lambda f, w: f(w, x=w.blocks, axis=(0, -1)), ValueError, "axis", "(0, -1)"),
    ("three axes", lambda f, w: f(w, x=w.blocks, axis=(1, 2, 3)), ValueError, "axis", "(1, 2, 3)"),
    ("axes out of range", lambda f, w: f(w, x=w.blocks, axis=(1, 4)), AxisError, "axis", "4"),
    ("axis twice", lambda f, w: f(w, x=w.blocks, axis=(1, 1)), ValueError, "axis"),
    ("weight of blocks", lambda f, w: f(w, x=w.blocks, axis=(1, -1), weight=np.ones((2, 4))), ValueError),
    ("mask of integers", lambda f, w: f(w, mask=[1, 0, 1, 1]), TypeError, "mask", "int64", "bool"),
    ("mask with channels", lambda f, w: f(w, mask=w.x > 0), ValueError, "mask", "(4, 3)", "(4,)"),
    ("mask too short", lambda f, w: f(w, mask=[True] * 3), ValueError, "mask", "(3,)", "(4,)"),
    ("mask and out read-only", lambda f, w: f(w, mask=[True] * 4, out=w.fixed_out), ValueError, "out",
     "read-only"),
])  # fmt: skip

BLOCKED = [
    ("weight too short", lambda w: blocks(w, weight=w.four), ValueError, "weight", "(4,)", "(8,)"),
    ("weight too long", lambda w: blocks(w, weight=np.ones(9)), ValueError, "weight", "(9,)", "(8,)"),
    ("weight a table", lambda w: blocks(w, weight=np.ones((2, 4))), ValueError, "weight", "(2, 4)", "(8,)"),
    ("weight and bias differ", lambda w: blocks(w, weight=np.ones(7), bias=np.ones(6)), ValueError),
    ("weight and running_mean differ", lambda w: blocks(w, weight=np.ones(7), running_mean=w.ones8),
     ValueError),
    ("running_var a table", lambda w: blocks(w, running_var=np.ones((2, 4))), ValueError, "running_var",
     "(2, 4)"),
    ("mask with blocks", lambda w: blocks(w, mask=np.ones((2, 2, 5), bool)), ValueError, "mask", "(2, 2, 5)",
     "(2, 5)"),
    ("groups across blocks", lambda w: wn.group_norm(np.ones((2, 3, 5, 4)), 2, axis=(1, -1), out=None),
     ValueError,
     "num_groups", "6", "4"),
    ("groups of the padded", lambda w: wn.group_norm(w.blocks, 4, np.ones(6), axis=(1, -1)), ValueError,
     "num_groups",
     "4", "6"),
    ("to_blocked: one dimension", lambda w: wn.to_blocked(w.x1), ValueError, "x", "(3,)", "2 dimensions"),
    ("to_blocked: block 0", lambda w: wn.to_blocked(w.x, 0), ValueError, "block", "0"),
    ("to_blocked: block negative", lambda w: wn.to_blocked(w.x, -8), ValueError, "block", "-8"),
    ("to_blocked: half a block", lambda w: wn.to_blocked(w.x, 2.5), TypeError, "block", "2.5"),
    ("to_blocked: a word", lambda w: wn.to_blocked(w.x, "16"), TypeError, "block", "16"),
    ("from_blocked: two dimensions", lambda w: wn.from_blocked(w.x), ValueError, "x", "(4, 3)",
     "3 dimensions"),
    ("from_blocked: too many", lambda w: wn.from_blocked(w.blocks, 9), ValueError, "channels", "9", "8"),
    ("from_blocked: a block too few", lambda w: wn.from_blocked(w.blocks, 4), ValueError, "channels", "4",
     "8"),
    ("from_blocked: half a channel", lambda w: wn.from_blocked(w.blocks, 7.5), TypeError, "channels", "7.5"),
    *((f"aligned_empty: alignment {a!r}", lambda w, a=a: wn.aligned_empty(3, alignment=a), error, "alignment")
      for a,
          error in ((0, ValueError), (-64, ValueError), (48, ValueError), (1.5, TypeError), ("64", TypeError),
                       (None, TypeError))),
    ("aligned_empty: negative", lambda w: wn.aligned_empty((2, -3)), ValueError, "shape", "(2, -3)"),
    ("aligned_empty: half a length", lambda w: wn.aligned_empty((2, 3.5)), TypeError, "shape", "3.5"),
    ("aligned_empty: objects", lambda w: wn.aligned_empty(3, object), TypeError, "dtype", "object"),
    ("aligned_empty: structure with objects", lambda w: wn.aligned_empty(3, "f4,O"), TypeError, "dtype"),
]  # fmt: skip

GROUPS = [
    *((f"num_groups {n!r}", lambda w, n=n: group(w, num_groups=n, out=w.out), error, "num_groups", str(n))
      for n,
          error in ((0, ValueError), (-3, ValueError), (2, ValueError), (6, ValueError), (2**70, ValueError),
                       (1.5, TypeError), ("3", TypeError), (None, TypeError))),
    ("num_groups an array", lambda w: group(w, num_groups=np.ones(2)), TypeError, "num_groups"),
    ("GroupNorm: groups", lambda w: wn.GroupNorm(2, 3), ValueError, "num_groups", "2", "3"),
    ("GroupNorm: no groups", lambda w: wn.GroupNorm(0, 3), ValueError, "num_groups", "0"),
    ("GroupNorm: half a group", lambda w: wn.GroupNorm(1.5, 3), TypeError, "num_groups", "1.5"),
    ("GroupNorm: no channels", lambda w: wn.GroupNorm(1, 0), ValueError, "num_channels", "0"),
    ("GroupNorm: channels", lambda w: wn.GroupNorm(1, 4)(w.x), ValueError, "x", "(4, 3)", "4 channels"),
    ("GroupNorm: eps", lambda w: wn.GroupNorm(1, 3, eps=-1), ValueError, "eps"),
    ("InstanceNorm: features", lambda w: wn.InstanceNorm(0), ValueError, "num_features", "0"),
    ("InstanceNorm: channels", lambda w: wn.InstanceNorm(4)(w.x), ValueError, "x", "(4, 3)", "4 channels"),
    ("InstanceNorm: dtype", lambda w: wn.InstanceNorm(4, affine=True, dtype="int8"), TypeError, "dtype",
     "int8"),
    ("InstanceNorm: a word", lambda w: wn.InstanceNorm("3"), TypeError, "num_features", "3"),
    ("RMSNorm: shape", lambda w: wn.RMSNorm(0), ValueError, "normalized_shape"),
    ("RMSNorm: too long", lambda w: wn.RMSNorm(4)(w.x), ValueError, "x", "(4, 3)", "(4,)"),
    ("RMSNorm: offset", lambda w: wn.RMSNorm(3, weight_offset=np.nan), ValueError, "weight_offset", "nan"),
    ("RMSNorm: offset a word", lambda w: wn.RMSNorm(3, weight_offset="one"), TypeError, "weight_offset",
     "one"),
    ("RMSNorm: state", lambda w: wn.RMSNorm(3).load_state_dict({"weight": w.weight, "bias": w.bias}),
     KeyError,
     "bias", "unexpected"),
]  # fmt: skip

FUSED = [
    *per_function(RMS, [
        (f"weight_offset {v!r}", lambda f, w, v=v: f(w, weight=w.weight, weight_offset=v), error,
         "weight_offset")
        for v, error in ((np.nan, ValueError), (np.inf, ValueError), (10**400, ValueError), ("1", TypeError),
                         (None, TypeError), (1j, TypeError))
    ] + [("weight_offset without weight", lambda f, w: f(w, weight_offset=np.nan), ValueError,
        "weight_offset")]),
    *per_function(INT8, [
        *((f"scale {s!r}", lambda f, w, s=s: f(w, scale=s), ValueError, "scale", "positive")
          for s in (0, -0.5, np.nan, np.inf, 1e300, 1e-300, [[1.0], [0.0], [1.0], [1.0]])),
        ("scale a word", lambda f, w: f(w, scale="small"), TypeError, "scale"),
        ("scale complex", lambda f, w: f(w, scale=1j), TypeError, "scale", "complex128"),
        ("scale along the row", lambda f, w: f(w, scale=w.weight), ValueError, "scale", "(3,)", "(4, 1)"),
        ("scale of other rows", lambda f, w: f(w, scale=w.column), ValueError, "scale", "(3, 1)", "(4, 1)"),
        ("scale with an axis more", lambda f, w: f(w, scale=np.ones((1, 4, 1))), ValueError, "scale",
         "(1, 4, 1)"),
        ("axis", lambda f, w: f(w, axis=2), AxisError, "axis", "2"),
        ("axis twice", lambda f, w: f(w, axis=(1, -1)), ValueError, "axis"),
        ("eps", lambda f, w: f(w, eps=-1), ValueError, "eps", "-1"),
        ("weight", lambda f, w: f(w, weight=w.four), ValueError, "weight", "(4,)", "(3,)"),
        ("bias", lambda f, w: f(w, bias=w.complex), TypeError, "bias", "complex128"),
    ]),
    *per_function({"add_layer_norm": lambda w,
     **o: wn.add_layer_norm(**({"x": w.x, "residual": w.residual} | o)),
                   "add_rms_norm": OVER_AXES["add_rms_norm"]}, [
        ("residual of another shape", lambda f, w: f(w, residual=w.residual[:3], out=w.out), ValueError,
         "residual",
         "(3, 3)", "(4, 3)"),
        ("residual that broadcasts", lambda f, w: f(w, residual=w.x1), ValueError, "residual", "(3,)",
         "(4, 3)"),
        ("residual of another dtype", lambda f, w: f(w, residual=bad("f4"), sum_out=w.sum_out), TypeError,
         "residual",
         "float32", "float64"),
        ("residual complex", lambda f, w: f(w, residual=bad("c16")), TypeError, "residual", "complex128"),
        ("residual None", lambda f, w: f(w, residual=None), TypeError, "residual"),
        ("residual ragged", lambda f, w: f(w, residual=[[1.0], [1.0, 2.0]]), ValueError, "residual"),
        ("sum_out of another shape", lambda f, w: f(w, sum_out=w.out.T, out=w.out), ValueError, "sum_out",
         "(3, 4)"),
        ("sum_out of another dtype", lambda f, w: f(w, sum_out=bad("f4")), TypeError, "sum_out", "float32"),
        ("sum_out not of x's dtype", lambda f, w: f(w, sum_out=bad("f4"), dtype="f4"), TypeError, "sum_out",
         "float32", "float64"),
        ("sum_out read-only", lambda f, w: f(w, sum_out=w.fixed_out, out=w.out), ValueError, "sum_out",
         "read-only"),
        ("sum_out a list", lambda f, w: f(w, sum_out=[[0.0] * 3] * 4), TypeError, "sum_out", "list"),
        ("sum_out over itself", lambda f, w: f(w, sum_out=w.flat_out), ValueError, "sum_out", "share memory"),
        ("sum_out is out", lambda f, w: f(w, sum_out=w.out, out=w.out), ValueError, "out", "sum_out"),
        ("sum_out is out is x", lambda f, w: f(w, sum_out=w.x, out=w.x), ValueError, "out", "sum_out"),
        ("sum_out overlaps out", lambda f,
         w: f(w, x=w.x[:3], residual=w.residual[:3], sum_out=w.out[:3], out=w.out[1:]),
         ValueError, "out", "sum_out"),
        ("out read-only", lambda f, w: f(w, sum_out=w.residual, out=w.fixed_out), ValueError, "out",
         "read-only"),
        ("eps, in place", lambda f, w: f(w, sum_out=w.residual, eps=-1), ValueError, "eps"),
        ("weight, in place", lambda f, w: f(w, sum_out=w.residual, weight=w.four), ValueError, "weight",
         "(4,)"),
        ("axis, in place", lambda f, w: f(w, sum_out=w.residual, axis=5), AxisError, "axis", "5"),
    ]),
]  # fmt: skip


def bad_data(name):
    return [
        ("ragged", lambda f, w: f(w, [[1.0, 2.0, 3.0], [1.0]]), ValueError, name),
        ("None", lambda f, w: f(w, None), ANY, name),
        *(
            (
                dtype,
                lambda f, w, d=dtype: f(w, bad(d)),
                TypeError,
                name,
                str(np.dtype(dtype)),
                "float16, bfloat16, float32, float64",
            )
            for dtype in BAD_DTYPES
        ),
    ]


DATA = per_function(OF_DATA, bad_data("x"))
DATA += per_function({"update": lambda w, batch: w.moments.update(batch)}, bad_data("batch"))

AXES = [
    ("layer_norm: axis twice", lambda w: wn.layer_norm(w.x, axis=(1, -1)), ValueError, "axis"),
    ("layer_norm: one axis of two", lambda w: wn.layer_norm(w.x, axis=(0, 5)), AxisError, "axis", "5"),
    ("layer_norm: a scalar", lambda w: wn.layer_norm(3.0), AxisError, "axis"),
    ("layer_norm: weight flat", lambda w: wn.layer_norm(w.x, w.x.ravel(), axis=(0, 1)), ValueError,
     "weight", "(12,)", "(4, 3)"),
    ("layer_norm: weight of the rows", lambda w: wn.layer_norm(w.x, w.weight, axis=0), ValueError,
     "weight", "(3,)", "(4,)"),
    ("moments: axis", lambda w: wn.moments(w.x, 2), AxisError, "axis", "2"),
    ("moments: axis a word", lambda w: wn.moments(w.x, "0"), TypeError, "axis"),
    ("moments: axis twice", lambda w: wn.moments(w.x, (0, 0)), ValueError, "axis"),
    ("mean_var: axis", lambda w: wn.mean_var(w.x, (0, -3)), AxisError, "axis", "-3"),
    ("mean_var: ddof a word", lambda w: wn.mean_var(w.x, ddof="one"), TypeError, "ddof"),
    ("mean_var: ddof None", lambda w: wn.mean_var(w.x, ddof=None), TypeError, "ddof"),
]  # fmt: skip

RUNNING = [
    ("no running_mean", lambda w: wn.batch_norm(w.x, None, w.var), ValueError, "running_mean",
     "training=False"),
    ("no running_var", lambda w: wn.batch_norm(w.x, w.mean), ValueError, "running_var", "training=False"),
    ("inference: mean too long", lambda w: infer(w, running_mean=w.four), ValueError, "running_mean",
     "(4,)", "(3,)"),
    ("inference: var a column", lambda w: infer(w, running_var=w.column), ValueError, "running_var",
     "(3, 1)"),
    ("inference: var complex", lambda w: infer(w, running_var=w.complex), TypeError, "running_var",
     "complex128"),
    ("training: mean too long", lambda w: train(w, running_mean=w.four), ValueError, "running_mean", "(4,)",
     "(3,)"),
    ("training: var too long", lambda w: train(w, running_var=w.four), ValueError, "running_var", "(4,)",
     "(3,)"),
    ("training: mean a list", lambda w: train(w, running_mean=[0.0] * 3), TypeError, "running_mean", "list"),
    ("training: var of integers", lambda w: train(w, running_var=w.whole), TypeError, "running_var", "int64"),
    ("training: var of objects", lambda w: train(w, running_var=w.object), TypeError, "running_var",
     "object"),
    ("training: var swapped", lambda w: train(w, running_var=w.swapped), TypeError, "running_var", ">f8"),
    ("training: mean read-only", lambda w: train(w, running_mean=w.fixed), ValueError, "running_mean",
     "read-only"),
    ("training: var read-only", lambda w: train(w, running_var=w.fixed), ValueError, "running_var",
     "read-only"),
    ("one value (N, C)", lambda w: train(w, x=w.single), ValueError, "x", "(1, 3)", "training=False",
     "layer_norm"),
    ("one value (N, C, H, W)", lambda w: train(w, x=w.single[..., None, None]), ValueError, "training=False"),
    ("one value, channels last", lambda w: train(w, x=w.single[None], axis=-1), ValueError, "layer_norm"),
    *((f"momentum {m}", lambda w, m=m: train(w, momentum=m), ValueError, "momentum", str(m))
      for m in (-0.1, 1.5, np.nan, np.inf)),
    ("momentum a word", lambda w: train(w, momentum="fast"), TypeError, "momentum", "fast"),
    ("momentum None", lambda w: train(w, momentum=None), TypeError, "momentum", "None"),
    ("momentum beyond float", lambda w: train(w, momentum=10**400), ValueError, "momentum"),
]  # fmt: skip


def check(call, exception, words):
    w = world()
    before = contents(w), wn.get_backend(), wn.get_num_threads()
    with pytest.raises(exception) as caught:
        call(w)
    assert (contents(w), wn.get_backend(), wn.get_num_threads()) == before
    assert caught.type in (exception if exception is ANY else (exception,))
    message = str(caught.value)
    assert not [word for word in words if not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", message)], message


def matrix(cases):
    rows = [(call, exception, words) for _, call, exception, *words in cases]
    return pytest.mark.parametrize(("call", "exception", "words"), rows, ids=[title for title, *_ in cases])


@matrix([*OPTIONS, *DATA])
def test_common_arguments(call, exception, words, backend):
    check(call, exception, words)


@matrix([*AXES, *RUNNING, *ACTIVATIONS, *CHANNELS, *BLOCKED, *GROUPS, *FUSED])
def test_axes_and_running_statistics(call, exception, words, backend):
    check(call, exception, words)
