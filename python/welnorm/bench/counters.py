"""Instructions and cycles of a call, where the system counts them: Linux' perf_event_open."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Callable, Mapping
from types import MappingProxyType

#: Type and number of an event in linux/perf_event.h.
HARDWARE: Mapping[str, tuple[int, int]] = MappingProxyType({"instructions": (0, 1), "cycles": (0, 0)})

_SYSCALL = {"x86_64": 298, "aarch64": 241}
_ATTRIBUTES = struct.Struct("=IIQQQQQ72x")  # type, size, config, period, sample type, read format, flags
_DISABLED, _USER_ONLY = 1, 3 << 5
_ENABLE, _DISABLE, _RESET = 0x2400, 0x2401, 0x2403


def count(
    call: Callable[[], object], events: Mapping[str, tuple[int, int]] = HARDWARE
) -> dict[str, int] | None:
    """Return what a call counts in the calling thread, outside the kernel; None where nothing is counted."""
    import fcntl

    opened = {name: _open(*event) for name, event in events.items()}
    files = {name: file for name, file in opened.items() if file is not None}
    try:
        if len(files) < len(events):
            return None
        for file in files.values():
            fcntl.ioctl(file, _RESET, 0)
            fcntl.ioctl(file, _ENABLE, 0)
        call()
        for file in files.values():
            fcntl.ioctl(file, _DISABLE, 0)
        return {name: int.from_bytes(os.read(file, 8), "little") for name, file in files.items()}
    finally:
        for file in files.values():
            os.close(file)


def _open(kind: int, number: int) -> int | None:
    """Open a counter of this thread, or say by None that the system has none."""
    syscall = _SYSCALL.get(platform.machine())
    if platform.system() != "Linux" or syscall is None:
        return None
    attributes = _ATTRIBUTES.pack(kind, _ATTRIBUTES.size, number, 0, 0, 0, _DISABLED | _USER_ONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    file: int = libc.syscall(syscall, attributes, 0, -1, -1, 0)
    return file if file >= 0 else None
