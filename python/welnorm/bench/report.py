"""A run as plain text: a table no wider than a terminal, and how to read it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from .contenders import OURS
from .limits import LIMITS
from .results import Report, Result

WIDTH = 110

#: What the output column says for welnorm's two rows.
_OUTPUT = {"welnorm": "new", "welnorm-out": "out="}

#: Column heads of two lines, where the name alone would make the column wide.
_HEADS = {
    "welnorm-two-steps": ("two", "steps"),
    "welnorm-numba": ("own", "numba"),
    "onnxruntime": ("onnx", "rt"),
    "openvino": ("open", "vino"),
}

_HOW_TO_READ = (
    ("time", "of one call, the best of all rounds; contenders take turns, so that all see the same machine"),
    (
        "output",
        "new: a new array each call; out=: written into a warm array. numpy, torch, onnxruntime and jax make "
        "a new array, compare them with the row new; numba, openvino and two steps have warm ones, compare "
        "them with the row out=",
    ),
    (
        "two steps",
        "what the op does in one pass over memory, in two: np.add and welnorm's norm, or the norm and then "
        "the activation",
    ),
    ("own numba", "welnorm's Numba backend; numba is a kernel written by hand for the case"),
    (
        "GB/s",
        "bytes of the array, read once and written once (added ones, too, and layer norm's of a single row), "
        "over the time",
    ),
    (
        "% of limit",
        "the speed next to a copy of as many bytes, timed in the same rounds: the faster one of P.copy "
        "(ordinary stores) and P.copy_nt (non-temporal stores), here copy and copy_nt",
    ),
    ("max error", "largest absolute difference from float64; every result is checked before it is timed"),
    ("last columns", "how many times as long the rival takes: 2.00x means that welnorm is twice as fast"),
)


def format_time(seconds: float) -> str:
    """Return a time with three digits and the unit that suits it."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * factor >= 0.9995:
            return f"{_digits(seconds * factor)} {unit}"
    return f"{_digits(seconds * 1e9)} ns"


def format_ratio(value: float | None) -> str:
    """Return a ratio as ``2.31x``, a dash if there is none."""
    return "-" if value is None else f"{_digits(value)}x"


def format_report(report: Report) -> str:
    """Return the table of a run, its notes, the machine, and how to read it."""
    rivals = _rivals(report.results)
    lines = _table(report.results, rivals)
    measured = f"{report.started:%Y-%m-%d %H:%M} UTC, in {report.seconds:.0f} s"
    for facts in (_notes(report.results), [*report.machine.items(), ("measured", measured)], _HOW_TO_READ):
        lines += ["", *_lines(facts)]
    return "\n".join(lines)


def _digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def _rivals(results: Iterable[Result]) -> list[str]:
    """Return every rival of any case, in order. A missing one keeps its column and has dashes in it."""
    names = (entry.name for result in results for entry in result.entries)
    return [name for name in dict.fromkeys(names) if name not in OURS and name not in LIMITS]


def _table(results: Sequence[Result], rivals: Sequence[str]) -> list[str]:
    heads = [_HEADS.get(name, ("", name)) for name in rivals]
    top = ["", "", "", "", "% of", *(head[0] for head in heads)]
    bottom = ["case", "output", "time", "GB/s", "limit", *(head[1] for head in heads)]
    body: list[list[str]] = []
    for op, group in groupby(results, key=lambda result: result.case.op):
        body.append([op])
        for result in group:
            body += _rows(result, rivals)
    cells = [row for row in (top, bottom, *body) if len(row) > 1]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    full = sum(widths) + 2 * (len(widths) - 1)
    gap = "  " if full <= WIDTH else " "
    lines = [_line(row, widths, gap) for row in (top, bottom, *body)]
    return [*lines[:2], "-" * max(map(len, lines)), *lines[2:]]


def _rows(result: Result, rivals: Iterable[str]) -> list[list[str]]:
    rows = []
    case = f"  {result.case.dtype} {result.case.layout} {result.case.shape_text}"
    for name in OURS:
        timing = result.timing(name)
        if timing is None:
            continue
        rate, part = result.gigabytes_per_second(name), result.part_of_limit(name)
        limit = "-" if part is None else f"{part:.0%} {(result.limit or '').removeprefix('P.')}"
        ratios = (format_ratio(result.ratio(rival, name)) for rival in rivals)
        rows.append([case, _OUTPUT[name], format_time(timing.best), _digits(rate or 0.0), limit, *ratios])
        case = ""
    return rows


def _line(row: Sequence[str], widths: Sequence[int], gap: str) -> str:
    """Set one row: the first two columns are words, the others are figures and end at the same place."""
    cells = [
        cell.ljust(width) if column < 2 else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=False))
    ]
    return gap.join(cells).rstrip()


def _notes(results: Iterable[Result]) -> Iterator[tuple[str, str]]:
    """Name what is missing and why, and the errors that were found before timing."""
    missing: dict[str, list[str]] = {}
    notes: dict[str, None] = {}
    errors: dict[str, dict[str, float]] = {}
    for result in results:
        for entry in result.entries:
            if entry.timing is None:
                missing.setdefault(f"{entry.name}: {entry.reason}", []).append(result.case.op)
            if entry.note:
                notes[f"{entry.name}: {entry.note}"] = None
            if entry.error is not None:
                of_dtype = errors.setdefault(result.case.dtype, {})
                of_dtype[entry.name] = max(entry.error, of_dtype.get(entry.name, 0.0))
    for reason, ops in missing.items():
        yield "missing", f"{reason} ({', '.join(dict.fromkeys(ops))})"
    for note in notes:
        yield "note", note
    for dtype, of_dtype in errors.items():
        yield "max error", f"{dtype}: " + ", ".join(f"{name} {error:.1e}" for name, error in of_dtype.items())


def _lines(facts: Iterable[tuple[str, str]]) -> list[str]:
    """Set what is said below the table: a word, and its text indented."""
    indent = " " * 13
    return [
        line
        for key, text in facts
        for line in textwrap.wrap(f"{key:<13}{text}", WIDTH, subsequent_indent=indent, break_long_words=False)
    ]
