"""Memory: arrays that suit the kernels, and calls that take none.

``python tests/test_memory.py DTYPE`` prints what each call of the backend c takes on 256 MB of data,
    in bytes.
"""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import welnorm as wn
from cases import DTYPES, LAYOUTS, bfloat16, laid_out, name_of, random_data, same_bytes

# ---- aligned_empty


class TestAlignedEmpty:
    @pytest.mark.parametrize("alignment", [1, 2, 16, 64, 128, 4096, 2**21])
    @pytest.mark.parametrize("shape", [(), 0, 1, 7, (3, 5), [2, 3, 4], (2, 0, 3), np.int64(9)], ids=str)
    def test_alignment(self, shape, alignment, dtype):
        a = wn.aligned_empty(shape, dtype, alignment=alignment)
        assert a.size == 0 or a.ctypes.data % alignment == 0
        assert (a.shape, a.dtype) == (np.empty(shape).shape, dtype)
        assert a.flags.c_contiguous
        assert a.flags.writeable
        a[...] = 3
        assert np.all(a == 3)

    def test_defaults(self):
        for _ in range(20):
            a = wn.aligned_empty(5)
            assert (a.dtype, a.ctypes.data % 64) == (np.float32, 0)

    @pytest.mark.parametrize(
        "name", ["i1", "u2", "?", ">f4", "c16", "longdouble", "bfloat16", "f4,i8", "M8[s]"]
    )
    def test_dtypes(self, name):
        a = wn.aligned_empty((2, 3), name)
        assert a.dtype == (bfloat16 if name == "bfloat16" else np.dtype(name))
        assert (a.shape, a.ctypes.data % 64) == ((2, 3), 0)

    def test_independent(self):
        arrays = [wn.aligned_empty((10, 10)) for _ in range(50)]
        for k, a in enumerate(arrays):
            a[...] = k
        for k, a in enumerate(arrays):
            assert np.all(a == k)

    def test_of_use(self, dtype, backend):
        x = random_data(0, (20, 33), dtype)
        aligned, out = wn.aligned_empty(x.shape, dtype), wn.aligned_empty(x.shape, dtype)
        aligned[...] = x
        assert wn.layer_norm(aligned, out=out) is out
        assert same_bytes(out, wn.layer_norm(x))


# ---- channels in blocks


def expected_blocks(x, block):
    """By NumPy: pad the channels, split them, bring the inner part to the end."""
    missing = -x.shape[1] % block
    padded = np.concatenate([x, np.zeros((x.shape[0], missing, *x.shape[2:]), x.dtype)], axis=1)
    split = padded.reshape(x.shape[0], -1, block, *x.shape[2:])
    return np.ascontiguousarray(np.moveaxis(split, 2, -1))


class TestBlocks:
    @pytest.mark.parametrize("block", [1, 2, 3, 8, 16, 64])
    @pytest.mark.parametrize("channels", [1, 3, 8, 16, 17, 33])
    @pytest.mark.parametrize("positions", [(), (1,), (7,), (5, 3), (2, 3, 4)], ids=str)
    def test_there_and_back(self, positions, channels, block, dtype, backend):
        x = random_data(0, (3, channels, *positions), dtype)
        before = x.tobytes()
        blocked = wn.to_blocked(x, block)
        assert same_bytes(blocked, expected_blocks(x, block))
        assert blocked.ctypes.data % 64 == 0
        assert blocked.flags.c_contiguous
        assert not np.shares_memory(blocked, x)
        back = wn.from_blocked(blocked, channels)
        assert same_bytes(back, x)
        assert back.ctypes.data % 64 == 0
        assert back.flags.c_contiguous
        whole = wn.from_blocked(blocked)
        assert whole.shape == (3, -(-channels // block) * block, *positions)
        assert same_bytes(whole[:, :channels].copy(), x)
        assert not np.any(whole[:, channels:])
        assert x.tobytes() == before

    @pytest.mark.parametrize("layout", [*LAYOUTS, "byte-swapped"])
    @pytest.mark.parametrize("shape", [(3, 17, 5, 4), (2, 16, 33), (5, 40)], ids=str)
    def test_any_layout(self, shape, layout, dtype, backend):
        def other(array):
            return (
                array.astype(array.dtype.newbyteorder())
                if layout == "byte-swapped"
                else laid_out(array, layout)
            )

        x = random_data(0, shape, dtype)
        blocked = wn.to_blocked(other(x))
        assert same_bytes(blocked, expected_blocks(x, 16))
        assert same_bytes(wn.from_blocked(other(blocked), shape[1]), x)

    def test_bits_are_kept(self, backend):
        """NaN with a payload, -0, subnormals: nothing is computed."""
        bits = np.arange(-3 * 20 * 7, 0, dtype=np.int64).reshape(3, 20, 7)
        for dtype, integer in (
            (np.float32, np.int32),
            (np.float64, np.int64),
            (np.float16, np.int16),
            (bfloat16, np.int16),
        ):
            x = bits.astype(integer).view(dtype)
            assert same_bytes(wn.from_blocked(wn.to_blocked(x, 8), 20).view(integer), bits.astype(integer))

    def test_large(self, dtype, backend):
        """Enough for threads."""
        x = random_data(0, (9, 70, 1003), dtype)
        blocked = wn.to_blocked(x)
        assert same_bytes(blocked, expected_blocks(x, 16))
        assert same_bytes(wn.from_blocked(blocked, 70), x)

    def test_empty(self, dtype, backend):
        for shape, blocks in (
            ((0, 3, 5), (0, 1, 5, 16)),
            ((2, 0, 5), (2, 0, 5, 16)),
            ((2, 3, 0), (2, 1, 0, 16)),
        ):
            blocked = wn.to_blocked(np.empty(shape, dtype))
            assert (blocked.shape, blocked.dtype) == (blocks, dtype)
            assert wn.from_blocked(blocked, shape[1]).shape == shape

    def test_promotion(self, backend):
        for x in ([[1, 2, 3]], np.arange(6).reshape(2, 3), np.ones((2, 3), bool)):
            blocked = wn.to_blocked(x, 2)
            assert blocked.dtype == np.float64
            assert same_bytes(wn.from_blocked(blocked, 3), np.asarray(x, np.float64))


# ---- what calls take beside their results, on 256 MB


MB = 2**20
SIZE = 256 * MB
THREADS = 2
#: 1 MB for each thread, and 2 MB for the process: Python objects, statistics, what Linux is late to count
#: (256 kB a thread). Measured: 0.3 MB at most, 1.2 MB by strips of 1024 columns.
LIMIT = THREADS * MB + 2 * MB


def shapes(count):
    """Arrays of so many elements, by the names that `CALLS` uses; count is a power of two."""
    return {
        "rows": (count // 2**10, 2**10),
        "long rows": (count // 2**18, 2**18),
        "one row": (1, count),
        "columns": (count // 2**8, 2**8),
        "wide columns": (count // 2**11, 2**11),
        "middle": (count // 2**20, 2**8, 2**12),
        "apart": (64, count // 2**16, 2**10),
        "first": (count // 2**20, 2**8, 2**12),
        "last": (count // 2**20, 2**12, 2**8),
        "blocked": (count // 2**20, 2**4, 2**12, 2**4),
    }


def parameters(length):
    return {"weight": np.linspace(0.5, 2, length), "bias": np.linspace(-1, 1, length)}


def norms_of_channels():
    """Batch, group and instance norm on every layout of channels, with and without a mask."""
    groups, running = {"num_groups": 32}, {"running_mean": np.zeros(256), "running_var": np.ones(256)}
    extras = {
        "batch_norm": {"training": True} | running,
        "inference": running,
        "group_norm": groups,
        "instance_norm": {},
    }
    for (op, extra), (place, axis) in (
        (a, b) for a in extras.items() for b in (("first", 1), ("last", -1), ("blocked", (1, -1)))
    ):
        function = wn.batch_norm if op == "inference" else getattr(wn, op)
        for masked in (False, True):

            def call(x, out, third, f=function, e=extra, axis=axis, masked=masked):
                mask = {"mask": np.arange(2**12) % 7 > 0} if masked else {}
                return f(x, **e, **parameters(256), **mask, axis=axis, out=out)

            yield f"{op}, channels {place}{', masked' * masked}", (place, call)


def swap(a):
    return a.reshape(a.shape[::-1]).T


#: Name: which shape, and the call of three arrays of it.
CALLS = {
    "layer_norm": ("rows", lambda x, out, third: wn.layer_norm(x, **parameters(2**10), out=out)),
    "layer_norm, in place": ("rows", lambda x, out, third: wn.layer_norm(x, out=x)),
    "layer_norm, long rows": ("long rows", lambda x, out, third: wn.layer_norm(x, out=out)),
    "layer_norm, one row": ("one row", lambda x, out, third: wn.layer_norm(x, out=out)),
    "layer_norm, all axes": ("rows", lambda x, out, third: wn.layer_norm(x, axis=(0, 1), out=out)),
    "layer_norm, axis 0": ("columns", lambda x, out, third: wn.layer_norm(x, axis=0, out=out)),
    "layer_norm, F-order": ("columns", lambda x, out, third: wn.layer_norm(swap(x), axis=-1, out=swap(out))),
    "layer_norm, transposed": ("rows", lambda x, out, third: wn.layer_norm(swap(x), axis=-1, out=out)),
    "layer_norm, transposed out": ("rows", lambda x, out, third: wn.layer_norm(x, axis=-1, out=swap(out))),
    "layer_norm, middle": ("middle", lambda x, out,
        third: wn.layer_norm(x, **parameters(2**8), axis=1, out=out)),
    "layer_norm, apart": ("apart", lambda x, out, third: wn.layer_norm(x, axis=(0, -1), out=out)),
    "layer_norm, rows apart": ("rows", lambda x, out, third: wn.layer_norm(x[:, :513], out=out[:, -513:])),
    "layer_norm, elements apart": ("rows", lambda x, out, third: wn.layer_norm(x[:, ::2], out=out[:, 1::2])),
    "layer_norm, reversed": ("rows", lambda x, out, third: wn.layer_norm(x[::-1, ::-1], out=out)),
    "layer_norm, axes swapped": ("middle", lambda x, out,
        third: wn.layer_norm(x.swapaxes(0, 2), axis=1, out=out.swapaxes(0, 2))),
    "rms_norm": ("rows", lambda x, out, third: wn.rms_norm(x, np.ones(2**10), weight_offset=1.0, out=out)),
    "rms_norm, middle": ("middle", lambda x, out, third: wn.rms_norm(x, axis=1, out=out)),
    **{f"layer_norm, {name}": ("rows", lambda x, out, third,
     name=name: wn.layer_norm(x, activation=name, out=out))
       for name in ("relu", "silu", "gelu", "gelu_tanh")},
    "layer_norm, another dtype": ("rows", lambda x, out, third: wn.layer_norm(
        x, dtype="f2", out=out.reshape(-1).view("f2")[: x.size].reshape(x.shape))),
    "layer_norm, mixed parameters": ("rows", lambda x, out,
        third: wn.layer_norm(x, np.ones(2**10, "f2"), out=out)),
    **dict(norms_of_channels()),
    "batch_norm, columns": ("columns", lambda x, out, third: wn.batch_norm(x, training=True, out=out)),
    "batch_norm, wide columns": (
        "wide columns", lambda x, out, third: wn.batch_norm(x, training=True, out=out)),
    "add_layer_norm": ("rows", lambda x, out, third: wn.add_layer_norm(x, third, out=out, sum_out=third)),
    "add_layer_norm, new sum": ("rows", lambda x, out,
        third: wn.add_layer_norm(x, x, out=out, sum_out=third)),
    "add_layer_norm, in place": ("rows", lambda x, out, third: wn.add_layer_norm(x, out, out=out, sum_out=x)),
    "add_rms_norm": ("rows", lambda x, out, third: wn.add_rms_norm(x, third, out=out, sum_out=third)),
    "add_layer_norm, middle": ("middle", lambda x, out,
        third: wn.add_layer_norm(x, third, axis=1, out=out, sum_out=third)),
    "layer_norm_int8": ("rows", lambda x, out, third: wn.layer_norm_int8(x)),
    "layer_norm_int8, long rows": ("long rows", lambda x, out, third: wn.layer_norm_int8(x)),
    "layer_norm_int8, middle": ("middle", lambda x, out, third: wn.layer_norm_int8(x, axis=1)),
    "rms_norm_int8, static": ("rows", lambda x, out, third: wn.rms_norm_int8(x, scale=0.05)),
    "moments": ("rows", lambda x, out, third: wn.moments(x)),
    "moments, columns": ("columns", lambda x, out, third: wn.moments(x, 0)),
    "moments, rows": ("long rows", lambda x, out, third: wn.moments(x, 1)),
    "moments, channels": ("first", lambda x, out, third: wn.moments(x, (0, 2))),
    "moments, F-order": ("columns", lambda x, out, third: wn.moments(swap(x), 1)),
    "moments, masked rows": ("columns", lambda x, out,
        third: wn.moments(x, 0, mask=np.arange(len(x))[:, None] % 3 > 0)),
    "moments, masked columns": ("long rows", lambda x, out,
        third: wn.moments(x, 1, mask=np.arange(2**18) % 3 > 0)),
    "moments, masks apart": ("columns", lambda x, out, third: wn.moments(
        x, 0, mask=third.reshape(-1).view(bool)[: x.size].reshape(x.shape))),
    "mean_var": ("rows", lambda x, out, third: wn.mean_var(x, 0)),
    "to_blocked": ("first", lambda x, out, third: wn.to_blocked(x)),
    "from_blocked": ("blocked", lambda x, out, third: wn.from_blocked(x)),
}  # fmt: skip
#: What differs by dtype is how elements are loaded and stored: a few calls show it.
FEW = [
    *("layer_norm", "layer_norm, F-order", "layer_norm, middle", "layer_norm, silu", "rms_norm", "moments"),
    *("batch_norm, channels first", "batch_norm, channels last, masked", "inference, channels blocked"),
    *("group_norm, channels last", "add_layer_norm", "layer_norm_int8", "to_blocked"),
]
#: Masks that calls make are the caller's.
OWN_MASK = {"moments, masked rows", "moments, masked columns"}


def high_water():
    """The most memory that the process has had since `forget`, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))


def forget():
    """Let the high-water mark start from what is in use now; see proc(5)."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def size_of(result, *given):
    """Bytes of results that are not the caller's arrays."""
    if isinstance(result, wn.Moments):
        return 5 * result.to_array()[0].nbytes
    parts = result if isinstance(result, tuple) else (result,)
    return sum(part.nbytes for part in parts if not any(np.may_share_memory(part, g) for g in given))


def measure(dtype):
    """Extra memory of each call."""
    itemsize = dtype.itemsize
    memory = [wn.aligned_empty(SIZE, np.uint8) for _ in range(3)]
    wave = np.sin(np.arange(2**15)).astype(dtype)
    for array in memory:
        array.view(dtype).reshape(-1, wave.size)[...] = wave
    names, extra = CALLS if dtype == np.float32 else FEW, {}
    for name in names:
        key, call = CALLS[name]
        for count in (2**21, SIZE // itemsize):  # a warm-up, then what counts
            shape = shapes(count)[key]
            arrays = [array.view(dtype)[: math.prod(shape)].reshape(shape) for array in memory]
            forget()
            before = high_water()
            result = call(*arrays)
            extra[name] = high_water() - before - size_of(result, *arrays)
            if name in OWN_MASK:
                extra[name] -= 9 * max(shape)  # the mask and the numbers it was made from
            del result, arrays
    forget()
    before = high_water()
    memory[0].copy()
    return extra | {"a copy, to see that the measure is right": high_water() - before}


# The one promise here that is on the process: so each dtype is measured in one of its own.
@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16"])
def test_no_full_size_temporaries(name):
    command = [sys.executable, __file__, name]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    extra = json.loads(run.stdout)
    assert len(extra) == (len(CALLS) if name == "float32" else len(FEW)) + 1
    assert extra.pop("a copy, to see that the measure is right") > SIZE - LIMIT
    assert not {call: f"{taken / MB:.1f} MB" for call, taken in extra.items() if taken > LIMIT}


if __name__ == "__main__":
    with wn.backend("c"), wn.num_threads(THREADS):
        print(json.dumps(measure(np.dtype(bfloat16 if sys.argv[1] == "bfloat16" else sys.argv[1])), indent=1))


@pytest.mark.parametrize("dtype", DTYPES, ids=name_of)
def test_new_results_start_at_a_line_and_are_ordinary(dtype):
    """Large ones, of every kind of call; they own their memory, which can grow and shrink."""
    x = np.ones((256, 512), dtype)
    with wn.backend("c"):
        results = wn.layer_norm(x), wn.batch_norm(x, training=True), *wn.add_rms_norm(x, x)
    for y in results:
        assert y.ctypes.data % 64 == 0
        assert y.flags.owndata
    y = results[-1].copy(order="K")
    del results
    grown = wn.add_rms_norm(x, x)[1]
    grown.resize((512, 512), refcheck=False)
    assert same_bytes(grown[:256], y)
    assert not np.any(grown[256:])
    grown.resize((3, 512), refcheck=False)
    assert same_bytes(grown, y[:3])
