from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

def set_fast_lane(is_open: bool) -> None: ...
def set_bfloat16(typenum: int) -> None: ...
def empty(like: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]: ...
def set_activations(names: tuple[str | None, ...]) -> None: ...
def norm_rows(
    x: object,
    weight: object,
    bias: object,
    axis: object,
    eps: object,
    activation: object,
    out: object,
    dtype: object,
    centred: bool,
) -> NDArray[Any] | None: ...
def fast_layer_norm(general: Callable[..., Any]) -> Any: ...
def fast_rms_norm(general: Callable[..., Any]) -> Any: ...
def add_norm_rows(
    x: object,
    residual: object,
    weight: object,
    bias: object,
    axis: object,
    eps: object,
    out: object,
    sum_out: object,
    dtype: object,
    centred: bool,
) -> tuple[NDArray[Any], NDArray[Any]] | None: ...
def run(
    pattern: str,
    outer: int,
    reduced: int,
    inner: int,
    group: int,
    axes: NDArray[Any],
    x_dtype: int,
    y_dtype: int,
    x: NDArray[Any],
    out: NDArray[Any] | None,
    weight: NDArray[Any] | None,
    bias: NDArray[Any] | None,
    eps: float,
    centred: bool,
    activation: int,
    mask: NDArray[Any] | None,
    addends: tuple[NDArray[Any], NDArray[Any]] | None,
    scale: NDArray[Any] | None,
    scale_is_given: bool,
    given: tuple[NDArray[Any], NDArray[Any]] | None,
    state: tuple[NDArray[Any], ...] | None,
    exact: bool,
) -> None: ...
def move_blocked(plain: NDArray[Any], blocked: NDArray[Any], into_blocks: bool) -> None: ...
def empty_bytes(count: int) -> NDArray[Any]: ...
def copy(dst: NDArray[Any], src: NDArray[Any], nontemporal: bool = False, read_first: int = 0) -> None: ...
def usable_isas() -> tuple[str, ...]: ...
def built_isas() -> tuple[str, ...]: ...
def select_isa(name: str) -> bool: ...
def selected_isa() -> str: ...
def set_num_threads(n: int) -> None: ...
def set_thread_num_threads(n: int) -> None: ...
def max_threads() -> int: ...
def thread_limits() -> dict[str, Any]: ...
def build_info() -> dict[str, str]: ...
