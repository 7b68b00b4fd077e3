"""What a norm's arithmetic, and its loads and stores, take alone: limits beside the copies.

They come from the programs `arithmetic_*` and `traffic_*` of a source checkout, in a build folder of CMake.
"""

from __future__ import annotations

import functools
import math
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .cases import ADDS, RMS_NORMS, Case

#: What `traffic_*` has memory for, and the rows that it takes at least.
MOST_BYTES, LEAST_ROWS = 1 << 22, 8


@functools.cache
def _output(program: Path, *arguments: int) -> tuple[tuple[str, ...], ...]:
    """Run it, and return the words of each line but the first."""
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return tuple(tuple(line.split()) for line in done.stdout.splitlines()[1:])


@dataclass(frozen=True)
class Alone:
    """The programs in `build`, of an instruction set, for calls on so many threads."""

    build: Path
    isa: str
    threads: int

    def _program(self, name: str) -> Path:
        return self.build / f"{name}_{self.isa}"

    def arithmetic(self, case: Case) -> float:
        """Return the seconds that its sums in float64 and its apply step take from L1; 0 if none is timed.

        Columns and channels have their weight and bias folded into the norm. RMS norm's sums are of float32.
        """
        if not case.has_statistics or case.op in RMS_NORMS:
            return 0.0
        kind = case.dtype if case.layout == "rows" else f"{case.dtype},folded"
        rows = {row[0]: float(row[-1]) for row in _output(self._program("arithmetic"))}
        return rows.get(kind, 0.0) * 1e-9 * math.prod(case.shape) / 16 / self.threads

    def traffic(self, case: Case) -> float:
        """Return how many times as long as a copy its loads and stores take, in the best order of eight.

        That is known of statistics that lie together, in float32: of rows, and channels first.
        """
        width, rows = case.statistic_span, math.prod(case.shape) // case.statistic_span // self.threads
        is_known = case.has_statistics and case.dtype == "float32" and case.op not in ADDS
        is_known &= case.layout in ("rows", "nchw") and width % 16 == 0
        if not is_known or rows < LEAST_ROWS or width * 4 * LEAST_ROWS > MOST_BYTES:
            return 1.0
        parameters = 0 if case.layout != "rows" else 1 if case.op in RMS_NORMS else 2
        share = min(rows * width * 4, MOST_BYTES) >> 10
        ((*_, ratio),) = _output(self._program("traffic"), width, parameters, share)
        return 1.0 / float(ratio.rstrip("x"))

    def least(self, case: Case, copies: Mapping[str, float]) -> float:
        """Return the seconds below which it cannot be, given those of the copies that could be in its place.

        Loads and stores count where ordinary stores are the faster ones: the program has no others.
        """
        fastest = min(copies, key=copies.__getitem__)
        factor = self.traffic(case) if fastest.startswith("P.copy") and "_nt" not in fastest else 1.0
        return max(copies[fastest] * max(factor, 1.0), self.arithmetic(case))
