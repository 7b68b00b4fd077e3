"""The command line: works from any folder, and says clearly what is wrong."""

import json
import subprocess
import sys

import pytest
import welnorm as wn
from welnorm import bench
from welnorm.__main__ import main
from welnorm.bench import contenders, timing

CASE = bench.Case("layer_norm", "float32", "rows", (4, 16))


def run(*arguments, cwd):
    command = [sys.executable, "-m", "welnorm", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def test_info(tmp_path):
    done = run("info", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert wn.__version__ in done.stdout
    assert "rivals:" in done.stdout


def test_bench_from_any_folder(tmp_path):
    arguments = (
        "--quick",
        "--cases",
        "tiny",
        "--against",
        "numpy",
        "--threads",
        "1",
        "--json",
        "figures.json",
    )
    done = run("bench", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in ("layer_norm", "float32 rows 4x16", "batch_norm_training", "P.copy", "numpy", "1 for every"):
        assert text in done.stdout
    assert done.stderr.splitlines()[0] == "[1/5] layer_norm/float32/rows/4x16"
    figures = json.loads((tmp_path / "figures.json").read_text())
    measured = {one["extra_info"]["implementation"] for one in figures["benchmarks"]}
    assert {"welnorm", "welnorm-out", "numpy", "P.copy"} <= measured


def test_more_threads_than_can_be_used_are_not_given_to_anyone():
    plan = timing.Plan(0.0, 1, 1, 0.0, 0.0, 0.0)
    made = bench.run([CASE], plan, threads=1_000_000, names=["welnorm"])
    assert made.machine["threads"].endswith("for every contender; welnorm cannot use 1000000 here")


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"welnorm {wn.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "--op", "softmax"], "invalid choice: 'softmax'"),
        (["bench", "--threads", "0"], "must be a positive whole number, got '0'"),
        (
            ["bench", "--against", "numpy,magic"],
            "no rival magic; choose from welnorm-two-steps, welnorm-numba, numba",
        ),
        (["paint"], "invalid choice: 'paint'"),
        ([], "required"),
    ],
)
def test_wrong_arguments_exit_with_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_found_before_measuring(tmp_path, capsys):
    assert main(["bench", "--json", str(tmp_path / "no" / "file.json")]) == 1
    captured = capsys.readouterr()
    assert "cannot write" in captured.err
    assert "[1/" not in captured.err


def test_a_wrong_result_ends_the_command(monkeypatch, capsys):
    def wrong(task):
        return bench.Contender("", lambda: task.arrays.x)

    monkeypatch.setitem(contenders._BUILDERS, ("welnorm", "layer_norm"), wrong)
    assert main(["bench", "--cases", "tiny", "--against", "none"]) == 1
    assert "wrong result" in capsys.readouterr().err


def test_import_welnorm_loads_neither_the_tools_nor_rivals(tmp_path):
    code = (
        "import sys, welnorm\n"
        "heavy = {'welnorm.bench', 'welnorm.__main__', 'numba', 'torch', 'onnxruntime', 'argparse'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
