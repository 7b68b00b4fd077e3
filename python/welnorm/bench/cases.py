"""What is measured: one op on one array, named ``<op>/<dtype>/<layout>/<shape>``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

EPS = 1e-5
MOMENTUM = 0.1

#: The axis the parameters belong to, for every layout that has one.
PARAMETER_AXIS: Mapping[str, int] = MappingProxyType({"rows": -1, "nc": 1, "nchw": 1, "nhwc": -1})

#: The layouts each op is measured on.
LAYOUTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "layer_norm": ("rows",),
        "batch_norm_training": ("nc", "nchw", "nhwc"),
        "batch_norm_inference": ("nc", "nchw", "nhwc"),
    }
)

OPS = tuple(LAYOUTS)


@dataclass(frozen=True)
class Case:
    """One op on one array."""

    op: str
    dtype: str
    layout: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise ValueError(f"op must be one of {', '.join(OPS)}, got {self.op!r}")
        layouts = LAYOUTS[self.op]
        if self.layout not in layouts:
            raise ValueError(f"layout of {self.op} must be one of {', '.join(layouts)}, got {self.layout!r}")

    def __str__(self) -> str:
        return f"{self.op}/{self.dtype}/{self.layout}/{self.shape_text}"

    @classmethod
    def parse(cls, name: str) -> Case:
        """Make the case that ``str(case)`` names; the reverse of ``str``."""
        op, dtype, layout, shape = name.split("/")
        return cls(op, dtype, layout, tuple(int(length) for length in shape.split("x")))

    @property
    def shape_text(self) -> str:
        """The shape as ``512x768``."""
        return "x".join(str(length) for length in self.shape)

    @property
    def axis(self) -> int:
        """The axis weight and bias belong to."""
        return PARAMETER_AXIS[self.layout]

    @property
    def bytes_moved(self) -> int:
        """Bytes a perfect implementation moves: the data read once and written once."""
        return 2 * math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Arrays:
    """The inputs of a case."""

    x: npt.NDArray[Any]
    weight: npt.NDArray[Any]
    bias: npt.NDArray[Any]
    running_mean: npt.NDArray[Any]
    running_var: npt.NDArray[Any]


def make_arrays(case: Case, seed: int = 0) -> Arrays:
    """Fill the inputs of a case with reproducible random numbers."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(case.dtype)
    working = dtype if dtype.itemsize >= 4 else np.dtype("float32")

    def normal(shape: tuple[int, ...], mean: float, std: float) -> npt.NDArray[Any]:
        values = rng.standard_normal(shape, dtype=working.type)
        values *= std
        values += mean
        return values.astype(dtype, copy=False)

    parameters = (case.shape[case.axis],)
    return Arrays(
        x=normal(case.shape, 0.5, 2.0),
        weight=normal(parameters, 1.0, 0.1),
        bias=normal(parameters, 0.0, 0.1),
        running_mean=normal(parameters, 0.5, 0.1),
        running_var=abs(normal(parameters, 4.0, 0.1)),
    )


def _cases(*names: str) -> tuple[Case, ...]:
    return tuple(Case.parse(name) for name in names)


#: Named sets of cases: the usual table, a short one, and one so small that it only shows that all is well.
SUITES: Mapping[str, tuple[Case, ...]] = MappingProxyType(
    {
        "standard": _cases(
            "layer_norm/float32/rows/1x768",
            "layer_norm/float32/rows/512x768",
            "layer_norm/float32/rows/4096x768",
            "layer_norm/float32/rows/32768x1024",
            "layer_norm/float64/rows/512x768",
            "batch_norm_training/float32/nchw/32x64x56x56",
            "batch_norm_training/float32/nc/4096x512",
            "batch_norm_inference/float32/nchw/32x64x56x56",
        ),
        "quick": _cases(
            "layer_norm/float32/rows/1x768",
            "layer_norm/float32/rows/512x768",
            "batch_norm_training/float32/nchw/32x64x28x28",
            "batch_norm_inference/float32/nchw/32x64x28x28",
        ),
        "tiny": _cases(
            "layer_norm/float32/rows/4x16",
            "batch_norm_training/float32/nchw/2x3x4x4",
            "batch_norm_inference/float64/nc/8x5",
        ),
    }
)
