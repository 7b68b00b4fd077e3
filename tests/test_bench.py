"""Who is measured: cases, contenders that are right or named as missing, and the limits."""

import sys

import numpy as np
import pytest
import welnorm as wn
from welnorm import bench
from welnorm.bench import cases, contenders, limits, reference, timing

CASE = bench.Case("layer_norm", "float32", "rows", (4, 16))


# Cases


def test_a_case_is_its_name():
    for suite in bench.SUITES.values():
        for case in suite:
            assert bench.Case.parse(str(case)) == case
    assert str(CASE) == "layer_norm/float32/rows/4x16"
    assert CASE.bytes_moved == 2 * 4 * 16 * 4


def test_unknown_ops_and_layouts_are_named():
    with pytest.raises(ValueError, match=r"op must be one of layer_norm, .*got 'softmax'"):
        bench.Case("softmax", "float32", "rows", (2, 3))
    with pytest.raises(ValueError, match=r"layout of layer_norm must be one of rows, got 'nchw'"):
        bench.Case("layer_norm", "float32", "nchw", (2, 3, 4, 4))


def test_inputs_are_reproducible():
    a, b = bench.make_arrays(CASE), bench.make_arrays(CASE)
    np.testing.assert_array_equal(a.x, b.x)
    assert a.x.dtype == a.weight.dtype == np.float32
    assert a.x.shape == (4, 16)
    assert a.weight.shape == a.running_var.shape == (16,)


# Contenders

SHAPES = {"rows": (6, 24), "nc": (12, 70), "nchw": (3, 5, 4, 4), "nhwc": (3, 4, 4, 5)}


@pytest.mark.filterwarnings("ignore")  # what rivals warn of when they are imported
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("op", "layout"), [(op, layout) for op in bench.OPS for layout in cases.LAYOUTS[op]])
def test_every_contender_computes_the_op_or_says_why_not(op, layout, dtype):
    case = bench.Case(op, dtype, layout, SHAPES[layout])
    arrays = bench.make_arrays(case)
    before = arrays.x.copy(), arrays.running_mean.copy(), arrays.running_var.copy()
    with bench.same_threads(1):
        made = bench.make_contenders(case, arrays, 1)
    assert [one.name for one in made] == list(bench.IMPLEMENTATIONS)
    for one in made:
        if isinstance(one, bench.Missing):
            allowed = (
                "not installed",
                "is not available here",
                "is for inference only",
                "channels first only",
            )
            assert one.reason.endswith(allowed), one
            assert one.name not in (*bench.OURS, "numpy")
        else:
            assert one.error < (1e-5 if dtype == "float32" else 1e-12)
    for array, copy in zip((arrays.x, arrays.running_mean, arrays.running_var), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_warm_output_is_reused_and_new_output_is_new():
    made = bench.make_contenders(CASE, bench.make_arrays(CASE), 1, bench.OURS)
    new, warm = (one.call for one in made)
    assert new() is not new()
    assert warm() is warm()


def test_a_rival_that_is_not_installed_is_missing_with_its_reason(monkeypatch):
    for module in ("torch", "onnx"):
        monkeypatch.setitem(sys.modules, module, None)
    result = bench.run_case(
        CASE, timing.Plan(0.0, 1, 1, 0.0, 0.0, 0.0), threads=1, names=("welnorm", "torch", "onnxruntime")
    )
    text = bench.format_report(bench.Report({"cpu": "some"}, (result,)))
    assert "torch: not installed (layer_norm)" in text
    assert "onnx is not installed (layer_norm)" in text or "onnxruntime: not installed (layer_norm)" in text
    header = next(line for line in text.splitlines() if line.startswith("case"))
    row = next(line for line in text.splitlines() if "4x16" in line)
    assert header.split()[-2:] == ["torch", "runtime"]
    assert row.split()[-2:] == ["-", "-"]


def test_a_wrong_rival_is_missing_and_a_wrong_welnorm_is_an_error(monkeypatch):
    def wrong(task):
        return bench.Contender("", lambda: task.arrays.x)

    arrays = bench.make_arrays(CASE)
    monkeypatch.setitem(contenders._BUILDERS, ("numpy", "layer_norm"), wrong)
    (missing,) = bench.make_contenders(CASE, arrays, 1, ["numpy"])
    assert missing.reason.startswith("wrong result: largest absolute error")
    monkeypatch.setitem(contenders._BUILDERS, ("welnorm", "layer_norm"), wrong)
    with pytest.raises(bench.WrongResultError, match="largest absolute error"):
        bench.make_contenders(CASE, arrays, 1, ["welnorm"])


def test_a_rival_that_fails_is_missing_with_the_first_line_of_its_error(monkeypatch):
    def fail(task):
        raise RuntimeError("no such kernel\nand a long trace")

    monkeypatch.setitem(contenders._BUILDERS, ("numpy", "layer_norm"), fail)
    (missing,) = bench.make_contenders(CASE, bench.make_arrays(CASE), 1, ["numpy"])
    assert missing == bench.Missing("numpy", "RuntimeError: no such kernel")


def test_unknown_implementation_is_named():
    with pytest.raises(ValueError, match=r"implementation must be one of welnorm, .*got 'magic'"):
        bench.make_contenders(CASE, bench.make_arrays(CASE), 1, ["magic"])


def test_reference_sees_nan_shape_and_large_arrays(monkeypatch):
    monkeypatch.setattr(reference, "_CHECKED_ELEMENTS", 32)
    arrays = bench.make_arrays(CASE)
    checked = reference.Reference(CASE, arrays)
    right = wn.layer_norm(arrays.x, arrays.weight, arrays.bias)
    assert checked.error(right) < 1e-5
    wrong = right.copy()
    wrong[-1, 3] = np.nan  # the first and the last row are always among those checked
    with pytest.raises(bench.WrongResultError, match="nan"):
        checked.error(wrong)
    with pytest.raises(bench.WrongResultError, match=r"shape \(16, 4\), expected \(4, 16\)"):
        checked.error(right.T)


# Limits


@pytest.mark.parametrize(("shape", "threads"), [((3, 5), 2), ((600, 1000), 2), ((600, 1000), 1)])
def test_limits_without_the_extension_say_so(shape, threads):
    x = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    plain, streaming = bench.make_limits(x, threads, None)
    plain.call()
    assert plain.name == "P.copy"
    assert "np.copyto" in plain.note
    assert streaming == bench.Missing("P.copy_nt", "needs welnorm's extension")


def test_numpy_copy_copies_everything():
    x = np.arange(300_001, dtype=np.float64)
    out = np.zeros_like(x)
    limits._numpy_copy(out, x, 3)()
    np.testing.assert_array_equal(out, x)


def test_limits_with_the_extension_use_both_kinds_of_stores():
    calls = []
    x = np.ones((2, 3))
    made = bench.make_limits(x, 1, lambda dst, src, nontemporal: calls.append((src is x, nontemporal)))
    for one in made:
        one.call()
    assert [one.name for one in made] == list(bench.LIMITS)
    assert calls == [(True, False), (True, True)]
