"""Batch norm, training and inference, on every layout."""

CASES = (
    "batch_norm_training/float32/nchw/32x64x56x56",
    "batch_norm_training/float32/nchw/32x256x14x14",
    "batch_norm_training/float32/nhwc/32x56x56x64",
    "batch_norm_training/float32/nchw16c/32x4x56x56x16",
    "batch_norm_training/float32/nc/4096x512",
    "batch_norm_training/float64/nchw/16x64x28x28",
    "batch_norm_inference/float32/nchw/32x64x56x56",
    "batch_norm_inference/float32/nchw/32x256x14x14",
    "batch_norm_inference/float32/nhwc/32x56x56x64",
    "batch_norm_inference/float32/nchw16c/32x4x56x56x16",
    "batch_norm_inference/float32/nc/4096x512",
)


def bench_batch_norm(name, measured):
    measured(name)
