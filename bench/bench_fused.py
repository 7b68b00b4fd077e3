"""What is fused with a norm, an addition or an activation, beside two calls and beside the norm alone."""

CASES = (
    "layer_norm/float32/rows/512x768",
    "add_layer_norm/float32/rows/512x768",
    "layer_norm_gelu/float32/rows/512x768",
    "rms_norm/float32/rows/512x768",
    "add_rms_norm/float32/rows/512x768",
    "add_layer_norm/float32/rows/4096x4096",
    "add_rms_norm/float32/rows/4096x4096",
    "add_rms_norm/bfloat16/rows/512x4096",
    "layer_norm_gelu/float32/rows/4096x4096",
    "batch_norm_inference/float32/nchw/8x256x32x32",
    "batch_norm_inference_relu/float32/nchw/8x256x32x32",
    "batch_norm_inference_relu/float32/nhwc/8x32x32x256",
)


def bench_fused(name, measured):
    measured(name)
