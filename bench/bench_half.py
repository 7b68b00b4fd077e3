"""16-bit data: half the bytes, computed in float32. bfloat16 needs ml_dtypes."""

CASES = (
    "layer_norm/float16/rows/512x4096",
    "layer_norm/bfloat16/rows/512x4096",
    "layer_norm/bfloat16/rows/8192x4096",
    "rms_norm/float16/rows/512x4096",
    "rms_norm/bfloat16/rows/512x4096",
    "batch_norm_training/bfloat16/nchw/32x64x56x56",
    "batch_norm_inference/float16/nchw/32x64x56x56",
    "group_norm/bfloat16/nchw/8x256x32x32",
    "instance_norm/bfloat16/nchw/8x256x32x32",
)


def bench_half(name, measured):
    measured(name)
