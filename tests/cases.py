"""The table of cases, norms x shapes x dtypes, with error budgets; and the references that judge them.

A new norm, dtype or shape at which the kernels change course is a row here; every test body runs over it.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import welnorm as wn

DTYPES = (np.float32, np.float64)

#: Everything that computes: each instruction set of the backend c, and the other backends.
ENGINES = (*(f"c-{isa}" for isa in wn.available_isas()), "numba", "reference")

#: Largest error of y, in ULP of max(|weight * x_hat|, |bias|, |y|, floor). float32: promise N1. float64 has
#: no wider type for its sums: what they round off is measured by the standard deviation, 1 in y.
MAX_ULP = {np.dtype(np.float32): 4, np.dtype(np.float64): 6}
FLOOR = {np.dtype(np.float32): 2.0**-7, np.dtype(np.float64): 1.0}


@dataclass(frozen=True)
class Norm:
    """A norm by its data's own statistics, and which axes it reduces and scales."""

    name: str
    op: str
    axis: int | tuple[int, ...]

    def __call__(self, x, weight=None, bias=None, **options):
        if self.op == "batch_norm":
            return wn.batch_norm(x, weight=weight, bias=bias, axis=self.axis, training=True, **options)
        return getattr(wn, self.op)(x, weight, bias, axis=self.axis, **options)

    def _axes(self, ndim):
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        return tuple(sorted(axis % ndim for axis in axes))

    def affine(self, ndim):
        return self._axes(ndim)

    def reduced(self, ndim):
        axes = self._axes(ndim)
        return axes if self.op == "layer_norm" else tuple(a for a in range(ndim) if a not in axes)

    def affine_shape(self, shape):
        return tuple(shape[axis] for axis in self.affine(len(shape)))


LAYER = Norm("layer_norm", "layer_norm", -1)
LAYER_TRAILING = Norm("layer_norm_trailing", "layer_norm", (-2, -1))
LAYER_MIDDLE = Norm("layer_norm_middle", "layer_norm", 1)
LAYER_APART = Norm("layer_norm_apart", "layer_norm", (0, -1))
BATCH = Norm("batch_norm", "batch_norm", 1)
BATCH_LAST = Norm("batch_norm_last", "batch_norm", -1)

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


def random_parameters(seed, shape, dtype):
    """A weight and a bias of either sign."""
    return random_data((seed, 1), shape, dtype, 0.5), random_data((seed, 2), shape, dtype)


def _mean(x, reduced):
    """Mean with length 1 on `reduced`; NumPy sums pairwise, hence precisely, along contiguous rows only."""
    kept = x.ndim - len(reduced)
    rows = np.moveaxis(x, reduced, range(kept, x.ndim))
    mean = np.ascontiguousarray(rows.reshape(*rows.shape[:kept], -1)).mean(axis=-1)
    return np.expand_dims(mean, reduced)


def exact_deviations(x, reduced):
    """x - mean and the variance, in long double: two passes, the second takes off the first mean's error."""
    x = np.asarray(x, dtype=np.longdouble)
    rough = x - _mean(x, reduced)
    deviations = rough - _mean(rough, reduced)
    return deviations, _mean(deviations**2, reduced)


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


def exact_norm(norm, x, weight=None, bias=None, eps=1e-5):
    """`exact_affine` for a norm by its data's own statistics."""
    return exact_affine(*exact_deviations(x, norm.reduced(x.ndim)), norm.affine(x.ndim), weight, bias, eps)


def ulp_errors(y, exact, size):
    """The errors of y in units in the last place, in y's dtype, of the larger of size and the floor."""
    finfo = np.finfo(y.dtype)
    _, exponent = np.frexp(np.maximum(size, FLOOR[y.dtype]))
    ulp = np.ldexp(np.longdouble(1), exponent - 1 - finfo.nmant)
    return np.abs(np.asarray(y, dtype=np.longdouble) - exact) / ulp


def assert_precise(y, exact, size):
    """Assert that y is within the budget of its dtype."""
    assert y.shape == exact.shape
    worst = float(ulp_errors(y, exact, size).max(initial=0.0))
    assert worst <= MAX_ULP[y.dtype], f"{worst:.3f} ULP"


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
