"""Who is measured: cases, contenders that are right or named as missing, and the limits."""

import math
import runpy
import sys
from functools import partial
from pathlib import Path

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


def test_what_a_case_derives_from_its_name():
    blocked = bench.Case.parse("group_norm/float16/nchw16c/2x4x3x3x16")
    assert (blocked.axis, blocked.channels, blocked.bytes_moved) == ((1, -1), 64, 2 * 2 * 4 * 9 * 16 * 2)
    add = bench.Case.parse("add_rms_norm/bfloat16/rows/4x16")
    assert (add.bytes_moved, add.eps) == (4 * 4 * 16 * 2, 1e-6)  # without ml_dtypes too
    fused = bench.Case.parse("batch_norm_inference_relu/float32/nhwc/2x3x3x8")
    assert (fused.norm, fused.activation, fused.axis) == ("batch_norm_inference", "relu", -1)
    there = bench.Case.parse("to_blocked/float32/nchw/2x32x3x5")
    assert (there.result_layout, there.result_shape) == ("nchw16c", (2, 2, 3, 5, 16))
    back = bench.Case("from_blocked", "float32", *("nchw16c", there.result_shape))
    assert (back.result_layout, back.result_shape) == ("nchw", there.shape)


def test_unknown_ops_and_layouts_are_named():
    with pytest.raises(ValueError, match=r"op must be one of layer_norm, .*got 'softmax'"):
        bench.Case("softmax", "float32", "rows", (2, 3))
    with pytest.raises(ValueError, match=r"layout of layer_norm must be one of rows, got 'nchw'"):
        bench.Case("layer_norm", "float32", "nchw", (2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"dtype must be one of float32, .*got 'int8'"):
        bench.Case("layer_norm", "int8", "rows", (2, 3))
    with pytest.raises(ValueError, match=r"shape must end in a block of 16 channels, got 2x1x4x4x8"):
        bench.Case("group_norm", "float32", "nchw16c", (2, 1, 4, 4, 8))
    with pytest.raises(ValueError, match=r"channels must be a multiple of 16, got 2x24x4x4"):
        bench.Case("to_blocked", "float32", "nchw", (2, 24, 4, 4))


def test_inputs_are_reproducible():
    a, b = bench.make_arrays(CASE), bench.make_arrays(CASE)
    np.testing.assert_array_equal(a.x, b.x)
    assert a.x.dtype == a.weight.dtype == np.float32
    assert a.x.shape == (4, 16)
    assert a.weight.shape == a.running_var.shape == (16,)


# Contenders

SHAPES = {
    "rows": (6, 24),
    "nc": (12, 70),
    "nchw": (3, 64, 4, 5),
    "nhwc": (3, 4, 5, 64),
    "nchw16c": (3, 4, 4, 5, 16),
}

#: Why an implementation may be missing: what the reasons end in.
ALLOWED = (
    "not installed",
    "is not available here",
    "is for inference only",
    "channels first only",
    "has no blocked layout",
    "has no 16-bit floats on CPUs",
    "takes no bfloat16 from NumPy",
    "takes all CPUs of the process",
    "it is one step",
    "a move always makes a new array",
    "has no to_blocked",
    "has no from_blocked",
)

#: ONNX Runtime's gaps in float64; its GroupNormalization takes float64 and computes in float32.
FLOAT64_GAPS = ("of float64 on CPUs", "allowed 1e-09")

ERRORS = {"float32": 2e-6, "float64": 1e-12, "float16": 5e-3, "bfloat16": 4e-2}


@pytest.mark.filterwarnings("ignore")  # what rivals warn of when they are imported
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize(("op", "layout"), [(op, layout) for op in bench.OPS for layout in cases.LAYOUTS[op]])
def test_every_contender_computes_the_op_or_says_why_not(op, layout, dtype):
    case = bench.Case(op, dtype, layout, SHAPES[layout])
    arrays = bench.make_arrays(case)
    inputs = (arrays.x, arrays.residual, arrays.running_mean, arrays.running_var)
    before = [array.copy() for array in inputs]
    with bench.same_threads(1):
        made = bench.make_contenders(case, arrays, 1)
    assert [one.name for one in made] == list(bench.IMPLEMENTATIONS)
    for one in made:
        if isinstance(one, bench.Missing):
            gaps = FLOAT64_GAPS if dtype == "float64" and one.name in ("onnxruntime", "openvino") else ()
            assert one.reason.endswith((*ALLOWED, *gaps)), one
            assert one.name != "welnorm"
            assert one.name != "welnorm-out" or op in cases.MOVES
            assert one.name != "numpy" or layout == "nchw16c" or one.reason == "scipy is not installed"
        else:
            assert one.error < ERRORS[dtype], one.name
    for array, copy in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("op", [*cases.ADDS, *cases.ACTIVATIONS])
def test_one_pass_is_measured_beside_two(op):
    layout = cases.LAYOUTS[op][0]
    case = bench.Case(op, "float32", layout, SHAPES[layout])
    arrays = bench.make_arrays(case)
    one, two = bench.make_contenders(case, arrays, 1, ["welnorm-out", "welnorm-two-steps"])
    for array, same in zip(one.call(), two.call(), strict=True):
        if case.activation == "gelu":
            np.testing.assert_allclose(array, same, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(array, same)


def test_the_limit_of_an_addition_moves_four_streams():
    case = bench.Case("add_layer_norm", "float32", "rows", (4, 16))
    arrays = bench.make_arrays(case)
    assert 2 * arrays.to_copy(case).nbytes == case.bytes_moved
    np.testing.assert_array_equal(arrays.to_copy(case), [arrays.x, arrays.residual])
    assert bench.make_arrays(CASE).to_copy(CASE).shape == CASE.shape


def test_the_limit_of_one_row_moves_its_parameters_too():
    case = bench.Case("layer_norm", "float32", "rows", (1, 64))
    arrays = bench.make_arrays(case)
    moved = (arrays.x, arrays.weight, arrays.bias, arrays.x)
    assert 2 * arrays.to_copy(case).nbytes == case.bytes_moved == sum(array.nbytes for array in moved)


def test_bfloat16_without_ml_dtypes_is_missing_with_its_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    case = bench.Case("layer_norm", "bfloat16", "rows", (4, 16))
    made = bench.prepare(case, 1, ["welnorm", "P.copy"])
    reason = "ml_dtypes is not installed"
    assert made == [bench.Missing("welnorm", reason), bench.Missing("P.copy", reason)]
    plan = timing.Plan(0.0, 1, 1, 0.0, 0.0, 0.0)
    result = bench.run_case(case, plan, threads=1, names=["welnorm"])
    assert f"welnorm: {reason} (layer_norm)" in bench.format_report(bench.Report({}, (result,)))


SUITES = Path(__file__).parent.parent / "bench"


@pytest.fixture
def targets(monkeypatch):
    """What `targets.py` defines; it imports what is beside it."""
    monkeypatch.syspath_prepend(str(SUITES))
    return runpy.run_path(str(SUITES / "targets.py"))


def test_suites_and_targets_name_cases_that_exist(targets):
    files = sorted(SUITES.glob("bench_*.py"))
    names = [name for file in files for name in runpy.run_path(str(file))["CASES"]]
    assert len(set(targets["TARGETS"])) == len(targets["TARGETS"])
    for target in targets["TARGETS"]:
        names += target.group
        for _, name in target.contenders:
            assert name.partition("@")[0] in (*bench.IMPLEMENTATIONS, *bench.LIMITS)
    parsed = [bench.Case.parse(name) for name in names]
    assert {case.op for case in parsed} == set(bench.OPS)
    assert max(math.prod(case.shape) for case in parsed) <= 2**27  # 512 MB an array


def test_the_limit_of_a_target_is_a_copy_that_reads_as_we_do(targets):
    copies, reads = bench.LIMITS, bench.LIMITS_OF_TWO_SWEEPS
    for case, names in (
        ("layer_norm/float32/rows/512x768", copies),
        ("layer_norm/float16/rows/2x300000", reads),
        ("layer_norm/float32/rows/1x4000000", copies),  # else weight and bias were read twice, too
        ("group_norm/float32/nchw/8x256x32x32", copies),
        ("group_norm/float32/nhwc/8x32x32x256", reads),
        ("batch_norm_inference/float32/nc/32768x1024", copies),
        ("to_blocked/float32/nchw/8x256x32x32", copies),
    ):
        assert targets["limits_of"](case) == tuple((case, name) for name in names)

    row, other = "layer_norm/float32/rows/512x768", "rms_norm/float32/rows/512x768"
    best = {(row, "P.copy"): 2.0, (row, "P.copy_nt"): 3.0, (row, "torch"): 8.0, (other, "welnorm"): 10.0}
    best |= {(row, "P.copy@1"): 7.0, (row, "P.copy_nt@1"): 5.0, (row, "welnorm-out@1"): 9.0}
    ratio = targets["Ratio"]
    assert ratio(row, "welnorm", "torch", 2.0).figure_at_limit(best) == 4.0
    assert ratio(row, "welnorm", "welnorm", 2.0, rival_case=other).figure_at_limit(best) == 5.0
    assert ratio(row, "welnorm-out", "welnorm-out@1", 2.0).figure_at_limit(best) == 2.5
    assert ratio(row, "welnorm", "jax", 2.0).figure_at_limit(best) is None
    assert ratio(other, "welnorm", "welnorm", 2.0).figure_at_limit(best) is None


def test_what_a_norm_takes_alone_is_a_limit_beside_the_copies(targets, tmp_path):
    for name, lines in (
        ("arithmetic", "any sums apply both\nfloat32 9 9 2.0\nfloat32,folded 9 9 1.0\nfloat16 9 9 4.0"),
        ("traffic", "width parameters KiB copy one copy/best\n$1 $2 $3 1.0 2.0 0.50x"),
    ):
        program = tmp_path / f"{name}_any"
        program.write_text(f'#!/bin/sh\nprintf "{lines}\n"\n')
        program.chmod(0o755)
    limit = targets["Alone"](tmp_path, "any", threads=2)
    assert not limit.missing
    assert targets["Alone"](tmp_path, "other", threads=2).missing

    def least(case, copies):
        return limit.least(bench.Case.parse(case), copies)

    copies = {"P.copy": 1.0, "P.copy_nt": 2.0}
    assert least("rms_norm/float32/rows/512x4096", copies) == 2.0  # twice as long as the copy
    assert least("rms_norm/float32/rows/512x4096", {"P.copy": 1.0, "P.copy_nt": 0.9}) == 0.9
    assert least("group_norm/float32/nhwc/8x32x32x256", {"P.read_copy": 1.0}) == 1.0
    for case in ("batch_norm_inference/float32/nc/512x512", "add_rms_norm/float32/rows/512x768"):
        assert least(case, copies) == 1.0
    for shape in ("1x768", "15x768", "64x40", "4096x768"):  # too few rows, odd ones, too many
        assert least(f"layer_norm/float32/rows/{shape}", copies) == 1.0
    assert least("layer_norm/float32/rows/16x16", copies) == 2.0
    none = dict.fromkeys(copies, 0.0)
    unit = 512 * 768 / 16 * 1e-9 / limit.threads
    assert least("layer_norm/float32/rows/512x768", none) == pytest.approx(2.0 * unit)
    assert least("layer_norm/float16/rows/512x768", none) == pytest.approx(4.0 * unit)
    assert least("batch_norm_training/float32/nc/512x768", none) == pytest.approx(unit)
    assert (
        least("rms_norm/float32/rows/512x768", none) == least("layer_norm/float64/rows/512x768", none) == 0.0
    )


def test_a_limit_on_other_threads_reads_their_share(targets, monkeypatch):
    reads = []

    def native(dst, src, nontemporal, read_first):
        reads.append((wn.get_num_threads(), read_first))

    monkeypatch.setattr(bench, "native_copy", lambda: native)
    case = "layer_norm/float32/rows/1x300000"
    made = targets["prepare"](case, ["P.read_copy", "welnorm-out@1", "P.read_copy@1"], 2)
    assert list(made) == [(case, name) for name in ("P.read_copy", "welnorm-out@1", "P.read_copy@1")]
    for name in ("P.read_copy", "P.read_copy@1"):
        with wn.num_threads(2), made[case, name].context():
            made[case, name].call()
    assert reads == [(2, 600_000), (1, 1_200_000)]


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
    assert header.split()[-2:] == ["torch", "rt"]
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
    with pytest.raises(bench.WrongResultError, match="2 results, expected 1"):
        checked.error(right, right)


@pytest.mark.parametrize("layout", ["nc", "nchw", "nhwc", "nchw16c"])
def test_reference_checks_a_part_of_any_layout(layout, monkeypatch):
    monkeypatch.setattr(reference, "_CHECKED_ELEMENTS", 300)
    case = bench.Case("batch_norm_training", "float32", layout, SHAPES[layout])
    arrays = bench.make_arrays(case)
    checked = reference.Reference(case, arrays)
    right = wn.batch_norm(arrays.x, None, None, arrays.weight, arrays.bias, training=True, axis=case.axis)
    assert checked.error(right) < 1e-5
    wrong = right.copy()
    wrong.reshape(-1)[-1] += 1  # the last channel is always among those checked
    with pytest.raises(bench.WrongResultError, match="largest absolute error 1"):
        checked.error(wrong)


# Limits


@pytest.mark.parametrize(("shape", "threads"), [((3, 5), 2), ((600, 1000), 2), ((600, 1000), 1)])
def test_limits_without_the_extension_say_so(shape, threads):
    x = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    plain, *others = bench.make_limits(x, threads, None, 5)
    plain.call()
    assert plain.name == "P.copy"
    assert "np.copyto" in plain.note
    names = ("P.copy_nt", "P.read_copy", "P.read_copy_nt")
    assert others == [bench.Missing(name, "needs welnorm's extension") for name in names]


def test_numpy_copy_copies_everything():
    x = np.arange(300_001, dtype=np.float64)
    out = np.zeros_like(x)
    limits._numpy_copy(out, x, 3)()
    np.testing.assert_array_equal(out, x)


def test_limits_with_the_extension_use_both_kinds_of_stores():
    calls = []
    x = np.ones((2, 3))

    def native(dst, src, nontemporal, read_first):
        calls.append((src is x, nontemporal, read_first))

    made = bench.make_limits(x, 1, native)
    for one in made:
        one.call()
    assert [one.name for one in made] == list(bench.LIMITS)
    assert calls == [(True, False, 0), (True, True, 0)]
    calls.clear()
    for one in bench.make_limits(x, 1, native, read_first=9):
        one.call()
    assert calls == [(True, False, 0), (True, True, 0), (True, False, 128), (True, True, 128)]


def test_rivals_are_compared_with_like_and_with_the_fastest_copy(targets):
    runs = [
        {"welnorm": 2.0, "welnorm-out": 1.0, "torch": 6.0, "numba": 4.0, "P.copy": 0.5, "P.copy_nt": 0.25},
        {"welnorm": 2.0, "welnorm-out": 1.0, "torch": 10.0, "P.copy": 0.5, "P.copy_nt": 1.0},
    ]
    assert targets["rival_ratios"](runs) == {"torch": 4.0, "numba": 4.0}
    fastest = partial(targets["least_time"], "layer_norm/float32/rows/512x768", alone=None)
    assert targets["rival_ratios"](runs, lambda run, _: fastest(run)) == {"torch": 22.0, "numba": 16.0}
    assert targets["geometric_mean"]([2.0, 8.0]) == "4.00x"


@pytest.mark.parametrize(
    ("case", "span"),
    [
        ("rms_norm/float32/rows/6x100", 100),
        ("batch_norm_training/float32/nc/6x100", 600),
        ("batch_norm_training/float32/nchw/2x64x3x5", 2 * 15),
        ("batch_norm_training/float32/nhwc/2x3x5x64", 2 * 15 * 64),
        ("batch_norm_training/float32/nchw16c/2x4x3x5x16", 2 * 15 * 16),
        ("instance_norm/float32/nchw/2x64x3x5", 15),
        ("group_norm/float32/nchw/2x64x3x5", 15 * 2),
        ("group_norm/float32/nhwc/2x3x5x64", 15 * 64),
        ("group_norm/float32/nchw16c/2x4x3x5x16", 15 * 16),
    ],
)
def test_what_is_read_before_the_first_result_can_be_written(case, span):
    case = bench.Case.parse(case)
    assert case.statistic_span == span
    assert case.statistic_share(1) == span
    assert case.statistic_share(2) == min(span, math.prod(case.shape) // 2)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("nontemporal", [False, True])
def test_a_copy_that_reads_first_copies_everything(threads, nontemporal):
    native = limits.native_copy()
    x = np.arange(300_001, dtype=np.float32)
    out = np.zeros_like(x)
    with wn.num_threads(threads):
        native(out, x, nontemporal, 64 * 1000)
    np.testing.assert_array_equal(out, x)
    with pytest.raises(ValueError, match="read_first must be a multiple of 64"):
        native(out, x, nontemporal, 100)
    made = bench.prepare(CASE, 1, ["P.read_copy"])
    assert [one.name for one in made] == ["P.read_copy"]
