"""Group norm with 32 groups on every layout."""

CASES = (
    "group_norm/float32/nchw/8x256x32x32",
    "group_norm/float32/nhwc/8x32x32x256",
    "group_norm/float32/nchw16c/8x16x32x32x16",
    "group_norm/float32/nchw/32x256x14x14",
    "group_norm/float32/nchw/1x320x64x64",
    "group_norm/float64/nchw/8x256x32x32",
)


def bench_group_norm(name, measured):
    measured(name)
