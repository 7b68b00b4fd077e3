"""Instance norm on every layout."""

CASES = (
    "instance_norm/float32/nchw/8x256x32x32",
    "instance_norm/float32/nhwc/8x32x32x256",
    "instance_norm/float32/nchw16c/8x16x32x32x16",
    "instance_norm/float32/nchw/1x64x256x256",
    "instance_norm/float64/nchw/8x256x32x32",
)


def bench_instance_norm(name, measured):
    measured(name)
