"""RMSNorm: in cache, beyond it, float64."""

CASES = (
    "rms_norm/float32/rows/1x768",
    "rms_norm/float32/rows/512x768",
    "rms_norm/float32/rows/512x4096",
    "rms_norm/float32/rows/4096x4096",
    "rms_norm/float64/rows/512x768",
)


def bench_rms_norm(name, measured):
    measured(name)
