"""The fast lane: an ordinary call goes from the function to the kernel in one step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from ._isa import extension
from ._problem import ACTIVATIONS, Array

Function = TypeVar("Function", bound=Callable[..., Any])


def fast_layer_norm(general: Function) -> Function:
    """Make layer_norm a C function that tries the fast lane, and then the general one."""
    return _wrap(extension.fast_layer_norm, general) if extension is not None else general


def fast_rms_norm(general: Function) -> Function:
    """The same for rms_norm."""
    return _wrap(extension.fast_rms_norm, general) if extension is not None else general


def _wrap(fast: Callable[[Any], Any], general: Any) -> Any:
    return functools.wraps(general)(fast(general))


def _closed(*_: object) -> Any:
    return None


# These give None for a call that is not ordinary, and where there is no extension.
add_norm_rows: Callable[..., tuple[Array, Array] | None] = _closed
norm_channels: Callable[..., Array | None] = _closed
if extension is not None:
    add_norm_rows, norm_channels = extension.add_norm_rows, extension.norm_channels
    extension.set_activations(ACTIVATIONS)
