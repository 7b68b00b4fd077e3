"""The extension as it is installed, and rules of the source that a search can check."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import welnorm._c

EXTENSION = Path(welnorm._c.__file__)
ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for suffix in ("*.c", "*.h", "*.pyx") for path in (ROOT / "src").rglob(suffix))


def readelf(*options):
    program = shutil.which("readelf")
    assert program, "binutils is needed, as it is for building"
    return subprocess.run([program, *options, EXTENSION], check=True, capture_output=True, text=True).stdout


def test_size():
    assert EXTENSION.stat().st_size < 1_000_000


def test_hardened():
    segments, dynamic = readelf("-lW"), readelf("-dW")
    assert "GNU_RELRO" in segments
    assert re.search(r"BIND_NOW|FLAGS_1.*NOW", dynamic)
    assert re.search(r"GNU_STACK.* RW +0x", segments)
    assert not re.search(r"RPATH|RUNPATH|TEXTREL", dynamic)


def test_exports_only_the_module():
    symbols = [line.split() for line in readelf("--dyn-syms", "-W").splitlines()]
    exported = [s[7] for s in symbols if len(s) == 8 and s[4] in ("GLOBAL", "WEAK") and s[6] != "UND"]
    assert [name for name in exported if not name.startswith(("_init", "_fini"))] == ["PyInit__c"]


def test_leaves_openmp_settings_alone():
    assert "omp_set_num_threads" not in readelf("--dyn-syms", "-W")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source_rules(path):
    text = path.read_text()
    if path.parent.name != "simd" and path.name != "cpu.c":
        assert not re.search(r"\b_mm(256|512)?_\w|\bv(ld|st)1q_|immintrin|arm_neon", text)
    for pragma in re.findall(r"#\s*pragma omp parallel.*", text):
        assert "num_threads(" in pragma
    if path.name != "threads.c":
        assert "omp_" not in text
    assert len(text.splitlines()) <= 500


def test_build_flags():
    text = (ROOT / "CMakeLists.txt").read_text()
    assert "-ffp-contract=off" in text
    assert not re.search(r"-f(fast|unsafe|associative|reciprocal|finite)-math|-Ofast|-fno-signed-zeros", text)
