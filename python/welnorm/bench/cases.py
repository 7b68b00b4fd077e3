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
RMS_EPS = 1e-6
MOMENTUM = 0.1

#: Groups of every group norm.
GROUPS = 32

#: Channels in a block of the blocked layout.
BLOCK = 16

DTYPES = ("float32", "float64", "float16", "bfloat16")

#: The axis the parameters belong to, for every layout. nchw16c is (N, C/16, H, W, 16).
PARAMETER_AXIS: Mapping[str, int | tuple[int, int]] = MappingProxyType(
    {"rows": -1, "nc": 1, "nchw": 1, "nhwc": -1, "nchw16c": (1, -1)}
)

_IMAGES = ("nchw", "nhwc", "nchw16c")

#: The layouts each op is measured on.
LAYOUTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "layer_norm": ("rows",),
        "layer_norm_gelu": ("rows",),
        "add_layer_norm": ("rows",),
        "rms_norm": ("rows",),
        "add_rms_norm": ("rows",),
        "batch_norm_training": ("nc", *_IMAGES),
        "batch_norm_inference": ("nc", *_IMAGES),
        "batch_norm_inference_relu": ("nc", *_IMAGES),
        "group_norm": _IMAGES,
        "instance_norm": _IMAGES,
        "to_blocked": ("nchw",),
        "from_blocked": ("nchw16c",),
    }
)

OPS = tuple(LAYOUTS)

#: Ops that are a norm and an activation in one.
ACTIVATIONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "layer_norm_gelu": ("layer_norm", "gelu"),
        "batch_norm_inference_relu": ("batch_norm_inference", "relu"),
    }
)

#: Ops that add a residual first; their result is the pair of the normalised sum and the sum.
ADDS = ("add_layer_norm", "add_rms_norm")

#: Ops that only move data to another layout, and to which.
MOVES: Mapping[str, str] = MappingProxyType({"to_blocked": "nchw16c", "from_blocked": "nchw"})

NORMS = tuple(op for op in OPS if op not in MOVES)
RMS_NORMS = ("rms_norm", "add_rms_norm")


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
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        layouts = LAYOUTS[self.op]
        if self.layout not in layouts:
            raise ValueError(f"layout of {self.op} must be one of {', '.join(layouts)}, got {self.layout!r}")
        if self.layout == "nchw16c" and self.shape[-1] != BLOCK:
            raise ValueError(f"shape must end in a block of {BLOCK} channels, got {self.shape_text}")
        if self.op == "to_blocked" and self.channels % BLOCK:
            raise ValueError(f"channels must be a multiple of {BLOCK}, got {self.shape_text}")

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
    def axis(self) -> int | tuple[int, int]:
        """The axis weight and bias belong to; two axes if the channels are blocked."""
        return PARAMETER_AXIS[self.layout]

    @property
    def channels(self) -> int:
        """How many elements weight and bias have."""
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        return math.prod(self.shape[axis] for axis in axes)

    @property
    def norm(self) -> str:
        """The op without its activation."""
        return ACTIVATIONS[self.op][0] if self.op in ACTIVATIONS else self.op

    @property
    def activation(self) -> str | None:
        """The activation, None for most ops."""
        return ACTIVATIONS[self.op][1] if self.op in ACTIVATIONS else None

    @property
    def eps(self) -> float:
        """What is added to the variance, or to the mean of squares."""
        return RMS_EPS if self.op in ("rms_norm", "add_rms_norm") else EPS

    @property
    def result_layout(self) -> str:
        """The layout of the result."""
        return MOVES.get(self.op, self.layout)

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        if self.op == "to_blocked":
            batch, channels, *positions = self.shape
            return (batch, channels // BLOCK, *positions, BLOCK)
        if self.op == "from_blocked":
            batch, blocks, *positions, block = self.shape
            return (batch, blocks * block, *positions)
        return self.shape

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return 2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize

    @property
    def has_long_parameters(self) -> bool:
        """Whether it is layer norm of one row only: weight and bias are as long as the data."""
        return self.norm == "layer_norm" and self.channels == math.prod(self.shape)

    @property
    def bytes_moved(self) -> int:
        """Bytes a perfect implementation moves: what is read, read once; results written once."""
        streams = 4 if self.op in ADDS or self.has_long_parameters else 2
        return streams * math.prod(self.shape) * self.itemsize

    @property
    def has_statistics(self) -> bool:
        """Whether it makes statistics of its data."""
        return self.op in NORMS and not self.op.startswith("batch_norm_inference")

    @property
    def statistic_span(self) -> int:
        """How many elements statistics are made of, with those that lie among them in memory."""
        if self.layout == "rows":
            return self.shape[-1]
        neighbours = {"nchw": 1, "nchw16c": BLOCK}.get(self.layout, self.channels)
        if self.norm == "group_norm":
            neighbours = max(neighbours, self.channels // GROUPS)
        samples = self.shape[0] if self.op.startswith("batch_norm") else 1
        return samples * neighbours * (math.prod(self.shape) // (self.shape[0] * self.channels))

    def statistic_share(self, threads: int) -> int:
        """How many of them a thread reads before it can write: all, if there are as many spans as threads."""
        total = math.prod(self.shape)
        return min(self.statistic_span, -(-total // threads))


@dataclass(frozen=True)
class Arrays:
    """The inputs of a case; `residual` is empty unless the op adds one."""

    x: npt.NDArray[Any]
    residual: npt.NDArray[Any]
    weight: npt.NDArray[Any]
    bias: npt.NDArray[Any]
    running_mean: npt.NDArray[Any]
    running_var: npt.NDArray[Any]

    def to_copy(self, case: Case) -> npt.NDArray[Any]:
        """One array, of which a copy moves as many bytes as the op must."""
        if case.has_long_parameters:  # reads x, weight and bias, writes y: as a copy of two
            return np.stack([self.x, self.weight.reshape(self.x.shape)])
        return np.stack([self.x, self.residual]) if self.residual.size else self.x


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the dtype of a name; bfloat16 needs ml_dtypes."""
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def make_arrays(case: Case, seed: int = 0) -> Arrays:
    """Fill the inputs of a case with reproducible random numbers."""
    rng = np.random.default_rng(seed)
    dtype = numpy_dtype(case.dtype)
    working = dtype if dtype.itemsize >= 4 else np.dtype("float32")

    def normal(shape: tuple[int, ...], mean: float, std: float) -> npt.NDArray[Any]:
        values = rng.standard_normal(shape, dtype=working.type)
        values *= std
        values += mean
        return values.astype(dtype, copy=False)

    parameters = (case.channels,)
    return Arrays(
        x=normal(case.shape, 0.5, 2.0),
        weight=normal(parameters, 1.0, 0.1),
        bias=normal(parameters, 0.0, 0.1),
        running_mean=normal(parameters, 0.5, 0.1),
        running_var=abs(normal(parameters, 4.0, 0.1)),
        residual=normal(case.shape if case.op in ADDS else (0,), 0.0, 1.0),
    )


def _cases(*names: str) -> tuple[Case, ...]:
    return tuple(Case.parse(name) for name in names)


#: Named sets of cases: the usual table, a short one, and one so small that it only shows that all is well.
SUITES: Mapping[str, tuple[Case, ...]] = MappingProxyType(
    {
        "standard": _cases(
            "layer_norm/float32/rows/1x768",
            "layer_norm/float32/rows/512x768",
            "layer_norm/float32/rows/32768x1024",
            "layer_norm/float64/rows/512x768",
            "layer_norm/float16/rows/512x4096",
            "layer_norm_gelu/float32/rows/512x768",
            "add_layer_norm/float32/rows/512x768",
            "rms_norm/float32/rows/512x4096",
            "batch_norm_training/float32/nchw/32x64x56x56",
            "batch_norm_training/float32/nchw16c/32x4x56x56x16",
            "batch_norm_training/float32/nc/4096x512",
            "batch_norm_inference/float32/nchw/32x64x56x56",
            "group_norm/float32/nchw/8x256x32x32",
            "instance_norm/float32/nchw/8x256x32x32",
        ),
        "quick": _cases(
            "layer_norm/float32/rows/1x768",
            "layer_norm/float32/rows/512x768",
            "rms_norm/float32/rows/512x768",
            "batch_norm_training/float32/nchw/32x64x28x28",
            "batch_norm_inference/float32/nchw/32x64x28x28",
        ),
        "tiny": _cases(
            "layer_norm/float32/rows/4x16",
            "batch_norm_training/float32/nchw/2x3x4x4",
            "batch_norm_inference/float64/nc/8x5",
            "add_rms_norm/float16/rows/4x16",
            "group_norm/float32/nchw16c/2x4x2x2x16",
        ),
    }
)
