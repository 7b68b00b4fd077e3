"""Backends and instruction sets: chosen by name, refused by name."""

import inspect
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import welnorm as wn
from welnorm import _backends, _c

SHOW = "import welnorm as wn; c = wn.show_config('dicts'); print(c['backend']['name'], c['isa']['name'])"


def python(code, **environment):
    """Run code in a new interpreter, with environment variables set; returns the finished process."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WELNORM_")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=clean | environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("isa", wn.available_isas())
def test_isa_by_environment(isa):
    assert python(SHOW, WELNORM_ISA=isa).stdout.split() == ["c", isa]


@pytest.mark.parametrize("name", wn.available_backends())
def test_backend_by_environment(name):
    assert python(SHOW, WELNORM_BACKEND=name).stdout.split()[0] == name


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("WELNORM_ISA", "sse9", ["sse9", "portable, avx2, avx512, neon"]),
        ("WELNORM_ISA", "AVX2", ["AVX2", "portable, avx2, avx512, neon"]),
        ("WELNORM_BACKEND", "fortran", ["fortran", "c, numba, reference"]),
        ("WELNORM_NUM_THREADS", "many", ["many", "at least 1"]),
        ("WELNORM_NUM_THREADS", "0", ["0", "at least 1"]),
        ("WELNORM_NUM_THREADS", "-3", ["-3", "at least 1"]),
    ],
)
def test_refused_by_name(variable, value, words):
    done = python("import welnorm", **{variable: value})
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("ValueError")
    for word in [variable, *words]:
        assert word in message


def test_an_isa_of_other_processors_is_refused():
    other = "neon" if "avx2" in _c.built_isas() else "avx2"
    done = python("import welnorm", WELNORM_ISA=other)
    assert done.returncode == 1
    assert f"{other!r}" in done.stderr.splitlines()[-1]
    assert "portable" in done.stderr.splitlines()[-1]


def test_garbage_in_the_environment():
    """100 values of each variable in one process: an error that names the variable, or one that is right."""
    rng = np.random.default_rng(0)
    code = """
import os, runpy, sys
import welnorm._isa, welnorm._threads, welnorm._backends
modules = {
    "WELNORM_ISA": welnorm._isa,
    "WELNORM_NUM_THREADS": welnorm._threads,
    "WELNORM_BACKEND": welnorm._backends,
}
for line in sys.stdin.read().split("\\n"):
    for variable, module in modules.items():
        os.environ[variable] = line
        try:
            module._initialise()
        except ValueError as error:
            assert variable in str(error), error
        del os.environ[variable]
print("done")
"""
    printable = [chr(c) for c in range(33, 127)] + ["é", "\u6771", " ", "\t"]
    values = ["", " ", "1e3", "1.5", "0x10", "+4", "٣", "9" * 40, "avx2,avx512", "c "]
    values += ["".join(rng.choice(printable, rng.integers(1, 30))) for _ in range(90)]
    command = [sys.executable, "-X", "utf8", "-c", code]
    done = subprocess.run(command, input="\n".join(values), capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "done", done.stderr


def test_available():
    assert wn.available_backends()[-1] == "reference"
    assert wn.available_isas()[-1] == "portable"
    assert not _c.select_isa("no such set")
    assert _c.selected_isa() in wn.available_isas()


def test_set_backend_is_for_all_threads():
    before, seen = wn.get_backend(), []
    wn.set_backend("reference")
    try:
        thread = threading.Thread(target=lambda: seen.append(wn.get_backend()))
        thread.start()
        thread.join()
    finally:
        wn.set_backend(before)
    assert seen == ["reference"]
    assert wn.get_backend() == before


def test_backend_block_is_for_this_thread():
    seen = []
    before = wn.get_backend()
    with wn.backend("reference"), wn.backend("c"):
        assert wn.get_backend() == "c"
    with wn.backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(wn.get_backend()))
        thread.start()
        thread.join()
        assert wn.get_backend() == "reference"
    assert seen == [before]
    assert wn.get_backend() == before


def test_fast_lane_is_closed_while_another_backend_is_in_use(monkeypatch):
    calls = []
    reference = _backends.module("reference")
    original = reference.normalize
    monkeypatch.setattr(reference, "normalize", lambda *args: calls.append(1) or original(*args))
    x = np.ones((2, 3), np.float32)
    wn.layer_norm(x)
    assert not calls
    with wn.backend("reference"):
        wn.layer_norm(x)
    assert len(calls) == 1
    wn.layer_norm(x)
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm"])
def test_the_fast_function_has_the_signature_of_the_general_one(name):
    function = getattr(wn, name)
    general = function.__wrapped__
    fast = getattr(_c, f"fast_{name}")(general)
    parameters, others = (inspect.signature(f).parameters.values() for f in (fast, general))
    for parameter, other in zip(parameters, others, strict=True):
        assert (parameter.name, parameter.kind) == (other.name, other.kind)
        assert parameter.default == other.default
    assert inspect.signature(function) == inspect.signature(general)
    assert function.__doc__ == general.__doc__
    assert pickle.loads(pickle.dumps(function)) is function


def test_show_config(capsys):
    assert wn.show_config() is None
    text = capsys.readouterr().out
    config = wn.show_config(mode="dicts")
    assert {"welnorm", "backend", "isa", "openmp", "threads", "extension"} <= config.keys()
    for word in (
        wn.__version__,
        config["isa"]["name"],
        config["openmp"]["runtime"],
        config["backend"]["why"],
    ):
        assert word in text
    with pytest.raises(ValueError, match="mode"):
        wn.show_config(mode="json")


def test_import_brings_numpy_and_nothing_else():
    code = """
import sys, numpy
before = set(sys.modules)
import welnorm
new = {name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(*(name for name in new if "cython" not in name))  # Cython's own two are part of the extension
"""
    assert set(python(code).stdout.split()) <= {"welnorm", "numpy"}


GARBAGE_AT_IMPORT = """
import os, random, sys, numpy
variable, valid = os.fsencode(sys.argv[1]), [os.fsencode(name) for name in sys.argv[2:]]
random.seed(0)
values = [b"", b" ", b"\\t", b"0", b"-0", b"-1", b"+1", b"1 2", b"1e3", b"1.0", b"0x1", b"1_0", b"nan"]
values += [b"9" * n for n in (10, 20, 5000)] + [b"\\xff\\xfe", "٣".encode(), "²".encode(), b"%s%n", b"$(id)"]
values += [near for name in valid for near in (name.upper(), name + b" ", name[:-1], 2 * name)]
values += valid + [b"a" * 100_000, b"avx2,portable", b"c\\nreference", b"../c", b"'", b'"', b"\\\\"]
while len(values) < 100:
    values.append(bytes(random.choices(range(1, 256), k=random.randrange(1, 40))))

for value in values:  # each in a process that has NumPy already, which is faster than one anew
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.environb[variable] = value
        try:
            import welnorm
            right = value in (b"", *valid) if valid else 1 <= welnorm.get_num_threads() <= os.cpu_count()
            os._exit(0 if right else 2)
        except ValueError as error:
            os._exit(1 if sys.argv[1] in str(error) and value not in valid else 3)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), value[:50])
"""


@pytest.mark.parametrize(
    ("variable", "valid"),
    [
        ("WELNORM_ISA", wn.available_isas()),
        ("WELNORM_BACKEND", wn.available_backends()),
        ("WELNORM_NUM_THREADS", ()),
    ],
)
def test_garbage_at_import(variable, valid):
    """100 values: what is valid is accepted, all else is a ValueError that names the variable."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WELNORM_")}
    command = [sys.executable, "-c", GARBAGE_AT_IMPORT, variable, *valid]
    done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) >= 100
    assert [line for line in lines if line[:2] not in ("0 ", "1 ")] == []
    assert {line[0] for line in lines} == {"0", "1"}


def test_fast_lane_is_closed_for_all_threads_while_one_overrides():
    x = np.ones((2, 3), np.float32)
    entered, leave = threading.Event(), threading.Event()

    def fast():
        return _c.norm_rows(x, None, None, -1, 1e-5, None, None, None, True) is not None

    def override():
        with wn.backend("numba"), wn.backend("c"):
            entered.set()
            leave.wait(60)

    assert fast()
    thread = threading.Thread(target=override)
    thread.start()
    assert entered.wait(60)
    assert not fast()
    assert wn.get_backend() == "c"
    leave.set()
    thread.join()
    assert fast()
    with pytest.raises(KeyError), wn.backend("reference"):
        raise KeyError
    assert fast()
    with pytest.raises(ValueError, match="must be one of"), wn.backend("fortran"):
        pass
    assert fast()
    wn.set_backend("reference")
    assert not fast()
    wn.set_backend("c")
    assert fast()


WITHOUT_EXTENSION = "import sys; sys.modules['welnorm._c'] = None; import welnorm as wn; "


def test_without_the_extension():
    code = WITHOUT_EXTENSION + (
        "wn.show_config(); c = wn.show_config('dicts'); print(wn.get_backend(), wn.available_isas(), "
        "wn.available_backends(), c['extension']['compiled'], c['backend']['why'], sep='|')"
    )
    words = python(code).stdout.splitlines()[-1].split("|")
    assert words[:4] == ["numba", "()", "('numba', 'reference')", "False"]
    assert "not installed" in words[4]
    done = python(WITHOUT_EXTENSION, WELNORM_BACKEND="c")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("available here: numba, reference")


@pytest.mark.parametrize("variable", ["WELNORM_NUM_THREADS", "OMP_NUM_THREADS"])
def test_thread_limits_hold_without_the_extension(variable):
    code = WITHOUT_EXTENSION + "print(wn.get_num_threads())"
    assert python(code, **{variable: "1"}).stdout.split() == ["1"]
