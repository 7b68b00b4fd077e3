"""Into the channel-blocked layout and out of it: a copy is the limit."""

CASES = (
    "to_blocked/float32/nchw/8x256x32x32",
    "to_blocked/float32/nchw/32x64x56x56",
    "to_blocked/float16/nchw/32x64x56x56",
    "from_blocked/float32/nchw16c/8x16x32x32x16",
    "from_blocked/float32/nchw16c/32x4x56x56x16",
)


def bench_memory(name, measured):
    measured(name)
