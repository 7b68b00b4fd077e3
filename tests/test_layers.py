"""Layers: PyTorch's state names, checked whole before anything changes."""

import numpy as np
import pytest
import torch
import welnorm as wn


class Tensor:
    """As much of a torch tensor as loading one takes; bfloat16 has no NumPy dtype."""

    def __init__(self, values, dtype="torch.float32"):
        self.values, self.dtype = values, dtype

    def detach(self):
        return self

    def cpu(self):
        return self

    def float(self):
        return Tensor(self.values)

    def __array__(self, dtype=None, copy=None):
        if "bfloat16" in self.dtype:
            raise TypeError("Got unsupported ScalarType BFloat16")
        return np.array(self.values, dtype or np.float32)


def batch_norm_state(prefix=""):
    names = ("weight", "bias", "running_mean", "running_var")
    state = {prefix + name: np.arange(3.0) + i + 1 for i, name in enumerate(names)}
    return state | {prefix + "num_batches_tracked": np.int64(5)}


def test_layer_norm_is_the_function():
    x = np.random.default_rng(0).standard_normal((5, 2, 3), dtype=np.float32)
    layer = wn.LayerNorm((2, 3), eps=1e-3)
    layer.weight[...], layer.bias[...] = 2, 1
    expected = wn.layer_norm(x, layer.weight, layer.bias, axis=(1, 2), eps=1e-3)
    np.testing.assert_array_equal(layer(x), expected)
    out = np.empty_like(x)
    assert layer(x, out=out) is out
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(wn.LayerNorm(3)(x), wn.layer_norm(x))


def test_options():
    assert wn.LayerNorm(3, affine=False).state_dict() == {}
    assert sorted(wn.LayerNorm(3, bias=False).state_dict()) == ["weight"]
    assert wn.LayerNorm(3, dtype=np.float64).weight.dtype == np.float64
    assert sorted(wn.BatchNorm(3, track_running_stats=False).state_dict()) == ["bias", "weight"]
    assert "LayerNorm((3,)" in repr(wn.LayerNorm(3))
    assert "BatchNorm(3" in repr(wn.BatchNorm(3))


@pytest.mark.parametrize("prefix", ["", "encoder.layer.0.norm."])
def test_state_dict_round_trip(prefix):
    state = batch_norm_state(prefix)
    others = {"encoder.other.weight": np.zeros(9)} if prefix else {}
    layer = wn.BatchNorm(3)
    assert layer.load_state_dict(state | others, prefix=prefix) is layer
    saved = layer.state_dict(prefix)
    assert saved.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(saved[name], value)
    saved[prefix + "weight"][...] = 0  # a copy
    assert layer.weight[0] == 1
    assert layer.num_batches_tracked == 5


def test_loads_tensors_and_npz(tmp_path):
    layer = wn.LayerNorm(2).load_state_dict(
        {"weight": Tensor([1, 2]), "bias": Tensor([3, 4], "torch.bfloat16")}
    )
    np.testing.assert_array_equal(layer.bias, [3, 4])
    np.savez(tmp_path / "state.npz", **layer.state_dict())
    with np.load(tmp_path / "state.npz") as file:
        np.testing.assert_array_equal(wn.LayerNorm(2).load_state_dict(file).weight, [1, 2])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"weight": None}, KeyError, "missing.*weight"),
        ({"gamma": np.ones(3)}, KeyError, "unexpected.*gamma"),
        ({"bias": np.ones(4)}, ValueError, r"bias.*\(4,\).*\(3,\)"),
        ({"running_var": [1, np.nan, 1]}, ValueError, "running_var.*finite"),
        ({"running_var": [1, 1e300, 1]}, ValueError, "running_var.*finite.*float32"),
        ({"weight": ["a", "b", "c"]}, TypeError, "weight.*dtype"),
        ({"weight": np.ones(3) * 1j}, TypeError, "weight.*complex"),
    ],
)
def test_a_bad_state_changes_nothing(change, error, words):
    layer = wn.BatchNorm(3)
    before = {name: array.tobytes() for name, array in layer.state_dict().items()}
    state = {name: value for name, value in (batch_norm_state() | change).items() if value is not None}
    with pytest.raises(error, match=words):
        layer.load_state_dict(state)
    assert {name: array.tobytes() for name, array in layer.state_dict().items()} == before


def test_modes():
    layer = wn.BatchNorm(2)
    assert not layer.training
    assert layer.train() is layer
    assert layer.training
    assert layer.eval() is layer
    assert not layer.training
    assert not layer.train(False).training


def test_running_statistics():
    x = np.random.default_rng(0).standard_normal((6, 2, 5), dtype=np.float32) * 2 + 1
    layer = wn.BatchNorm(2, momentum=0.25).train()
    y = layer(x)
    np.testing.assert_array_equal(y, wn.batch_norm(x, None, None, layer.weight, layer.bias, training=True))
    np.testing.assert_allclose(layer.running_mean, 0.25 * x.mean((0, 2)), rtol=1e-5)
    np.testing.assert_allclose(layer.running_var, 0.75 + 0.25 * x.var((0, 2), ddof=1), rtol=1e-5)
    assert layer.num_batches_tracked == 1
    before = layer.state_dict()
    layer.eval()(x)
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_cumulative_average():
    batches = np.random.default_rng(0).standard_normal((7, 10, 2))
    layer = wn.BatchNorm(2, momentum=None, dtype="float64").train()
    for batch in batches:
        layer(batch)
    np.testing.assert_allclose(layer.running_mean, batches.mean((0, 1)), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(layer.running_var, batches.var(1, ddof=1).mean(0), rtol=1e-12)
    assert layer.num_batches_tracked == 7


def test_without_running_statistics():
    x = np.random.default_rng(0).standard_normal((6, 2))
    layer = wn.BatchNorm(2, track_running_stats=False, dtype="float64")
    np.testing.assert_array_equal(layer(x), wn.batch_norm(x, training=True))


def test_channels_last_and_out():
    x = np.random.default_rng(0).standard_normal((4, 5, 3), dtype=np.float32)
    layer = wn.BatchNorm(3, axis=-1).load_state_dict(batch_norm_state())
    first = wn.BatchNorm(3).load_state_dict(batch_norm_state())
    expected = first(np.ascontiguousarray(x.transpose(0, 2, 1))).transpose(0, 2, 1)
    assert layer(x, out=x) is x
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("shape", [(2,), (4, 2), (4, 2, 3)])
def test_wrong_shapes(shape):
    with pytest.raises(ValueError, match="x has shape"):
        wn.BatchNorm(3)(np.zeros(shape))
    with pytest.raises(ValueError, match="x has shape"):
        wn.LayerNorm((3, 3))(np.zeros(shape))


@pytest.mark.parametrize("count", [1e300, np.inf, -1, np.uint64(2**63), 2.5, "5", [5]])
def test_a_count_that_is_none(count):
    layer = wn.BatchNorm(3).load_state_dict(batch_norm_state())
    with pytest.raises((TypeError, ValueError), match="num_batches_tracked"):
        layer.load_state_dict(batch_norm_state() | {"weight": np.zeros(3), "num_batches_tracked": count})
    assert (layer.num_batches_tracked, layer.weight[0]) == (5, 1)


@pytest.mark.parametrize("state", [{5: np.ones(3)}, [1, 2], ["weight"]])
def test_a_state_that_is_none(state):
    with pytest.raises((KeyError, TypeError), match=r"missing|mapping"):
        wn.BatchNorm(3).load_state_dict(state)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_failed_batch_is_not_learnt(momentum):
    layer = wn.BatchNorm(3, momentum=momentum).load_state_dict(batch_norm_state()).train()
    before = {name: array.tobytes() for name, array in layer.state_dict().items()}
    fixed = np.zeros((4, 3), np.float32)
    fixed.flags.writeable = False
    calls = [
        lambda: layer(np.zeros((1, 3), np.float32)),
        lambda: layer(np.zeros((4, 2), np.float32)),
        lambda: layer(np.zeros((4, 3), np.float32), out=fixed),
        lambda: layer(np.zeros((4, 3), np.float32), out=np.zeros((4, 3))),
        lambda: layer(np.zeros((4, 3), complex)),
        lambda: layer(np.zeros((0, 3), np.float32), out=np.zeros((1, 3), np.float32)),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError)):
            call()
        assert {name: array.tobytes() for name, array in layer.state_dict().items()} == before


def test_an_empty_batch_is_not_learnt():
    layer = wn.BatchNorm(3).load_state_dict(batch_norm_state()).train()
    before = {name: array.tobytes() for name, array in layer.state_dict().items()}
    assert layer(np.zeros((0, 3), np.float32)).shape == (0, 3)
    assert {name: array.tobytes() for name, array in layer.state_dict().items()} == before


def test_a_state_is_copied():
    state = batch_norm_state()
    layer, other = wn.BatchNorm(3).load_state_dict(state), wn.BatchNorm(3)
    state["weight"][...] = 9
    assert layer.weight[0] == 1
    other.load_state_dict(layer.state_dict())
    layer.train()(np.arange(12.0).reshape(4, 3))
    assert other.num_batches_tracked == 5
    assert other.running_mean[0] == 3


# ---- the other layers, against PyTorch's with the same state


def torch_layer(make, x, offset=0.0):
    """PyTorch's layer with random parameters in float64, its state, and what it makes of x."""
    layer = make().double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) + 0.5)
        y = layer(torch.from_numpy(x)).numpy()
    return layer.state_dict(), y


X = np.random.default_rng(5).standard_normal((4, 6, 5, 3)) * 2 + 1
PAIRS = {
    "LayerNorm": (lambda: wn.LayerNorm(3, dtype="f8"), lambda: torch.nn.LayerNorm(3)),
    "LayerNorm of three": (lambda: wn.LayerNorm((6, 5, 3), 1e-3, dtype="f8"),
                           lambda: torch.nn.LayerNorm((6, 5, 3), 1e-3)),
    "LayerNorm, no bias": (lambda: wn.LayerNorm(3, bias=False, dtype="f8"),
        lambda: torch.nn.LayerNorm(3, bias=False)),
    "LayerNorm, plain": (lambda: wn.LayerNorm(3, affine=False),
        lambda: torch.nn.LayerNorm(3, elementwise_affine=False)),
    "RMSNorm": (lambda: wn.RMSNorm(3, dtype="f8"), lambda: torch.nn.RMSNorm(3, eps=1e-6)),
    "RMSNorm of two": (lambda: wn.RMSNorm((5, 3), 1e-3, dtype="f8"),
        lambda: torch.nn.RMSNorm((5, 3), eps=1e-3)),
    "RMSNorm, plain": (lambda: wn.RMSNorm(3, affine=False),
                       lambda: torch.nn.RMSNorm(3, eps=1e-6, elementwise_affine=False)),
    "GroupNorm": (lambda: wn.GroupNorm(2, 6, dtype="f8"), lambda: torch.nn.GroupNorm(2, 6)),
    "GroupNorm of one": (lambda: wn.GroupNorm(1, 6, 1e-3, dtype="f8"),
        lambda: torch.nn.GroupNorm(1, 6, 1e-3)),
    "GroupNorm, plain": (lambda: wn.GroupNorm(3, 6, affine=False),
        lambda: torch.nn.GroupNorm(3, 6, affine=False)),
    "InstanceNorm2d": (lambda: wn.InstanceNorm(6, affine=True, dtype="f8"),
                       lambda: torch.nn.InstanceNorm2d(6, affine=True)),
    "InstanceNorm2d, plain": (lambda: wn.InstanceNorm(6, 1e-3), lambda: torch.nn.InstanceNorm2d(6, 1e-3)),
    "BatchNorm2d": (lambda: wn.BatchNorm(6, dtype="f8"), lambda: torch.nn.BatchNorm2d(6)),
    "BatchNorm2d, plain": (lambda: wn.BatchNorm(6, affine=False, dtype="f8"),
        lambda: torch.nn.BatchNorm2d(6, affine=False)),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_like_pytorch(name, backend):
    make, make_torch = PAIRS[name]
    state, expected = torch_layer(make_torch, X)
    layer = make()
    assert sorted(layer.state_dict()) == sorted(state)
    assert layer.load_state_dict(state) is layer
    assert layer.load_state_dict({f"a.{key}": value for key, value in state.items()}, prefix="a.") is layer
    np.testing.assert_allclose(layer(X), expected, rtol=0, atol=1e-13)
    out = X.copy()
    assert layer(out, out=out) is out
    np.testing.assert_array_equal(out, layer(X))


def test_like_pytorch_instance_norm_of_signals(backend):
    state, expected = torch_layer(lambda: torch.nn.InstanceNorm1d(6, affine=True), X[..., 0])
    layer = wn.InstanceNorm(6, affine=True, dtype="float64").load_state_dict(state)
    np.testing.assert_allclose(layer(X[..., 0]), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_training_like_pytorch(momentum, backend):
    theirs = torch.nn.BatchNorm2d(6, momentum=momentum).double()
    ours = wn.BatchNorm(6, momentum=momentum, dtype="float64").train()
    for k in range(4):
        batch = X * (k + 1) - k
        expected = theirs(torch.from_numpy(batch)).detach().numpy()
        np.testing.assert_allclose(ours(batch), expected, rtol=0, atol=1e-13)
    state = ours.state_dict()
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(state[name], value.numpy(), rtol=1e-13)
    np.testing.assert_allclose(
        ours.eval()(X), theirs.eval()(torch.from_numpy(X)).detach().numpy(), atol=1e-13
    )


def test_weight_offset(backend):
    """Gemma: (1 + weight), the weight zeros at first."""
    layer = wn.RMSNorm(3, weight_offset=1.0, dtype="float64")
    assert not np.any(layer.weight)
    np.testing.assert_array_equal(layer(X), wn.rms_norm(X))
    weight = np.array([-0.5, 0.25, 2.0])
    layer.load_state_dict({"weight": weight})
    expected = torch.nn.functional.rms_norm(torch.from_numpy(X), [3], torch.from_numpy(1 + weight), 1e-6)
    np.testing.assert_allclose(layer(X), expected.numpy(), rtol=0, atol=1e-13)
    assert list(wn.RMSNorm(3, bias=True).state_dict()) == ["weight", "bias"]
    assert wn.RMSNorm(3, affine=False, weight_offset=1.0).state_dict() == {}


@pytest.mark.parametrize("name", ["BatchNorm", "GroupNorm", "InstanceNorm"])
def test_places_of_channels(name, backend):
    """Channels first, last and in blocks, padded ones too: the same numbers."""
    arguments = {"BatchNorm": (6,), "GroupNorm": (3, 6), "InstanceNorm": (6,)}[name]
    extra = {} if name == "BatchNorm" else {"affine": True}
    make = getattr(wn, name)
    first = make(*arguments, **extra, dtype="float64")
    first.weight[...], first.bias[...] = np.linspace(0.5, 2, 6), np.arange(6)
    if name == "BatchNorm":
        first.running_mean[...], first.running_var[...] = np.linspace(-1, 1, 6), np.linspace(0.5, 2, 6)
    y = first(X)
    last = make(*arguments, **extra, axis=-1, dtype="float64").load_state_dict(first.state_dict())
    result = last(np.ascontiguousarray(np.moveaxis(X, 1, -1)))
    np.testing.assert_allclose(np.moveaxis(result, -1, 1), y, rtol=0, atol=1e-13)
    for block in (2, 6, 4, 16) if name != "GroupNorm" else (2, 6, 4):
        blocked = make(*arguments, **extra, axis=(1, -1), dtype="float64").load_state_dict(first.state_dict())
        result = blocked(wn.to_blocked(X, block))
        np.testing.assert_allclose(wn.from_blocked(result, 6), y, rtol=0, atol=1e-13)
        assert not np.any(wn.from_blocked(result)[:, 6:])
        with pytest.raises(ValueError, match=r"x has shape.*6 channels"):
            blocked(wn.to_blocked(X[:, :1], 1))


@pytest.mark.parametrize("name", ["BatchNorm", "GroupNorm", "InstanceNorm"])
def test_masks(name, backend):
    arguments = {"BatchNorm": (6,), "GroupNorm": (3, 6), "InstanceNorm": (6,)}[name]
    mask = np.random.default_rng(0).random((4, 5, 3)) < 0.7
    x = np.where(mask[:, None], X, np.nan)
    layer = getattr(wn, name)(*arguments)
    function = {
        "BatchNorm": lambda **o: wn.batch_norm(x, np.zeros(6), np.ones(6), **o),
        "GroupNorm": lambda **o: wn.group_norm(x, 3, **o),
        "InstanceNorm": lambda **o: wn.instance_norm(x, **o),
    }[name]
    y = layer(x, mask=mask)
    np.testing.assert_array_equal(y, function(mask=mask))
    assert not np.any(np.moveaxis(y, 1, -1)[~mask])
    if name == "BatchNorm":
        layer.train()
        np.testing.assert_array_equal(layer(x, mask=mask), function(mask=mask, training=True))
        assert np.all(np.isfinite(layer.running_var))
        assert layer.num_batches_tracked == 1
        before = layer.state_dict()
        assert not np.any(layer(x, mask=False))  # nothing there, nothing learnt
        for key, value in layer.state_dict().items():
            np.testing.assert_array_equal(value, before[key])


@pytest.mark.parametrize("value", [-1.0, -1e-30])
def test_negative_variances_are_an_error(value):
    layer = wn.BatchNorm(3).load_state_dict(batch_norm_state())
    before = layer.state_dict()
    state = batch_norm_state() | {"weight": np.zeros(3), "running_var": np.array([1.0, value, 1.0])}
    with pytest.raises(ValueError, match=r"running_var.*negative"):
        layer.load_state_dict(state)
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])
    layer.load_state_dict(batch_norm_state() | {"running_mean": np.array([1.0, value, 1.0])})
    assert layer.running_mean[1] == np.float32(value)


def test_16_bit_tensors_load():
    for dtype in (torch.bfloat16, torch.float16):
        state = {name: torch.tensor([0.5, 1.5, -2.0], dtype=dtype) for name in ("weight", "bias")}
        state |= {"running_mean": torch.zeros(3, dtype=dtype), "running_var": torch.ones(3, dtype=dtype)}
        state |= {"num_batches_tracked": torch.tensor(7)}
        layer = wn.BatchNorm(3).load_state_dict(state)
        np.testing.assert_array_equal(layer.weight, np.float32([0.5, 1.5, -2.0]))
        assert layer.num_batches_tracked == 7
        narrow = wn.RMSNorm(3, dtype="bfloat16").load_state_dict({"weight": state["weight"]})
        assert narrow.weight.dtype.name == "bfloat16"
        np.testing.assert_array_equal(narrow.weight.astype(np.float32), layer.weight)
        trained = wn.LayerNorm(3).load_state_dict(
            {k: torch.nn.Parameter(state[k]) for k in ("weight", "bias")}
        )
        np.testing.assert_array_equal(trained.bias, layer.bias)


def test_precise_batch_norm(backend):
    """Re-calibration: momentum=None makes the running statistics the average of the batches'."""
    batches = np.random.default_rng(0).standard_normal((7, 10, 3, 4)) * 2 + 5
    layer = wn.BatchNorm(3, dtype="float64").train()
    for batch in batches:
        layer(batch * 9)  # what there was before does not count
    layer.momentum = None
    layer.num_batches_tracked[...] = 0
    for batch in batches:
        layer(batch)
    np.testing.assert_allclose(layer.running_mean, batches.mean((1, 3)).mean(0), rtol=1e-14)
    np.testing.assert_allclose(layer.running_var, batches.var((1, 3), ddof=1).mean(0), rtol=1e-14)
    assert layer.num_batches_tracked == 7
    mean, var = layer.running_mean.copy(), layer.running_var.copy()
    np.testing.assert_array_equal(layer.eval()(batches[0]), wn.batch_norm(batches[0], mean, var))


def test_options_of_the_other_layers():
    assert wn.InstanceNorm(3).state_dict() == {}
    assert sorted(wn.InstanceNorm(3, affine=True).state_dict()) == ["bias", "weight"]
    assert wn.GroupNorm(2, 4, affine=False).state_dict() == {}
    assert wn.GroupNorm(2, 4, dtype="float16").weight.dtype == np.float16
    for layer in (wn.RMSNorm(3), wn.GroupNorm(1, 3), wn.InstanceNorm(3)):
        assert not layer.training
        assert layer.train() is layer
        assert layer.training
        assert layer.eval() is layer
        assert type(layer).__name__ in repr(layer)


@pytest.mark.parametrize("affine", [True, False])
def test_padded_blocks(affine, backend):
    """Padding channels count as nothing and stay 0, with a variance of 0 too."""
    x = np.random.default_rng(0).standard_normal((2, 24, 5))
    for layer in (
        wn.GroupNorm(3, 24, 0.0, axis=(1, -1), affine=affine),
        wn.InstanceNorm(24, 0.0, axis=(1, -1), affine=affine),
        wn.BatchNorm(24, 0.0, axis=(1, -1), affine=affine).train(),
    ):
        y = layer(wn.to_blocked(x))
        layer.axis = 1
        np.testing.assert_allclose(wn.from_blocked(y, 24), layer(x), rtol=1e-12, atol=1e-12)
        if affine or not isinstance(layer, wn.InstanceNorm):  # else nothing tells padding from channels
            assert not y[:, 1, :, 8:].any()
