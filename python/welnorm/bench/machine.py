"""What a figure was measured on: a figure without this is worth nothing."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import numpy as np

import welnorm as wn

#: The distributions a rival needs.
RIVAL_DISTRIBUTIONS = ("numba", "torch", "onnxruntime", "onnx", "openvino", "jax")

#: What `show_config` knows about the extension, as (group, key).
_EXTENSION_FACTS = (("isa", "name"), ("openmp", "runtime"), ("extension", "compiler"))


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the name of the processor."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.processor() or platform.machine()


def cache_sizes(caches: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> str:
    """Return the sizes of the data caches one core sees, such as ``L1 48K, L2 1024K, L3 32768K``."""
    found = {}
    for index in sorted(caches.glob("index*")):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        if kind != "Instruction":
            found[level] = f"L{level} {size}"
    return ", ".join(found.values()) or "unknown"


def rival_versions() -> dict[str, str | None]:
    """Return the version of each rival's distribution, None for those not installed; imports nothing."""
    versions: dict[str, str | None] = {}
    for name in RIVAL_DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def usable_cpus() -> int:
    """Return how many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load(average: float, cpus: int) -> str:
    """Describe how busy the machine is, given the tasks that ran in the last minute."""
    text = f"{average:.1f} tasks on {cpus} CPUs"
    return f"{text}: BUSY WITH OTHER WORK, the figures are worth little" if average > 0.5 * cpus else text


def machine_info(threads: int) -> dict[str, str]:
    """Describe the machine and the software of a run, one fact a line."""
    rivals = (f"{name} {version or '(not installed)'}" for name, version in rival_versions().items())
    return {
        "cpu": f"{cpu_model()}, {usable_cpus()} usable",
        "caches": cache_sizes(),
        "load": load(os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, usable_cpus()),
        "threads": f"{threads} for every contender",
        "welnorm": welnorm_info(),
        "versions": ", ".join((f"Python {platform.python_version()}", f"NumPy {np.__version__}", *rivals)),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def welnorm_info() -> str:
    """Return what welnorm runs on, such as ``0.1.0, c backend, avx512, libgomp, GNU 12.2.0``."""
    config = wn.show_config(mode="dicts") or {}
    facts = [wn.__version__, f"{wn.get_backend()} backend"]
    if wn.get_backend() == "c":
        facts += [str(config[group][key]) for group, key in _EXTENSION_FACTS if key in config.get(group, {})]
    return ", ".join(facts)
