"""welnorm: normalization kernels for NumPy.

>>> import numpy as np, welnorm as wn
>>> wn.layer_norm(np.float32([[2, 4, 6, 8]])).round(2)
array([[-1.34, -0.45,  0.45,  1.34]], dtype=float32)

How the layers call each other, one way and downwards only::

    functional.py _channels.py _fused.py _fold.py layers.py _moments.py _memory.py    what users call
      _problem.py                            checks; any norm on any layout becomes one Problem
        _backends/                           c | numba | reference: three functions over a Problem
          _c (src/_c.pyx)                    the binding: pointers down, status back
            src/welnorm.c run.c cols.c       drivers: cut the work, share it out, merge statistics
              src/dispatch.c                 one table of kernels per instruction set
                src/kernels/*.tpl.h          the algorithms, written once, on src/simd/*.h
"""

from ._backends import available_backends, backend, get_backend, set_backend
from ._channels import batch_norm, group_norm, instance_norm
from ._config import show_config
from ._fold import fold_batch_norm
from ._fused import add_layer_norm, add_rms_norm, layer_norm_int8, rms_norm_int8
from ._isa import available_isas
from ._memory import aligned_empty, clear_output_cache, from_blocked, to_blocked
from ._moments import Moments, mean_var, moments
from ._threads import get_num_threads, num_threads, set_num_threads
from .functional import layer_norm, rms_norm
from .layers import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm

__version__ = "0.1.0"

__all__ = [
    "BatchNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "Moments",
    "RMSNorm",
    "add_layer_norm",
    "add_rms_norm",
    "aligned_empty",
    "available_backends",
    "available_isas",
    "backend",
    "batch_norm",
    "clear_output_cache",
    "fold_batch_norm",
    "from_blocked",
    "get_backend",
    "get_num_threads",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "layer_norm_int8",
    "mean_var",
    "moments",
    "num_threads",
    "rms_norm",
    "rms_norm_int8",
    "set_backend",
    "set_num_threads",
    "show_config",
    "to_blocked",
]
