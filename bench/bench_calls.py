"""Arrays so small that the call itself is the work; some 50 ns of a figure are pytest-benchmark itself."""

CASES = (
    "layer_norm/float32/rows/1x16",
    "layer_norm/float32/rows/1x768",
    "layer_norm/float32/rows/16x768",
    "layer_norm/bfloat16/rows/1x768",
    "rms_norm/float32/rows/1x768",
    "add_rms_norm/float32/rows/1x768",
    "batch_norm_inference/float32/nc/1x512",
    "batch_norm_training/float32/nc/16x64",
)


def bench_call(name, measured):
    measured(name)
