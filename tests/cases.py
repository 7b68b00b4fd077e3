"""The table of cases, norms x shapes x dtypes, with error budgets; and the references that judge them.

A new norm, dtype or shape at which the kernels change course is a row here; every test body runs over it.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import welnorm as wn
from ml_dtypes import bfloat16, finfo

WIDE = (np.float32, np.float64)
NARROW = (np.float16, bfloat16)
DTYPES = (*WIDE, *NARROW)

#: Everything that computes: each instruction set of the backend c, and the other backends.
ENGINES = (*(f"c-{isa}" for isa in wn.available_isas()), "numba", "reference")

#: Largest error of y, in ULP of max(|weight * x_hat|, |bias|, |y|, floor). float32: promise N1. float64 has
#: no wider type for its sums: what they round off is measured by the standard deviation, 1 in y. 16-bit data
#: is computed in float32 and rounded once, N2: `assert_precise` adds half a unit of the narrow type.
MAX_ULP = {np.dtype(np.float32): 4, np.dtype(np.float64): 6}
FLOOR = {np.dtype(np.float32): 2.0**-7, np.dtype(np.float64): 1.0}


@dataclass(frozen=True)
class Norm:
    """A norm by its data's own statistics, and which axes it reduces and scales.

    For group norm those are axes of the array with its groups apart: of the shape `split(x.shape)`.
    """

    name: str
    op: str
    axis: int | tuple[int, ...]

    def __call__(self, x, weight=None, bias=None, **options):
        options["axis"] = self.axis
        if self.op == "batch_norm":
            return wn.batch_norm(x, weight=weight, bias=bias, training=True, **options)
        if self.op == "group_norm":
            return wn.group_norm(x, self.groups(np.shape(x)), weight, bias, **options)
        return getattr(wn, self.op)(x, weight, bias, **options)

    @property
    def eps(self):
        """The default."""
        return 1e-6 if self.op == "rms_norm" else 1e-5

    @property
    def centred(self):
        return self.op != "rms_norm"

    def _axes(self, ndim):
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        return tuple(sorted(axis % ndim for axis in axes))

    def _group_axis(self, shape):
        """The axis that is cut into groups, and into how many: two where that can be."""
        first, *last = self._axes(len(shape))
        axis = last[0] if last and shape[first] % 2 else first  # inside blocks, or of whole blocks
        return axis, math.gcd(2, shape[axis])

    def groups(self, shape):
        axis, pieces = self._group_axis(shape)
        return pieces if axis == self._axes(len(shape))[0] else pieces * shape[1]

    def split(self, shape):
        if self.op != "group_norm":
            return shape
        axis, pieces = self._group_axis(shape)
        return (*shape[:axis], pieces, shape[axis] // pieces, *shape[axis + 1 :])

    def affine(self, shape):
        axes = self._axes(len(shape))
        if self.op != "group_norm":
            return axes
        cut, _ = self._group_axis(shape)
        return tuple(sorted({cut, cut + 1, *(axis + (axis > cut) for axis in axes)}))

    def reduced(self, shape):
        axes = self._axes(len(shape))
        if self.op in ("layer_norm", "rms_norm"):
            return axes
        if self.op == "group_norm":
            cut, _ = self._group_axis(shape)
            kept = {0, cut, axes[0]}
            return tuple(axis for axis in range(len(shape) + 1) if axis not in kept)
        kept = {*axes, 0} if self.op == "instance_norm" else {*axes}
        return tuple(axis for axis in range(len(shape)) if axis not in kept)

    def affine_shape(self, shape):
        lengths = tuple(shape[axis] for axis in self._axes(len(shape)))
        return lengths if self.op in ("layer_norm", "rms_norm") else (math.prod(lengths),)


LAYER = Norm("layer_norm", "layer_norm", -1)
LAYER_TRAILING = Norm("layer_norm_trailing", "layer_norm", (-2, -1))
LAYER_MIDDLE = Norm("layer_norm_middle", "layer_norm", 1)
LAYER_APART = Norm("layer_norm_apart", "layer_norm", (0, -1))
RMS = Norm("rms_norm", "rms_norm", -1)
RMS_MIDDLE = Norm("rms_norm_middle", "rms_norm", 1)
BATCH = Norm("batch_norm", "batch_norm", 1)
BATCH_LAST = Norm("batch_norm_last", "batch_norm", -1)
BATCH_BLOCKED = Norm("batch_norm_blocked", "batch_norm", (1, -1))
GROUP = Norm("group_norm", "group_norm", 1)
GROUP_LAST = Norm("group_norm_last", "group_norm", -1)
GROUP_BLOCKED = Norm("group_norm_blocked", "group_norm", (1, -1))
INSTANCE = Norm("instance_norm", "instance_norm", 1)
INSTANCE_LAST = Norm("instance_norm_last", "instance_norm", -1)
INSTANCE_BLOCKED = Norm("instance_norm_blocked", "instance_norm", (1, -1))

NORMS = (
    *(LAYER, LAYER_TRAILING, LAYER_MIDDLE, LAYER_APART, RMS, RMS_MIDDLE, BATCH, BATCH_LAST, BATCH_BLOCKED),
    *(GROUP, GROUP_LAST, GROUP_BLOCKED, INSTANCE, INSTANCE_LAST, INSTANCE_BLOCKED),
)

# Where the kernels change course: vectors of 4, 8 and 16 elements, 32 running sums, blocks of 4096
# elements, parts of 4 blocks; strips of 64 and 512 columns, 8 rows a step, blocks of 128 rows.
LENGTHS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 127, 128, 129, 511, 512, 513)
BLOCKS = (4095, 4096, 4097, 8193, 16383, 16384, 16385, 40001)
COLUMNS = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 511, 512, 513, 1025)
ROWS = (2, 3, 7, 8, 9, 31, 32, 33, 127, 128, 129, 255, 257, 511, 512, 513, 1030)
GRIDS = tuple((9, c) for c in COLUMNS) + tuple((r, 5) for r in ROWS) + ((129, 513), (513, 66))

CASES = [
    *((LAYER, (3, n)) for n in (*LENGTHS, *BLOCKS)),
    *((LAYER, shape) for shape in ((1,), (7,), (1, 1, 1), (2, 1, 3, 6), (130, 12), (2, 3, 4, 5, 6))),
    *((LAYER_TRAILING, (2, 3, n)) for n in (1, 4, 17, 513, 1366)),
    *((LAYER_TRAILING, shape) for shape in ((4, 1), (1, 5), (64, 64), (2, 4096, 3))),
    *((LAYER_MIDDLE, (2, *grid)) for grid in GRIDS),
    *((LAYER_MIDDLE, shape) for shape in ((3, 8, 4, 5), (1, 32, 7, 7), (2, 1, 3), (5, 9))),
    *((LAYER_APART, shape) for shape in ((2, 3, 4), (5, 1, 33), (130, 3, 32), (2, 3, 4, 4097), (3, 2, 1))),
    *((BATCH, grid) for grid in GRIDS),
    *((BATCH, (3, 2, n)) for n in (1, 3, 8, 17, 31, 32, 33, 129, 513, *BLOCKS[:4])),
    *((BATCH, (n, 3, 32)) for n in (1, 127, 128, 129, 513)),
    *((BATCH, shape) for shape in ((1, 1, 2), (2, 3, 1, 1), (4, 5, 6, 7), (2, 3, 4, 5, 6), (600, 2, 7))),
    *((BATCH_LAST, (3, r, c)) for r, c in ((3, 5), (43, 513), (171, 16))),
    *((BATCH_LAST, shape) for shape in ((2, 1, 1), (4, 6, 7, 5), (2, 4, 5, 6, 3))),
    *((BATCH_BLOCKED, shape) for shape in ((9, 2, 8), (3, 2, 43, 16), (2, 3, 5, 7, 4), (171, 1, 3, 33))),
    *((RMS, (3, n)) for n in (*LENGTHS[::2], *BLOCKS[::2])),
    *((RMS, shape) for shape in ((7,), (1, 1, 1), (130, 12), (2, 3, 4, 5, 6))),
    *((RMS_MIDDLE, (2, *grid)) for grid in GRIDS[::4]),
    *((RMS_MIDDLE, shape) for shape in ((3, 8, 4, 5), (2, 1, 3), (5, 9))),
    *((GROUP, (2, c, n)) for c, n in ((2, 1), (4, 3), (6, 17), (8, 64), (2, 513), (4, 1366), (3, 4097))),
    *((GROUP, shape) for shape in ((3, 16), (5, 1), (3, 6, 5, 7), (2, 64, 3, 3), (2, 4, 3, 4, 5))),
    *((GROUP_LAST, (2, r, c)) for r, c in ((1, 2), (3, 6), (33, 8), (129, 34), (5, 130), (1025, 66))),
    *((GROUP_LAST, shape) for shape in ((3, 5, 7, 6), (2, 3, 4, 5, 3))),
    *((GROUP_BLOCKED, (2, b, 9, 8)) for b in (1, 2, 3, 6)),
    *((GROUP_BLOCKED, shape) for shape in ((3, 4, 16), (2, 3, 33, 16), (2, 4, 5, 7, 4), (2, 3, 5, 5))),
    *((INSTANCE, (2, 3, n)) for n in (1, 3, 17, 64, 513, 4097)),
    *((INSTANCE, shape) for shape in ((3, 5), (1, 1, 9), (3, 4, 5, 7), (2, 3, 4, 5, 6))),
    *((INSTANCE_LAST, (2, r, c)) for r, c in ((1, 3), (9, 1), (7, 8), (129, 17), (300, 65))),
    *((INSTANCE_LAST, shape) for shape in ((3, 4, 5, 7), (2, 3, 4, 5, 6))),
    *((INSTANCE_BLOCKED, shape) for shape in ((3, 2, 8), (2, 3, 33, 16), (2, 2, 5, 7, 4))),
]


def _misaligned(shape, dtype):
    return np.zeros(shape, np.dtype([("pad", np.int8), ("value", dtype)]))["value"]


def _larger(shape, dtype):
    return np.zeros([3 * length + 1 for length in shape], dtype)


#: Ways for an array to lie in memory: each makes a writable one of a shape and dtype.
LAYOUTS = {
    "F-order": lambda shape, dtype: np.zeros(shape, dtype, order="F"),
    "rows apart": lambda shape, dtype: _larger(shape, dtype)[tuple(slice(n) for n in shape)],
    "elements apart": lambda shape, dtype: _larger(shape, dtype)[tuple(slice(0, 3 * n, 3) for n in shape)],
    "reversed": lambda shape, dtype: np.zeros(shape, dtype)[(slice(None, None, -1),) * len(shape)],
    "reversed last": lambda shape, dtype: np.zeros(shape, dtype)[..., ::-1],
    "axes swapped": lambda shape, dtype: np.zeros((shape[-1], *shape[:-1]), dtype).transpose(
        *range(1, len(shape)), 0
    ),
    "misaligned": _misaligned,
}


def laid_out(array, layout):
    """A copy of the array that lies otherwise in memory."""
    copy = LAYOUTS[layout](array.shape, array.dtype)
    copy[...] = array
    return copy


def name_of(value):
    """A test id for a case or a part of one."""
    if isinstance(value, Norm):
        return value.name
    if isinstance(value, tuple) and all(isinstance(length, int) for length in value):
        return "x".join(map(str, value)) or "scalar"
    return getattr(value, "__name__", None)


def random_data(seed, shape, dtype, offset=0.0, spread=1.0):
    """Normal deviates about an offset, rounded to dtype."""
    generator = np.random.default_rng(seed)
    return (offset + spread * generator.standard_normal(shape)).astype(dtype)


def same_bytes(a, b):
    """Whether arrays agree in dtype, shape and all bits."""
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def same_values(a, b):
    """`same_bytes`, but any NaN is as good as another."""
    nan = np.isnan(a)
    return np.array_equal(nan, np.isnan(b)) and same_bytes(np.where(nan, 0, a), np.where(nan, 0, b))


def random_parameters(seed, shape, dtype):
    """A weight and a bias of either sign."""
    return random_data((seed, 1), shape, dtype, 0.5), random_data((seed, 2), shape, dtype)


def _mean(x, reduced):
    """Mean with length 1 on `reduced`; NumPy sums pairwise, hence precisely, along contiguous rows only."""
    kept = x.ndim - len(reduced)
    rows = np.moveaxis(x, reduced, range(kept, x.ndim))
    mean = np.ascontiguousarray(rows.reshape(*rows.shape[:kept], -1)).mean(axis=-1)
    return np.expand_dims(mean, reduced)


def exact_deviations(x, reduced, centred=True):
    """x - mean and the variance, in long double: two passes, the second takes off the first mean's error.

    If not centred, x and the mean of its squares.
    """
    x = np.asarray(x, dtype=np.longdouble)
    if centred:
        x = x - _mean(x, reduced)
        x = x - _mean(x, reduced)
    return x, _mean(x**2, reduced)


def exact_affine(deviations, variance, affine, weight=None, bias=None, eps=1e-5):
    """The exact y, and the size of the terms that its error is measured by."""
    shape = tuple(length if axis in affine else 1 for axis, length in enumerate(deviations.shape))
    y = deviations / np.sqrt(variance + np.longdouble(eps))
    y = y if weight is None else y * np.asarray(weight, dtype=np.longdouble).reshape(shape)
    size = np.abs(y)
    if bias is not None:
        bias = np.asarray(bias, dtype=np.longdouble).reshape(shape)
        y = y + bias
        size = np.maximum(np.maximum(size, np.abs(bias)), np.abs(y))
    return y, size


def exact_moments(norm, x):
    """`exact_deviations` for a norm by its data's own statistics, of the shape `split`."""
    return exact_deviations(np.reshape(x, norm.split(x.shape)), norm.reduced(x.shape), norm.centred)


def exact_norm(norm, x, weight=None, bias=None, eps=None):
    """`exact_affine` for a norm by its data's own statistics."""
    eps = norm.eps if eps is None else eps
    exact = exact_affine(*exact_moments(norm, x), norm.affine(x.shape), weight, bias, eps)
    return tuple(value.reshape(x.shape) for value in exact)


def ulp_errors(y, exact, size):
    """The errors of y in units in the last place of the larger of size and the floor, in y's compute type.

    What the one rounding to a 16-bit type may add, half a unit of that, is taken off.
    """
    compute = compute_type(y.dtype)
    _, exponent = np.frexp(np.maximum(size, FLOOR[compute]))
    ulp = np.ldexp(np.longdouble(1), exponent - 1 - finfo(compute).nmant)
    value, rounding = np.asarray(y, dtype=np.longdouble), np.longdouble(0)
    if y.dtype in NARROW:
        info = finfo(y.dtype)
        beyond = np.ldexp(np.longdouble(1), info.maxexp)  # what rounds to it is inf
        value, exact = (np.where(np.isnan(a), a, np.clip(a, -beyond, beyond)) for a in (value, exact))
        _, exponent = np.frexp(np.minimum(np.maximum(np.abs(value), np.abs(exact)), float(info.max)))
        rounding = np.ldexp(np.longdouble(0.5), np.maximum(exponent - 1, info.minexp) - info.nmant)
    return np.maximum(np.abs(value - exact) - rounding, 0) / ulp


def assert_precise(y, exact, size):
    """Assert that y is within the budget of its dtype."""
    assert y.shape == exact.shape
    worst = float(ulp_errors(y, exact, size).max(initial=0.0))
    assert worst <= MAX_ULP[compute_type(y.dtype)], f"{worst:.3f} ULP"


def compute_type(dtype):
    """What data of that dtype is computed in."""
    return np.dtype(np.float32) if dtype in NARROW else np.dtype(dtype)


def rounded_once(y, dtype):
    """y, of the compute type, as the dtype of the data: promise N2."""
    with np.errstate(over="ignore"):
        return y.astype(dtype)


def is_rounded(result, y):
    """Whether result is y rounded to its dtype; float64 may become 16 bits by way of float32."""
    ways = [rounded_once(y, result.dtype)]
    if y.dtype == np.float64 and result.dtype in NARROW:
        ways.append(rounded_once(rounded_once(y, np.float32), result.dtype))
    return result.shape == y.shape and bool(np.all(np.logical_or.reduce([result == way for way in ways])))


def rational_moments(values):
    """Mean and population variance of floats as exact fractions."""
    ratios = [float(value).as_integer_ratio() for value in values]
    unit = max(denominator for _, denominator in ratios)
    integers = [numerator * (unit // denominator) for numerator, denominator in ratios]
    count, total = len(integers), sum(integers)
    m2 = count * sum(i * i for i in integers) - total * total
    return Fraction(total, count * unit), Fraction(m2, (count * unit) ** 2)


def rational_norm(values, eps):
    """x_hat of one row of floats, right to 2^-100."""
    mean, var = rational_moments(values)
    radicand = var + Fraction(eps)
    root = Fraction(math.isqrt(radicand.numerator * radicand.denominator << 400), radicand.denominator << 200)
    return [(Fraction(float(value)) - mean) / root for value in values]


def ulp_of(value, dtype):
    """A unit in the last place of value in that dtype, of the smallest normal number at least."""
    least = np.longdouble(finfo(dtype).smallest_normal)
    _, exponent = np.frexp(np.maximum(np.abs(value), least))
    return np.ldexp(np.longdouble(1), exponent - 1 - finfo(dtype).nmant)
