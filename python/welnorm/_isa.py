"""The compiled extension, if there is one, and which of its instruction sets is in use."""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType

extension: ModuleType | None = None
if importlib.util.find_spec("welnorm._c") is not None:
    extension = importlib.import_module("welnorm._c")

NAMES = ("portable", "avx2", "avx512", "neon")

#: Why the instruction set in use is the one in use.
reason = "the best this CPU can run"


def available_isas() -> tuple[str, ...]:
    """Instruction sets that the compiled kernels can use on this CPU, best first.

    Returns
    -------
    tuple of str
        Some of ``"avx512"``, ``"avx2"``, ``"neon"`` and ``"portable"``; empty where there is no compiled
        extension. `WELNORM_ISA` in the environment forces one.

    Examples
    --------
    >>> import welnorm as wn
    >>> set(wn.available_isas()) <= {"portable", "avx2", "avx512", "neon"}
    True
    """
    return () if extension is None else tuple(extension.usable_isas())


def _initialise() -> None:
    global reason
    wanted = os.environ.get("WELNORM_ISA", "")
    if not wanted:
        return
    source = f"the environment variable WELNORM_ISA is {wanted!r}"
    if wanted not in NAMES:
        raise ValueError(f"{source}, but must be one of {', '.join(NAMES)}")
    if extension is None:
        raise ValueError(f"{source}, but there are no compiled kernels here for it to choose")
    if not extension.select_isa(wanted):
        usable = ", ".join(extension.usable_isas())
        built = wanted in extension.built_isas()
        problem = "this CPU cannot run it" if built else "this build does not have it"
        raise ValueError(f"{source}, but {problem}; usable here: {usable}")
    reason = "the environment variable WELNORM_ISA"


_initialise()
