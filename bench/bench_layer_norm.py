"""Layer norm: in cache, beyond it, float64, one long row."""

CASES = (
    "layer_norm/float32/rows/512x768",
    "layer_norm/float32/rows/4096x768",
    "layer_norm/float32/rows/32768x1024",
    "layer_norm/float32/rows/4096x4096",
    "layer_norm/float32/rows/65536x32",
    "layer_norm/float32/rows/1x4194304",
    "layer_norm/float64/rows/512x768",
)


def bench_layer_norm(name, measured):
    measured(name)
