"""Hand-written Numba kernels of the kind a careful user would write: parallel, fastmath, output given.

Each makes the statistics in two passes and then normalises, while the data is still in the cache of one core.
Small arrays take the same kernels without threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import numba
import numpy as np
from numba import prange

Kernel = Callable[..., None]

#: From this many elements on, waking the threads pays.
WORTH_THREADS = 1 << 15

#: Columns one task of a column kernel owns: some cache lines of each row.
_BLOCK = 64


def _layer_norm_rows(x: Any, weight: Any, bias: Any, eps: float, out: Any) -> None:
    """x, out: (rows, n); weight, bias: (n,)."""
    rows, n = x.shape
    real = x.dtype.type
    for i in prange(rows):
        total = real(0)
        for j in range(n):
            total += x[i, j]
        mean = real(total / n)
        m2 = real(0)
        for j in range(n):
            d = x[i, j] - mean
            m2 += d * d
        rstd = real(1 / np.sqrt(m2 / n + eps))
        for j in range(n):
            out[i, j] = (x[i, j] - mean) * rstd * weight[j] + bias[j]


def _layer_norm_gelu_rows(x: Any, weight: Any, bias: Any, eps: float, out: Any) -> None:
    """x, out: (rows, n); weight, bias: (n,)."""
    rows, n = x.shape
    real = x.dtype.type
    half, one, root = real(0.5), real(1), real(math.sqrt(0.5))
    for i in prange(rows):
        total = real(0)
        for j in range(n):
            total += x[i, j]
        mean = real(total / n)
        m2 = real(0)
        for j in range(n):
            d = x[i, j] - mean
            m2 += d * d
        rstd = real(1 / np.sqrt(m2 / n + eps))
        for j in range(n):
            y = (x[i, j] - mean) * rstd * weight[j] + bias[j]
            out[i, j] = y * half * (one + math.erf(y * root))


def _add_layer_norm_rows(
    x: Any, residual: Any, weight: Any, bias: Any, eps: float, out: Any, total_out: Any
) -> None:
    """x, residual, out, total_out: (rows, n); weight, bias: (n,)."""
    rows, n = x.shape
    real = x.dtype.type
    for i in prange(rows):
        total = real(0)
        for j in range(n):
            h = x[i, j] + residual[i, j]
            total_out[i, j] = h
            total += h
        mean = real(total / n)
        m2 = real(0)
        for j in range(n):
            d = total_out[i, j] - mean
            m2 += d * d
        rstd = real(1 / np.sqrt(m2 / n + eps))
        for j in range(n):
            out[i, j] = (total_out[i, j] - mean) * rstd * weight[j] + bias[j]


def _rms_norm_rows(x: Any, weight: Any, eps: float, out: Any) -> None:
    """x, out: (rows, n); weight: (n,)."""
    rows, n = x.shape
    real = x.dtype.type
    for i in prange(rows):
        squares = real(0)
        for j in range(n):
            squares += x[i, j] * x[i, j]
        scale = real(1 / np.sqrt(squares / n + eps))
        for j in range(n):
            out[i, j] = x[i, j] * scale * weight[j]


def _add_rms_norm_rows(x: Any, residual: Any, weight: Any, eps: float, out: Any, total_out: Any) -> None:
    """x, residual, out, total_out: (rows, n); weight: (n,)."""
    rows, n = x.shape
    real = x.dtype.type
    for i in prange(rows):
        squares = real(0)
        for j in range(n):
            h = x[i, j] + residual[i, j]
            total_out[i, j] = h
            squares += h * h
        scale = real(1 / np.sqrt(squares / n + eps))
        for j in range(n):
            out[i, j] = total_out[i, j] * scale * weight[j]


def _group_norm_runs(x: Any, weight: Any, bias: Any, groups: int, eps: float, out: Any) -> None:
    """x, out: (N, C, S); weight, bias: (C,). Instance norm has as many groups as channels."""
    batch, channels, n = x.shape
    width = channels // groups
    count = width * n
    real = x.dtype.type
    for task in prange(batch * groups):
        i = task // groups
        first = task % groups * width
        total = real(0)
        for c in range(first, first + width):
            for j in range(n):
                total += x[i, c, j]
        mean = real(total / count)
        m2 = real(0)
        for c in range(first, first + width):
            for j in range(n):
                d = x[i, c, j] - mean
                m2 += d * d
        rstd = real(1 / np.sqrt(m2 / count + eps))
        for c in range(first, first + width):
            scale = real(rstd * weight[c])
            shift = real(bias[c] - mean * scale)
            for j in range(n):
                out[i, c, j] = x[i, c, j] * scale + shift


def _batch_norm_training_runs(
    x: Any, running_mean: Any, running_var: Any, weight: Any, bias: Any, momentum: float, eps: float, out: Any
) -> None:
    """x, out: (N, C, S); the others: (C,)."""
    batch, channels, n = x.shape
    count = batch * n
    real = x.dtype.type
    for c in prange(channels):
        total = real(0)
        for i in range(batch):
            for j in range(n):
                total += x[i, c, j]
        mean = real(total / count)
        m2 = real(0)
        for i in range(batch):
            for j in range(n):
                d = x[i, c, j] - mean
                m2 += d * d
        running_mean[c] = real((1 - momentum) * running_mean[c] + momentum * mean)
        running_var[c] = real((1 - momentum) * running_var[c] + momentum * (m2 / (count - 1)))
        scale = real(weight[c] / np.sqrt(m2 / count + eps))
        shift = real(bias[c] - mean * scale)
        for i in range(batch):
            for j in range(n):
                out[i, c, j] = x[i, c, j] * scale + shift


def _batch_norm_training_columns(
    x: Any, running_mean: Any, running_var: Any, weight: Any, bias: Any, momentum: float, eps: float, out: Any
) -> None:
    """x, out: (rows, C); the others: (C,)."""
    rows, channels = x.shape
    real = x.dtype.type
    for block in prange((channels + _BLOCK - 1) // _BLOCK):
        start = block * _BLOCK
        width = min(_BLOCK, channels - start)
        mean = np.zeros(_BLOCK, x.dtype)
        m2 = np.zeros(_BLOCK, x.dtype)
        for i in range(rows):
            for j in range(width):
                mean[j] += x[i, start + j]
        for j in range(width):
            mean[j] = real(mean[j] / rows)
        for i in range(rows):
            for j in range(width):
                d = x[i, start + j] - mean[j]
                m2[j] += d * d
        scale = np.empty(_BLOCK, x.dtype)
        shift = np.empty(_BLOCK, x.dtype)
        for j in range(width):
            c = start + j
            running_mean[c] = real((1 - momentum) * running_mean[c] + momentum * mean[j])
            running_var[c] = real((1 - momentum) * running_var[c] + momentum * (m2[j] / (rows - 1)))
            scale[j] = real(weight[c] / np.sqrt(m2[j] / rows + eps))
            shift[j] = real(bias[c] - mean[j] * scale[j])
        for i in range(rows):
            for j in range(width):
                out[i, start + j] = x[i, start + j] * scale[j] + shift[j]


def _batch_norm_inference_runs(
    x: Any, running_mean: Any, running_var: Any, weight: Any, bias: Any, eps: float, out: Any
) -> None:
    """x, out: (N, C, S); the others: (C,)."""
    batch, channels, n = x.shape
    real = x.dtype.type
    for run in prange(batch * channels):
        i = run // channels
        c = run % channels
        scale = real(weight[c] / np.sqrt(running_var[c] + eps))
        shift = real(bias[c] - running_mean[c] * scale)
        for j in range(n):
            out[i, c, j] = x[i, c, j] * scale + shift


def _batch_norm_inference_columns(
    x: Any, running_mean: Any, running_var: Any, weight: Any, bias: Any, eps: float, out: Any
) -> None:
    """x, out: (rows, C); the others: (C,)."""
    rows, channels = x.shape
    scale = np.empty(channels, x.dtype)
    shift = np.empty(channels, x.dtype)
    for c in range(channels):
        scale[c] = weight[c] / np.sqrt(running_var[c] + eps)
        shift[c] = bias[c] - running_mean[c] * scale[c]
    for i in prange(rows):
        for c in range(channels):
            out[i, c] = x[i, c] * scale[c] + shift[c]


def _batch_norm_inference_relu_runs(
    x: Any, running_mean: Any, running_var: Any, weight: Any, bias: Any, eps: float, out: Any
) -> None:
    """x, out: (N, C, S); the others: (C,)."""
    batch, channels, n = x.shape
    real = x.dtype.type
    for run in prange(batch * channels):
        i = run // channels
        c = run % channels
        scale = real(weight[c] / np.sqrt(running_var[c] + eps))
        shift = real(bias[c] - running_mean[c] * scale)
        for j in range(n):
            out[i, c, j] = max(x[i, c, j] * scale + shift, real(0))


def _batch_norm_inference_relu_columns(
    x: Any, running_mean: Any, running_var: Any, weight: Any, bias: Any, eps: float, out: Any
) -> None:
    """x, out: (rows, C); the others: (C,)."""
    rows, channels = x.shape
    real = x.dtype.type
    scale = np.empty(channels, x.dtype)
    shift = np.empty(channels, x.dtype)
    for c in range(channels):
        scale[c] = weight[c] / np.sqrt(running_var[c] + eps)
        shift[c] = bias[c] - running_mean[c] * scale[c]
    for i in prange(rows):
        for c in range(channels):
            out[i, c] = max(x[i, c] * scale[c] + shift[c], real(0))


KERNELS: Mapping[tuple[str, bool], Kernel] = MappingProxyType(
    {
        ("layer_norm", True): _layer_norm_rows,
        ("layer_norm_gelu", True): _layer_norm_gelu_rows,
        ("add_layer_norm", True): _add_layer_norm_rows,
        ("rms_norm", True): _rms_norm_rows,
        ("add_rms_norm", True): _add_rms_norm_rows,
        ("group_norm", False): _group_norm_runs,
        ("instance_norm", False): _group_norm_runs,
        ("batch_norm_training", False): _batch_norm_training_runs,
        ("batch_norm_training", True): _batch_norm_training_columns,
        ("batch_norm_inference", False): _batch_norm_inference_runs,
        ("batch_norm_inference", True): _batch_norm_inference_columns,
        ("batch_norm_inference_relu", False): _batch_norm_inference_relu_runs,
        ("batch_norm_inference_relu", True): _batch_norm_inference_relu_columns,
    }
)


@cache
def compiled(op: str, is_2d: bool, parallel: bool) -> Kernel:
    """Return the kernel of an op for (rows, columns) or (N, C, S) arrays, compiled at its first call."""
    kernel: Kernel = numba.njit(parallel=parallel, fastmath=True, cache=True)(KERNELS[op, is_2d])
    return kernel
