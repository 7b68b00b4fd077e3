"""Layers: PyTorch's state names, checked whole before anything changes."""

import numpy as np
import pytest
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
