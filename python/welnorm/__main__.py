"""The command line: ``welnorm bench``, ``welnorm info``, also as ``python -m welnorm``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process if not given.

    Returns
    -------
    int
        0, or 1 if the command failed. Wrong arguments end the process with status 2.
    """
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.command
    try:
        return command(arguments)
    except KeyboardInterrupt:
        print("\nwelnorm: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    import welnorm
    from welnorm.bench.cases import OPS, SUITES
    from welnorm.bench.contenders import RIVALS

    parser = argparse.ArgumentParser(prog="welnorm", description="Normalization kernels for NumPy.")
    parser.add_argument("--version", action="version", version=f"welnorm {welnorm.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="command", required=True)

    bench = commands.add_parser(
        "bench",
        help="measure this machine: speed, part of the memory's limit, ratio to rivals",
        description="Measure welnorm, its rivals and a copy of the same bytes. Takes about two minutes.",
    )
    bench.add_argument("--quick", action="store_true", help="fewer cases and rounds, about ten seconds")
    bench.add_argument("--op", action="append", choices=OPS, help="only this op; may be given again")
    bench.add_argument("--cases", choices=tuple(SUITES), help="which set of cases (default: standard)")
    bench.add_argument(
        "--against",
        metavar="NAMES",
        type=_rivals,
        default=RIVALS,
        help=f"rivals, separated by commas, or none (default: {','.join(RIVALS)})",
    )
    bench.add_argument("--threads", type=_positive, metavar="N", help="threads of every contender")
    bench.add_argument(
        "--json", type=Path, metavar="FILE", help="write all figures to FILE, as pytest-benchmark does"
    )
    bench.set_defaults(command=_bench)

    info = commands.add_parser("info", help="show backend, instruction set, threads and versions")
    info.set_defaults(command=_info)
    return parser


def _bench(arguments: argparse.Namespace) -> int:
    from welnorm import bench

    suite = arguments.cases or ("quick" if arguments.quick else "standard")
    cases = [case for case in bench.SUITES[suite] if not arguments.op or case.op in arguments.op]
    if not cases:
        return _fail(f"no case of the set {suite!r} is of op {' or '.join(arguments.op)}")
    plan = bench.QUICK if arguments.quick else bench.STANDARD
    # A file that cannot be written is found out now and not after a minute of work.
    try:
        file = arguments.json.open("w", encoding="utf-8") if arguments.json else None
    except OSError as error:
        return _fail(f"cannot write {arguments.json}: {error.strerror}")

    progress = _Progress()
    names = (*bench.OURS, *arguments.against)
    try:
        report = bench.run(cases, plan, threads=arguments.threads, names=names, progress=progress.show)
    except bench.WrongResultError as error:
        return _fail(f"welnorm computes a wrong result here, nothing was measured: {error}")
    finally:
        progress.end()
    print(bench.format_report(report))
    if file:
        with file:
            json.dump(bench.to_json(report), file, indent=1)
        print(f"\nall figures: {arguments.json}")
    return 0


def _info(arguments: argparse.Namespace) -> int:
    import welnorm
    from welnorm.bench.machine import rival_versions

    welnorm.show_config()
    print("rivals:")
    for name, version in rival_versions().items():
        print(f"  {name}: {version or 'not installed'}")
    return 0


class _Progress:
    """One line on a terminal, rewritten; lines elsewhere."""

    def __init__(self) -> None:
        self._on_terminal = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """Show what is being done now."""
        if self._on_terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line clean for what follows."""
        if self._on_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _fail(message: str) -> int:
    print(f"welnorm: error: {message}", file=sys.stderr)
    return 1


def _positive(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a positive whole number, got {text!r}")
    return number


def _rivals(text: str) -> list[str]:
    from welnorm.bench.contenders import RIVALS

    names = [] if text == "none" else text.split(",")
    unknown = [name for name in names if name not in RIVALS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no rival {', '.join(unknown)}; choose from {', '.join(RIVALS)}")
    return list(dict.fromkeys(names))


if __name__ == "__main__":
    sys.exit(main())
