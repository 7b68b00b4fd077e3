"""The report: a table that fits a terminal, and a JSON file that other tools read."""

import json

import pytest
from welnorm import bench
from welnorm.bench import machine, report, results, timing

CASE = bench.Case("layer_norm", "float32", "rows", (4, 16))


def entry(name, *seconds, **facts):
    return bench.Entry(name, timing.Timing(seconds, 3), **facts)


def example():
    # 4 x 16 float32: 512 bytes read and written.
    result = bench.Result(
        CASE,
        (
            entry("welnorm", 512e-9, 700e-9, error=1e-7),
            entry("welnorm-out", 256e-9, 600e-9, error=2e-7),
            bench.Entry("welnorm-numba", reason="the numba backend is not available here"),
            entry("torch", 5.12e-6, 6e-6, error=3e-7),
            entry("P.copy", 128e-9, 200e-9, note="by hand"),
            entry("P.copy_nt", 200e-9, 201e-9),
        ),
    )
    return bench.Report({"cpu": "some CPU", "threads": "2"}, (result,), seconds=3.0)


def test_table():
    lines = bench.format_report(example()).splitlines()
    assert lines[:6] == [
        "                                               % of    own",
        "case                 output    time  GB/s     limit  numba  torch",
        "-----------------------------------------------------------------",
        "layer_norm",
        "  float32 rows 4x16  new     512 ns  1.00  25% copy      -  10.0x",
        "                     out=    256 ns  2.00  50% copy      -  20.0x",
    ]
    assert lines[6:13] == [
        "",
        "missing      welnorm-numba: the numba backend is not available here (layer_norm)",
        "note         P.copy: by hand",
        "max error    float32: welnorm 1.0e-07, welnorm-out 2.0e-07, torch 3.0e-07",
        "",
        "cpu          some CPU",
        "threads      2",
    ]


def test_table_fits_a_terminal():
    entries = tuple(entry(name, 123e-6, error=1e-7) for name in (*bench.IMPLEMENTATIONS, *bench.LIMITS))
    made = tuple(bench.Result(case, entries) for case in bench.SUITES["standard"])
    facts = bench.machine_info(2)
    text = bench.format_report(bench.Report(facts, made))
    assert max(map(len, text.splitlines())) <= report.WIDTH
    assert list(facts) == ["cpu", "caches", "load", "threads", "welnorm", "versions", "system"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (3.12e-10, "0.31 ns"),
        (4.521e-8, "45.2 ns"),
        (999.4e-9, "999 ns"),
        (999.6e-9, "1.00 us"),
        (1.234e-3, "1.23 ms"),
        (99.96e-3, "100 ms"),
        (12.0, "12.0 s"),
    ],
)
def test_times_have_the_unit_that_suits_them(seconds, text):
    assert report.format_time(seconds) == text


@pytest.mark.parametrize(
    ("average", "text"),
    [
        (0.4, "0.4 tasks on 2 CPUs"),
        (1.6, "1.6 tasks on 2 CPUs: BUSY WITH OTHER WORK, the figures are worth little"),
    ],
)
def test_a_busy_machine_is_named(average, text):
    assert machine.load(average, 2) == text


def test_ratios():
    assert [report.format_ratio(value) for value in (2.311, 23.11, 231.1, None)] == [
        "2.31x",
        "23.1x",
        "231x",
        "-",
    ]


def test_limit_is_the_faster_copy():
    (result,) = example().results
    assert result.limit == "P.copy"
    assert result.part_of_limit("welnorm") == 0.25
    without = bench.Result(CASE, (entry("welnorm", 1.0),))
    assert without.limit is None
    assert without.part_of_limit("welnorm") is None


def test_json_has_what_pytest_benchmark_reads():
    data = json.loads(json.dumps(bench.to_json(example())))
    names = [one["fullname"] for one in data["benchmarks"]]
    assert names[0] == "layer_norm/float32/rows/4x16/welnorm"
    assert "layer_norm/float32/rows/4x16/P.copy_nt" in names
    assert data["missing"] == [
        {
            "fullname": "layer_norm/float32/rows/4x16/welnorm-numba",
            "reason": "the numba backend is not available here",
        }
    ]
    stats = data["benchmarks"][0]["stats"]
    assert (stats["min"], stats["max"], stats["rounds"], stats["iterations"]) == (512e-9, 700e-9, 2, 3)
    assert stats["median"] == pytest.approx(606e-9)
    assert data["benchmarks"][0]["extra_info"]["part_of_limit"] == 0.25
    assert results._statistics(timing.Timing((2.0,), 1))["stddev"] == 0
