"""PyTorch as the judge: thousands of random calls of the five norms against its float64.

Each test runs one chunk of cases: a failure names the seed and the case, `random_case(seed)` makes it again.
"""

import contextlib
import dataclasses
import math

import numpy as np
import pytest
import torch
import welnorm as wn
from cases import (
    DTYPES,
    LAYOUTS,
    MAX_ULP,
    NARROW,
    compute_type,
    exact_affine,
    exact_deviations,
    laid_out,
    rounded_once,
    same_bytes,
    ulp_errors,
)
from torch.nn import functional

CHUNK = 100
CHUNKS = {"c": 20, "numba": 3, "reference": 3}
RUNS = [(name, chunk) for name, count in CHUNKS.items() for chunk in range(count)]
OPS = ("layer_norm", "rms_norm", "batch_norm", "inference", "group_norm", "instance_norm")
ACTIVATIONS = {
    None: lambda y: y,
    "relu": functional.relu,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda y: functional.gelu(y, approximate="tanh"),
}

#: What an activation may add: in units of its own result, and of its argument's errors a little more than
#: passes through (its slope is at most 1.13).
ACTIVATION = 2


@dataclasses.dataclass
class Case:
    """One call; x has its channels first, or its normalised axes where they are."""

    op: str
    x: np.ndarray
    axis: int | tuple[int, ...]
    weight: np.ndarray | None
    bias: np.ndarray | None
    eps: float
    activation: str | None = None
    offset: float = 0.0
    groups: int = 1
    place: str = "first"
    block: int = 0
    mask: np.ndarray | None = None
    running: tuple | None = None
    layout: str | None = None

    def __repr__(self):
        names = ("op", "axis", "eps", "activation", "offset", "groups", "place", "block", "layout")
        parts = [f"{name}={getattr(self, name)!r}" for name in names]
        given = [name for name in ("weight", "bias", "mask") if getattr(self, name) is not None]
        return f"{', '.join(parts)}, x={self.x.shape} {self.x.dtype}, with {given}"


def random_case(seed):
    """A call that depends on the seed alone."""
    generator = np.random.default_rng((20260607, seed))

    def pick(*values):
        return values[generator.integers(len(values))]

    op, dtype = OPS[seed % len(OPS)], pick(*DTYPES)
    ndim = int(generator.integers(1 if op.endswith(("layer_norm", "rms_norm")) else 2, 6))
    shape = tuple(int(n) for n in generator.integers(1, 9, ndim))
    shape = tuple(n * pick(1, 1, 1, 6) if sum(shape) < 24 else n for n in shape)
    offset, spread = pick(0.0, 0.0, 1.0, -100.0, 1e4), pick(1.0, 1.0, 0.01, 30.0)
    if dtype == np.float16:
        offset = min(offset, 1000.0)
    data = generator.standard_normal(shape) * spread + offset
    eps = pick(None, 1e-5, 1e-3, 1e-12)
    case = Case(op, data.astype(dtype), 0, None, None, eps)
    case.layout = pick(None, None, *LAYOUTS)
    case.activation = pick(None, None, None, *(name for name in ACTIVATIONS if name))
    if op in ("layer_norm", "rms_norm"):
        count = int(generator.integers(1, ndim + 1))
        case.axis = tuple(sorted(generator.choice(ndim, count, replace=False).tolist()))
        affine = tuple(shape[axis] for axis in case.axis)
        case.offset = pick(0.0, 1.0, -0.25) if op == "rms_norm" else 0.0
    else:
        case.place = pick("first", "last", "blocked")
        channels = shape[1]
        affine = (channels,)
        case.groups = pick(*(n for n in range(1, channels + 1) if channels % n == 0))
        case.block = pick(4, 8, 16, channels)
        length = channels // case.groups
        if op == "group_norm" and ((case.block % length and length % case.block) or channels % case.block):
            case.block = length
        case.axis = {"first": 1, "last": -1, "blocked": (1, -1)}[case.place]
        positions = (shape[0], *shape[2:])
        if pick(True, False, False):
            case.mask = generator.random(positions) < pick(0.3, 0.7, 0.95)
        values = math.prod(positions) if case.mask is None else np.count_nonzero(case.mask)
        if op == "batch_norm" and values < 2:  # no variance to train with
            case.x, case.mask = np.concatenate([case.x, case.x[:1] + np.array(1, dtype)]), None
        if op == "inference":
            mean = generator.standard_normal(channels) * spread + offset
            case.running = mean.astype(dtype), (generator.random(channels) * spread**2).astype(dtype)
    parameter = pick(dtype, np.float32)
    for name, centre in (("weight", 0.5), ("bias", 0.0)):
        if pick(True, True, False):
            values = generator.standard_normal(affine) + centre
            setattr(case, name, values.astype(parameter))
    return case


def run(case, x, **options):
    """The call, with x in the case's place and layout; the result with channels first again."""
    options |= {"axis": case.axis, "activation": case.activation}
    options |= {} if case.eps is None else {"eps": case.eps}
    pair = {"weight": case.weight, "bias": case.bias}
    there = back = np.asarray
    if case.place == "last":
        there, back = (lambda a: np.moveaxis(a, 1, -1)), (lambda y: np.moveaxis(y, -1, 1))
    elif case.place == "blocked":
        there, back = (lambda a: wn.to_blocked(a, case.block)), (lambda y: wn.from_blocked(y, x.shape[1]))
    data = there(x)
    data = np.ascontiguousarray(data) if case.layout is None else laid_out(data, case.layout)
    if case.op == "rms_norm":
        y = wn.rms_norm(data, **pair, weight_offset=case.offset, **options)
    elif case.op == "layer_norm":
        y = wn.layer_norm(data, **pair, **options)
    elif case.op == "group_norm":
        y = wn.group_norm(data, case.groups, **pair, mask=case.mask, **options)
    elif case.op == "instance_norm":
        y = wn.instance_norm(data, **pair, mask=case.mask, **options)
    else:
        running = case.running or (None, None)
        y = wn.batch_norm(data, *running, **pair, training=case.running is None, mask=case.mask, **options)
    return np.ascontiguousarray(back(y))


def tensor(array):
    return None if array is None else torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64))


def eps_of(case):
    return (1e-6 if case.op == "rms_norm" else 1e-5) if case.eps is None else case.eps


def judge(case, weight, bias):
    """What PyTorch gives in float64, before the activation; of packed data where there is a mask."""
    eps = eps_of(case)
    x, weight, bias = tensor(case.x), tensor(weight), tensor(bias)
    if case.op in ("layer_norm", "rms_norm"):
        kept = [axis for axis in range(x.ndim) if axis not in case.axis]
        order = (*kept, *case.axis)
        rows, lengths = x.permute(order), [x.shape[axis] for axis in case.axis]
        if case.op == "layer_norm":
            y = functional.layer_norm(rows, lengths, weight, bias, eps)
        else:
            y = functional.rms_norm(rows, lengths, weight, eps)
            y = y if bias is None else y + bias
        return y.permute(np.argsort(order).tolist()).numpy()
    if case.op in ("batch_norm", "inference"):
        running = map(tensor, case.running or (None, None))
        rows = x if case.mask is None else x.movedim(1, -1)[torch.from_numpy(case.mask)]
        y = rows if rows.shape[0] == 0 else functional.batch_norm(
            rows, *running, weight, bias, training=case.running is None, eps=eps
        )  # fmt: skip
        if case.mask is None:
            return y.numpy()
        whole = torch.zeros_like(x).movedim(1, -1)
        whole[torch.from_numpy(case.mask)] = y
        return whole.movedim(-1, 1).numpy()

    # not its instance_norm, nor its group_norm: those refuse slices of one value
    groups = case.groups if case.op == "group_norm" else x.shape[1]
    whole = torch.zeros_like(x)
    for sample, row in enumerate(x):
        select = torch.ones(row.shape[1:], dtype=bool)
        select = select if case.mask is None else torch.from_numpy(np.asarray(case.mask[sample]))
        values = row[:, select]
        if values.numel():
            apart = values.reshape(groups, -1)
            y = functional.layer_norm(apart, apart.shape[1:], eps=eps).reshape(values.shape)
            y = y if weight is None else y * weight[:, None]
            whole[sample][:, select] = y if bias is None else y + bias[:, None]
    return whole.numpy()


def exact(case, weight, bias):
    """The same in long double: what PyTorch rounds, where data is far from 0 or float64, must not count."""
    eps = eps_of(case)
    if case.op in ("layer_norm", "rms_norm"):
        moments = exact_deviations(case.x, case.axis, case.op == "layer_norm")
        return exact_affine(*moments, case.axis, weight, bias, eps)[0]
    x = case.x.astype(np.longdouble)
    select = np.broadcast_to(True if case.mask is None else np.expand_dims(case.mask, 1), x.shape)
    deviations, variances = np.zeros_like(x), np.ones_like(x)
    if case.op == "inference":
        mean, var = (spread_to(buffer.astype(np.longdouble), case) for buffer in case.running)
        deviations, variances = x - mean, np.broadcast_to(var, x.shape)
    else:
        samples, channels = np.ix_(np.arange(x.shape[0]), np.arange(x.shape[1]))
        length = {"group_norm": x.shape[1] // case.groups}.get(case.op, 1)
        part = channels // length + (0 if case.op == "batch_norm" else samples * x.shape[1])
        part = np.broadcast_to(part.reshape(*part.shape, *[1] * (x.ndim - 2)), x.shape)
        for number in np.unique(part):
            where = (part == number) & select
            if np.any(where):
                deviations[where], variances[where] = exact_deviations(x[where], (0,))
    return np.where(select, exact_affine(deviations, variances, (1,), weight, bias, eps)[0], 0)


def parameters_as_used(case):
    """Weight and bias in the compute type, the offset added there."""
    compute = compute_type(case.x.dtype)
    pair = [None if p is None else p.astype(compute) for p in (case.weight, case.bias)]
    if pair[0] is not None:
        pair[0] = pair[0] + compute.type(case.offset)
    return pair


def spread_to(values, case):
    """Parameters broadcast to x."""
    axes = (case.axis if isinstance(case.axis, tuple) else (case.axis,)) if case.place == "first" else (1,)
    return np.asarray(values).reshape([n if a in axes else 1 for a, n in enumerate(case.x.shape)])


def check(case):
    compute = compute_type(case.x.dtype)
    weight, bias = parameters_as_used(case)
    plain = exact(case, weight, bias)
    size = np.abs(plain)
    if bias is not None:
        size = np.maximum(size, np.abs(plain - spread_to(bias, case)))
        size = np.maximum(size, np.abs(spread_to(bias, case)))
    # PyTorch rounds in float64, and x - mean magnifies that
    condition = 1 + float(np.abs(np.float64(case.x)).max(initial=0)) / math.sqrt(eps_of(case))
    scale = 1 if weight is None else max(1.0, float(np.abs(weight).max(initial=0)))
    by_torch = judge(case, weight, bias)
    assert np.all(np.abs(by_torch - plain) <= 2.0**-50 * condition * np.maximum(size, scale)), (
        "judges disagree"
    )
    result = ACTIVATIONS[case.activation](torch.from_numpy(np.float64(plain))).numpy()
    result = plain if case.activation is None else result

    wide = run(case, case.x.astype(compute))
    assert wide.shape == case.x.shape
    errors, budget = ulp_errors(wide, result, size), MAX_ULP[compute]
    if case.activation is not None:
        budget = 1.13 * budget + ACTIVATION
    assert np.all(errors <= budget), f"{float(errors.max()):.2f} ULP"
    if case.mask is not None:
        assert not np.any(np.moveaxis(wide, 1, -1)[~case.mask])
    assert same_bytes(run(case, case.x, dtype=compute), wide)
    if case.x.dtype in NARROW:
        y = run(case, case.x)
        assert same_bytes(y, rounded_once(wide, case.x.dtype)), "not the float32 result rounded once"


@pytest.mark.parametrize(("name", "chunk"), RUNS)
def test_against_torch(name, chunk):
    assert name in wn.available_backends()
    first = CHUNK * (chunk + 1000 * list(CHUNKS).index(name))
    with wn.backend(name):
        for seed in range(first, first + CHUNK):
            case = random_case(seed)
            with naming(f"random_case({seed}) is {case}"):
                check(case)


@contextlib.contextmanager
def naming(title):
    """Put the case into whatever is raised inside."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{title}: {error}") from error


def test_enough_cases():
    assert {name: CHUNK * chunks for name, chunks in CHUNKS.items()} == {
        "c": 2000,
        "numba": 300,
        "reference": 300,
    }
    cases = [random_case(seed) for seed in range(2000)]
    for name, values in {
        "op": OPS,
        "place": ("first", "last", "blocked"),
        "activation": ACTIVATIONS,
        "layout": (None, *LAYOUTS),
    }.items():
        assert {getattr(case, name) for case in cases} == set(values)
    assert {case.x.dtype.type for case in cases} == set(DTYPES)
    assert sum(case.mask is not None for case in cases) > 200


# ---- what PyTorch does beside: its own channels-last tensors, its own running statistics


@pytest.mark.parametrize("momentum", [0.1, 0.5, 1.0])
def test_running_statistics(momentum, backend):
    for seed in range(30):
        generator = np.random.default_rng(seed)
        shape = tuple(generator.integers(2, 7, 4))
        x = generator.standard_normal(shape) + 3.0
        ours = np.zeros(shape[1]), np.ones(shape[1])
        theirs = tuple(map(tensor, ours))
        wn.batch_norm(x, *ours, training=True, momentum=momentum)
        functional.batch_norm(tensor(x), *theirs, training=True, momentum=momentum)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b.numpy(), rtol=1e-13)


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6, 12])
def test_group_norm_of_every_divisor(groups, dtype, backend):
    generator = np.random.default_rng(groups)
    for positions in ((), (2,), (5,), (3, 4), (2, 3, 4)):
        x = (generator.standard_normal((3, 12, *positions)) + 1.0).astype(dtype)
        pair = generator.standard_normal((2, 12)).astype(dtype)
        if groups == 12 and not positions:
            continue  # PyTorch refuses one value a group
        for place, block in (("first", 0), ("last", 0), ("blocked", 12 // groups), ("blocked", 12)):
            axis = {"first": 1, "last": -1, "blocked": (1, -1)}[place]
            case = Case("group_norm", x, axis, *pair, 1e-5, groups=groups, place=place, block=block)
            y, wide = run(case, x), exact(case, *pair)
            by_torch = functional.group_norm(tensor(x), groups, *map(tensor, pair)).numpy()
            np.testing.assert_allclose(np.float64(wide), by_torch, rtol=0, atol=1e-13)
            size = np.maximum(np.abs(wide), np.abs(spread_to(pair[1].astype(np.float64), case)))
            size = np.maximum(size, np.abs(wide - spread_to(pair[1].astype(np.float64), case)))
            assert np.all(ulp_errors(y, wide, size) <= MAX_ULP[compute_type(dtype)])


def test_channels_last_tensors(backend):
    """A tensor in PyTorch's memory format channels_last is an array with other strides."""
    x = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    last = x.contiguous(memory_format=torch.channels_last)
    for op, extra in (("batch_norm", {"training": True}), ("instance_norm", {})):
        y = getattr(wn, op)(last.numpy(), **extra)
        assert same_bytes(y, getattr(wn, op)(x.numpy(), **extra))
    np.testing.assert_allclose(
        wn.batch_norm(last.numpy(), training=True),
        functional.batch_norm(last, None, None, training=True).numpy(),
        rtol=0,
        atol=1e-14,
    )
