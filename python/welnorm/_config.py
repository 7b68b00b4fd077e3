"""What this installation is and does: `show_config`."""

from __future__ import annotations

import os
from typing import Any, Literal

import numpy as np

from . import _backends, _isa, _threads

__all__ = ["show_config"]


def _config() -> dict[str, dict[str, Any]]:
    from . import __version__

    extension = _isa.extension
    info: dict[str, dict[str, Any]] = {
        "welnorm": {"version": __version__, "numpy": np.__version__},
        "backend": {
            "name": _backends.get_backend(),
            "why": _backends.reason(),
            "available": list(_backends.available_backends()),
        },
        "extension": {"compiled": extension is not None},
        "threads": {"used": _threads.get_num_threads()},
    }
    if extension is None:
        info["extension"]["why"] = "no compiled kernels: none were built when welnorm was installed"
        info["threads"]["cpus"] = os.cpu_count()
        return info
    info["extension"] |= extension.build_info()
    info["isa"] = {
        "name": extension.selected_isa(),
        "why": _isa.reason,
        "usable": list(extension.usable_isas()),
        "built": list(extension.built_isas()),
    }
    held, most = extension.output_cache()
    info["memory"] = {"output cache": f"{held >> 20} of {most >> 20} MiB (WELNORM_OUTPUT_CACHE_MB)"}
    limits = extension.thread_limits()
    info["openmp"] = {"runtime": limits.pop("runtime")}
    if info["openmp"]["runtime"] == "none":
        info["openmp"]["why"] = "no OpenMP was found when welnorm was built: it is single-threaded"
    names = {
        "process": "set_num_threads() or WELNORM_NUM_THREADS",
        "thread": "num_threads() in this thread",
        "openmp": "OpenMP (OMP_NUM_THREADS, threadpoolctl, CPUs)",
        "affinity": "CPU affinity",
        "cgroup": "cgroup CPU quota",
    }
    info["threads"]["limits"] = {names[key]: limits[key] or "none" for key in names}
    info["threads"]["forked child"] = limits["forked"]
    return info


def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> dict[str, dict[str, Any]] | None:
    """Show what is in use: version, backend, instruction set, OpenMP runtime, threads, compiler, and why.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, default "stdout"
        Print it, or return it as nested dicts.

    Returns
    -------
    dict or None

    Raises
    ------
    ValueError
        If `mode` is neither.

    Examples
    --------
    >>> import welnorm as wn
    >>> wn.show_config(mode="dicts")["backend"]["name"] in ("c", "numba", "reference")
    True
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode is {mode!r}, but must be 'stdout' or 'dicts'")
    info = _config()
    if mode == "dicts":
        return info
    for section, entries in info.items():
        print(f"{section}:")
        for name, value in entries.items():
            if isinstance(value, dict):
                print(f"  {name}:")
                for key, entry in value.items():
                    print(f"    {key}: {entry}")
            else:
                print(f"  {name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return None
