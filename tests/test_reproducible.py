"""The promises N7 to N9: the same bits whatever the threads, the batch and the memory layout, and on every
instruction set with FMA; the floating-point control state untouched.

``python tests/test_reproducible.py --write`` writes the golden hashes anew, on any instruction set with FMA.
Do that only with a change that is meant to change bits, and say so in its commit message.
"""

import ctypes
import ctypes.util
import functools
import hashlib
import inspect
import itertools
import json
import platform
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import welnorm as wn
from cases import (
    BATCH,
    BATCH_BLOCKED,
    BATCH_LAST,
    CASES,
    DTYPES,
    ENGINES,
    GROUP,
    GROUP_LAST,
    INSTANCE,
    INSTANCE_LAST,
    LAYER,
    LAYER_MIDDLE,
    LAYER_TRAILING,
    LAYOUTS,
    NARROW,
    NORMS,
    RMS,
    RMS_MIDDLE,
    WIDE,
    laid_out,
    name_of,
)
from ml_dtypes import bfloat16

GOLDEN = Path(__file__).parent / "data" / "golden.json"
FMA_ISAS = [isa for isa in wn.available_isas() if isa != "portable"]
WIDE_ONLY = pytest.mark.parametrize("dtype", WIDE, ids=name_of)


def integers(shape, seed=0):
    """Well mixed 64-bit integers (the finaliser of splitmix64): the same on every machine and NumPy."""
    z = np.arange(1, 1 + np.prod(shape, dtype=int), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return (z ^ (z >> np.uint64(31))).reshape(shape)


def numbers(shape, dtype, seed=0, offset=0.0, spread=1.0):
    """Numbers between offset - spread and offset + spread, by exactly rounded operations on integers."""
    unit = (integers(shape, seed) >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
    with np.errstate(over="ignore"):
        return (unit * spread + offset).astype(dtype)


def parameters(norm, shape, dtype):
    return tuple(numbers(norm.affine_shape(shape), dtype, seed) for seed in (1, 2))


def inference(x, weight=None, bias=None, **options):
    """Batch norm by running statistics, channels first."""
    mean, var = (numbers(x.shape[1], x.dtype, seed, 0.8, 0.5) for seed in (3, 4))
    return wn.batch_norm(x, mean, var, weight, bias, **options)


inference.affine_shape = BATCH.affine_shape
EVERY_CALL = pytest.mark.parametrize("norm", [*NORMS, inference], ids=name_of)


def everything(norm, x):
    """All that a call makes of x, as bytes: y with and without parameters, running statistics, a state."""
    pair = parameters(norm, x.shape, x.dtype)
    results = [norm(x), norm(x, *pair)]
    if norm in (BATCH, BATCH_LAST, BATCH_BLOCKED):
        running = np.zeros((2, *norm.affine_shape(x.shape)))
        norm(x, *pair, running_mean=running[0], running_var=running[1])
        results.append(running)
    if norm in (LAYER, LAYER_TRAILING, LAYER_MIDDLE, BATCH, BATCH_LAST):
        results.append(wn.moments(x, norm.reduced(x.shape)).to_array())
    return [result.tobytes() for result in results]


def fused(x):
    """As `everything`, of what does more than a norm: over the last axis, or with a mask along it."""
    pair, residual = parameters(LAYER, x.shape, x.dtype), numbers(x.shape, x.dtype, 7)
    mask = numbers((x.shape[0], *x.shape[2:]), np.float32, 8) > -0.5
    results = [norm(x, *pair, activation=name) for norm in (wn.layer_norm, wn.rms_norm)
               for name in ("relu", "silu", "gelu", "gelu_tanh")]  # fmt: skip
    for add in (wn.add_layer_norm, wn.add_rms_norm):
        results += add(x, residual, *pair)
    for quantise in (wn.layer_norm_int8, wn.rms_norm_int8):
        results += [*quantise(x, *pair), *quantise(x, *pair, scale=0.02)]
    results += [norm(x, mask=mask) for norm in (BATCH, GROUP, INSTANCE)]
    return [result.tobytes() for result in [*results, wn.moments(x, 0, mask=mask[:, None]).to_array()]]


# ---- N7: threads, batches, memory layouts


# Large enough to pay for threads: many rows, one long row, few channels, columns of all widths.
LARGE = [
    (LAYER, (1500, 768)),
    (LAYER, (1, 2**20 + 3)),
    (LAYER, (3, 300_001)),
    (LAYER_MIDDLE, (2, 5000, 65)),
    (LAYER_MIDDLE, (3000, 64, 7)),
    (BATCH, (8, 2, 70_000)),
    (BATCH, (40, 64, 300)),
    (BATCH, (5000, 3, 49)),
    (BATCH, (200_003, 3)),
    (BATCH, (900, 1100)),
    (BATCH_LAST, (4, 10_007, 33)),
    (inference, (8, 2, 70_000)),
    (inference, (900, 1100)),
    (RMS, (1500, 768)),
    (GROUP, (30, 64, 400)),
    (GROUP_LAST, (8, 2000, 64)),
    (INSTANCE_LAST, (4, 10_007, 33)),
    (BATCH_BLOCKED, (16, 4, 1001, 16)),
]
LARGE = [*itertools.product(LARGE, WIDE), *(((norm, shape), np.float16) for norm, shape in LARGE[::5])]
LARGE = [(norm, shape, dtype) for (norm, shape), dtype in LARGE]


@pytest.mark.parametrize(("norm", "shape", "dtype"), LARGE, ids=name_of)
def test_threads(norm, shape, dtype, engine):
    x = numbers(shape, dtype, offset=3.0)
    with wn.num_threads(1):
        expected = everything(norm, x)
    for count in range(2, 9) if engine != "reference" else [8]:  # which has one thread anyway
        with wn.num_threads(count):
            assert everything(norm, x) == expected, f"{count} threads"


@pytest.mark.parametrize("shape", [(700, 4, 200), (3, 5, 40_000)], ids=name_of)
def test_threads_of_fused_calls(shape, dtype, engine):
    x = numbers(shape, dtype, offset=1.0)
    with wn.num_threads(1):
        expected = fused(x)
    for count in (2, 3, 8) if engine != "reference" else [8]:
        with wn.num_threads(count):
            assert fused(x) == expected, f"{count} threads"


@pytest.mark.parametrize("shape", [(3, 4, 17), (2, 8, 300)], ids=name_of)
def test_strides_of_fused_calls(shape, dtype, engine):
    x = numbers(shape, dtype, offset=1.0)
    expected = fused(x)
    for layout in LAYOUTS:
        assert fused(laid_out(x, layout)) == expected, layout


@pytest.mark.parametrize("n", [1, 5, 33, 768, 4097, 9000, 12_288])
def test_row_in_any_batch(n, dtype, engine):
    row, pair = numbers(n, dtype, offset=10.0), parameters(LAYER, (n,), dtype)
    alone = wn.layer_norm(row, *pair).tobytes()
    for count in (1, 2, 3, 7, 66, 100_000 // n):
        for at in {0, count // 2, count - 1}:
            x = numbers((count, n), dtype, seed=count)
            x[at] = row
            assert wn.layer_norm(x, *pair)[at].tobytes() == alone, (count, at)


@pytest.mark.parametrize("n", [5, 33, 768, 4097])
def test_column_in_any_batch(n, dtype, engine):
    """At least two columns: one alone is a row, see below."""
    column, pair = numbers(n, dtype, offset=10.0), parameters(LAYER, (n,), dtype)
    results = set()
    for samples, width in ((1, 2), (1, 3), (2, 17), (3, 65), (1, 513), (9, 2)):
        for sample, at in itertools.product({0, samples - 1}, {0, width // 2, width - 1}):
            x = numbers((samples, n, width), dtype, seed=width)
            x[sample, :, at] = column
            results.add(wn.layer_norm(x, *pair, axis=1)[sample, :, at].tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("n", [5, 33, 768, 4097])
def test_column_alone(n, dtype, engine):
    """A position alone, (N, C, 1), or among others, (N, C, W): the same slice of C numbers."""
    x, pair = numbers((2, n, 9), dtype, offset=10.0), parameters(LAYER, (n,), dtype)
    among = wn.layer_norm(x, *pair, axis=1)[:, :, :1]
    assert wn.layer_norm(x[:, :, :1], *pair, axis=1).tobytes() == among.tobytes()


@WIDE_ONLY
@pytest.mark.parametrize("engine", ENGINES[:-1], indirect=True)  # the reference has no blocks, and is slow
def test_columns_in_a_huge_batch(dtype, engine):
    """So many statistics that the states of all parts would take more memory than they may."""
    x = numbers((1, 1025, 2), dtype, offset=10.0)
    for count in (100, 2000, 8200, 17_000):
        batch = np.broadcast_to(x, (count, *x.shape[1:]))  # moments, for they are small
        expected = np.broadcast_to(wn.moments(x, 1).to_array(), (3, count, 2))
        assert wn.moments(batch, 1).to_array().tobytes() == expected.tobytes(), count


@EVERY_CALL
def test_neighbours_do_not_matter(norm, dtype, engine):
    """Other slices may be constant, huge or not finite: those take other paths through the kernels."""
    shape = (6, 40, 35) if norm in (LAYER_MIDDLE, RMS_MIDDLE) else (6, 6, 7, 4)
    x = numbers(shape, dtype)
    whole, reduced = (shape, (0, 2, 3)) if norm is inference else (norm.split(shape), norm.reduced(shape))
    kept = [axis for axis in range(len(whole)) if axis not in reduced]
    where = np.zeros(whole, bool)
    where[tuple(1 if axis in kept else slice(None) for axis in range(len(whole)))] = True
    where = where.reshape(shape)
    expected = norm(x)[where].tobytes()
    for other in (0.1, 1e-44, 3e38, np.inf, np.nan, *((1e-310, 1e300) if dtype == np.float64 else ())):
        with np.errstate(over="ignore"):
            y = norm(np.where(where, x, np.array(other, dtype)))
        assert y[where].tobytes() == expected, other


def at_byte(array, offset):
    """A copy that starts so many bytes behind a multiple of 64."""
    memory = np.empty(array.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


# The others are the same kernels on other axes.
@pytest.mark.parametrize(
    "norm",
    [
        LAYER,
        LAYER_TRAILING,
        LAYER_MIDDLE,
        RMS,
        BATCH,
        BATCH_LAST,
        BATCH_BLOCKED,
        GROUP,
        GROUP_LAST,
        inference,
    ],
    ids=name_of,
)
@pytest.mark.parametrize("size", ["small", "large"])
def test_any_byte_offset(norm, size, dtype, engine):
    shape = (3, 22, 37) if size == "small" else (2, 3, 4099)
    x, pair = numbers(shape, dtype, offset=1.0), parameters(norm, shape, dtype)
    expected = norm(x, *pair).tobytes()
    for offset in range(64) if dtype in WIDE else range(0, 64, 13):
        places = offset, offset * 3 % 64, offset * 5 % 64
        arrays = [at_byte(array, place) for array, place in zip((x, *pair), places, strict=True)]
        out = at_byte(np.zeros(shape, dtype), 7 * offset % 64)
        assert norm(*arrays).tobytes() == expected, offset
        assert norm(*arrays, out=out).tobytes() == expected, offset
        assert norm(*arrays, out=arrays[0]).tobytes() == expected, offset


@EVERY_CALL
@pytest.mark.parametrize(("shape", "dtype"), [
    *itertools.product([(3, 5, 17), (4, 33, 40), (2, 3, 4100), (3, 300, 66)], WIDE),
    *itertools.product([(3, 6, 33)], NARROW),
], ids=name_of)  # fmt: skip
def test_any_strides(norm, shape, dtype, engine):
    x = numbers(shape, dtype, offset=1.0)
    expected = everything(norm, x)
    for layout in LAYOUTS:
        assert everything(norm, laid_out(x, layout)) == expected, layout
    for axis, step in itertools.product(range(3), (2, -3)):
        memory = np.zeros([3 * length if a == axis else length for a, length in enumerate(shape)], dtype)
        view = memory[tuple(slice(None, None, step) if a == axis else slice(None) for a in range(3))]
        view = view[tuple(slice(length) for length in shape)]
        view[...] = x
        assert everything(norm, view) == expected, (axis, step)
    for order in itertools.permutations(range(3)):
        view = x.transpose(order).copy().transpose(np.argsort(order))
        assert everything(norm, view) == expected, order
        assert norm(view, out=view).tobytes() == expected[0], order
        out = np.empty_like(view)
        assert norm(x, out=out).tobytes() == expected[0], order


def calls_of_single_elements(x):
    """Norms of x, (N, positions, 1): with one channel, or of rows of one element."""
    one, ones = np.float32([1.7]), np.ones(x.shape[:2], bool)
    for weight, bias in ((None, None), (one, -one / 3)):
        for axis, of in ((-1, x), (1, np.moveaxis(x, -1, 1))):
            batch = {"weight": weight, "bias": bias, "axis": axis}
            for mask in (None, ones):
                yield wn.batch_norm(of, training=True, mask=mask, **batch)
                yield wn.batch_norm(of, one / 9, one, mask=mask, **batch)
            yield wn.instance_norm(of, weight, bias, axis=axis)
            yield wn.group_norm(of, 1, weight, bias, axis=axis)
        yield wn.layer_norm(x, weight, bias)
        yield wn.rms_norm(x, weight, bias)
        yield from wn.add_rms_norm(x, x, weight, bias)


@pytest.mark.parametrize("shape", [(130, 3, 1), (200, 1, 1)])
def test_single_elements_in_any_strides(shape, dtype, engine):
    """One channel, or rows of one element: contiguous or not, masked or not."""
    x = numbers(shape, dtype, offset=1.0)
    strided = np.zeros([2 * n for n in shape], dtype)[::2, ::2, ::2]
    strided[...] = x
    for a, b in zip(calls_of_single_elements(x), calls_of_single_elements(strided), strict=True):
        assert a.tobytes() == b.tobytes()
    one, ones = np.float32([1.7]), np.ones(shape[:2], bool)
    of_batch, given = {"weight": one, "bias": -one / 3, "axis": -1}, (one / 9, one)
    for statistics in ((), given):
        call = functools.partial(wn.batch_norm, x, *statistics, training=not statistics, **of_batch)
        assert call().tobytes() == call(mask=ones).tobytes()


# ---- N8: instruction sets


def on_isa(isa, function, *arguments):
    from welnorm import _c

    before = _c.selected_isa()
    assert _c.select_isa(isa)
    try:
        with wn.backend("c"):
            return function(*arguments)
    finally:
        _c.select_isa(before)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize(("norm", "shape"), CASES, ids=name_of)
def test_all_isas_with_fma_agree(norm, shape, offset, dtype):
    x = numbers(shape, dtype, offset=offset)
    results = [on_isa(isa, everything, norm, x) for isa in FMA_ISAS]
    assert all(result == results[0] for result in results)


def golden_calls():
    """Name and call of every golden result; all of them small."""
    for dtype, offset in itertools.product(DTYPES, (0.0, 1.0, 1e4, 1e6)):
        for norm, shape in (
            *((LAYER, (5, n)) for n in (1, 2, 7, 33, 768, 4097, 20_000)),
            *((BATCH, shape) for shape in ((300, 70), (3, 2, 40), (5, 3, 4097), (40, 3, 7))),
            *((norm, (4, 150, 35)) for norm in (LAYER_TRAILING, LAYER_MIDDLE, BATCH_LAST, inference)),
            *((RMS, (5, n)) for n in (1, 33, 768, 4097)),
            *((GROUP, shape) for shape in ((3, 6, 40), (2, 4, 1366))),
            *((norm, (4, 150, 36)) for norm in (RMS_MIDDLE, GROUP_LAST, INSTANCE, INSTANCE_LAST)),
            *((norm, (3, 4, 9, 8)) for norm in NORMS if norm.axis == (1, -1)),
        ):
            if dtype == np.float16 and offset == 1e6:
                continue  # beyond its range
            name = f"{name_of(norm)}/{dtype.__name__}/{name_of(shape)}/offset {offset:g}"
            yield name, lambda n=norm, s=shape, d=dtype, o=offset: everything(n, numbers(s, d, 5, o))
    for dtype, shape in itertools.product(DTYPES, ((6, 4, 33), (3, 6, 700))):
        name = f"fused/{dtype.__name__}/{name_of(shape)}"
        yield name, lambda s=shape, d=dtype: fused(numbers(s, d, 9, 0.5, 4.0))
    for dtype, scale in ((np.float32, 1e30), (np.float32, 1e-40), (np.float64, 1e200), (np.float64, 1e-310),
                         (np.float16, 65504), (np.float16, 1e-6), (bfloat16, 1e30),
                          (bfloat16, 1e-39)):  # fmt: skip
        for norm in NORMS:
            name = f"{norm.name}/{dtype.__name__}/range {scale:g}"
            yield name, lambda n=norm, d=dtype, s=scale: everything(n, numbers((6, 8, 33), d, 6, 0.0, s))


def golden_hashes():
    return {name: hashlib.sha256(b"".join(call())).hexdigest() for name, call in golden_calls()}


@pytest.mark.parametrize("isa", FMA_ISAS)
def test_golden_hashes(isa):
    golden, hashes = json.loads(GOLDEN.read_text(encoding="utf-8")), on_isa(isa, golden_hashes)
    assert hashes.keys() == golden.keys()
    assert not [name for name, value in hashes.items() if value != golden[name]]


# ---- N9: the floating-point control state


LIBM = ctypes.CDLL(ctypes.util.find_library("m"))


def control_state():
    """Rounding mode, whether subnormals are read and written as they are, and on x86-64 all control bits."""
    tiny = np.array([1e-40, 1e-30], np.float32)
    kept = (tiny * np.array([1e30, 1e-10], np.float32) != 0).tolist()
    environment = (ctypes.c_uint16 * 64)()
    assert LIBM.fegetenv(environment) == 0
    if platform.machine() != "x86_64":
        return LIBM.fegetround(), kept
    return LIBM.fegetround(), kept, environment[0], environment[14] & 0xFFC0  # x87 control word, MXCSR


def call_everything():
    shapes = (LAYER, (1500, 768)), (LAYER, (1, 2**18)), (BATCH, (30_000, 20)), (BATCH, (4, 2, 60_000))
    for (norm, shape), dtype in itertools.product(shapes, (np.float32, np.float64)):
        everything(norm, numbers(shape, dtype))
    for dtype in DTYPES:
        fused(numbers((40, 6, 700), dtype))
        wn.from_blocked(wn.to_blocked(numbers((40, 6, 700), dtype)))
    everything(LAYER, np.float64([[1e300, -1e300, 1e-300]]))
    everything(LAYER, np.float32([[np.nan, np.inf, 1e-45]]))


def test_import_leaves_control_state():
    lines = [
        "import ctypes, ctypes.util, platform, sys, numpy as np",
        "LIBM = ctypes.CDLL(ctypes.util.find_library('m'))",
        inspect.getsource(control_state),
        "before = control_state()",
        "import welnorm as wn",
        "assert control_state() == before, 'after import'",
        "for name in wn.available_backends():",
        "    with wn.backend(name):",
        "        wn.layer_norm(np.ones((1000, 768)))",
        "    assert control_state() == before, name",
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stderr) == (0, "")


def test_calls_leave_control_state(engine):
    before = control_state()
    assert before[1] == [True, True]
    call_everything()
    assert control_state() == before


def test_calls_leave_control_state_of_other_threads(engine):
    backend, states = wn.get_backend(), []

    def work():
        states.append(control_state())
        with wn.backend(backend):
            call_everything()
        states.append(control_state())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states == [control_state()] * 4


def test_workers_keep_subnormals(engine):
    """Flushed, subnormal x would give rows of zeros, and subnormal y zeros."""
    x = numbers((2000, 768), np.float32)
    y = wn.layer_norm(x)
    tiny = np.float32(2.0**-130)
    from_tiny = wn.layer_norm(x * tiny, eps=0.0)
    assert np.all(np.abs(from_tiny - y).max(axis=1) < 2.0**-10)
    to_tiny = wn.layer_norm(x, np.full(768, tiny))
    assert np.all((to_tiny != 0) == (np.abs(y) * np.float64(tiny) > 2.0**-150))


UPWARD, DOWNWARD = (0x800, 0x400) if platform.machine() == "x86_64" else (0x400000, 0x800000)


@pytest.mark.parametrize("mode", [UPWARD, DOWNWARD])
def test_rounding_mode_of_the_caller(mode, isa):
    """It stays as it is, and every thread of a call works in it: bits do not depend on the threads."""
    x = numbers((1500, 768), np.float32, offset=1.0)
    nearest, before = everything(LAYER, x), LIBM.fegetround()
    results = []
    assert LIBM.fesetround(mode) == 0
    try:
        for count in (1, 2):
            with wn.num_threads(count):
                results.append(everything(LAYER, x))
        after = LIBM.fegetround()
    finally:
        LIBM.fesetround(before)
    assert after == mode
    assert results[0] == results[1]
    assert results[0] != nearest
    assert everything(LAYER, x) == nearest


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit(__doc__)
    GOLDEN.write_text(json.dumps(on_isa(FMA_ISAS[0], golden_hashes), indent=1) + "\n", encoding="utf-8")
