"""What a norm's arithmetic, and its loads and stores, take by themselves: limits beside the copies.

They come from the programs `arithmetic_*` and `traffic_*` in a build folder of CMake, which run by themselves
and on one thread: what they say is as exact as the machine is steady.
"""

from __future__ import annotations

import functools
import math
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from welnorm.bench import Case
from welnorm.bench.cases import ADDS, RMS_NORMS

#: What `traffic_*` has memory for, and how many rows it takes at a time.
MOST_BYTES, ROWS = 1 << 22, 8


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

    @property
    def missing(self) -> list[Path]:
        """The programs that are not there."""
        return [path for path in map(self._program, ("arithmetic", "traffic")) if not path.is_file()]

    def _program(self, name: str) -> Path:
        return self.build / f"{name}_{self.isa}"

    @staticmethod
    def measure_again() -> None:
        """Forget what was measured."""
        _output.cache_clear()

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

        That is known of statistics that lie together, in float32: of rows, and channels first; and of what
        the program has memory for. A thread's share of more goes at the speed of what all threads share.
        """
        width = case.statistic_span
        rows = math.prod(case.shape) // width // self.threads // ROWS * ROWS
        is_known = case.has_statistics and case.dtype == "float32" and case.op not in ADDS
        is_known &= case.layout in ("rows", "nchw") and width % 16 == 0
        if not is_known or not 0 < rows * width * 4 <= MOST_BYTES:
            return 1.0
        parameters = 0 if case.layout != "rows" else 1 if case.op in RMS_NORMS else 2
        ((*_, ratio),) = _output(self._program("traffic"), width, parameters, rows)
        return 1.0 / float(ratio.rstrip("x"))

    def least(self, case: Case, copies: Mapping[str, float]) -> float:
        """Return the seconds of what takes longest, given those of the copies that could be in its place.

        Loads and stores count where ordinary stores are the faster ones: the program has no others.
        """
        fastest = min(copies, key=copies.__getitem__)
        factor = self.traffic(case) if fastest == "P.copy" else 1.0
        return max(copies[fastest] * max(factor, 1.0), self.arithmetic(case))
