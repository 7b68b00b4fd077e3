/* Elements of any dtype one by one, and what activations make of them. */
#ifndef WN_TEST_ELEMENTS_H
#define WN_TEST_ELEMENTS_H

#include "convert.h"
#include "dispatch.h"

#include <string.h>

static size_t size_of(wn_dtype dtype) {
    return dtype == WN_f64 ? sizeof(double) : dtype == WN_f32 ? sizeof(float) : sizeof(uint16_t);
}

static wn_dtype compute_of(wn_dtype dtype) { return dtype == WN_f64 ? WN_f64 : WN_f32; }

static double get(const void *p, size_t i, wn_dtype dtype) {
    const char *at = (const char *)p + i * size_of(dtype);
    double wide;
    float narrow;
    uint16_t half;
    if (dtype == WN_f64) return memcpy(&wide, at, sizeof wide), wide;
    if (dtype == WN_f32) return memcpy(&narrow, at, sizeof narrow), (double)narrow;
    memcpy(&half, at, sizeof half);
    return (double)(dtype == WN_f16 ? wn_f16_to_f32(half) : wn_bf16_to_f32(half));
}

/* To float16 as if at once: a float that is not exact is made odd, so that what follows sees no tie. */
static void set(void *p, size_t i, wn_dtype dtype, double wide) {
    char *at = (char *)p + i * size_of(dtype);
    float narrow = (float)wide;
    uint32_t bits = wn_bits_of(narrow);
    if (dtype == WN_f16 && wide == wide && (double)narrow != wide)
        narrow = wn_float_of((bits - (fabs((double)narrow) > fabs(wide))) | 1);
    uint16_t half = dtype == WN_f16 ? wn_f32_to_f16(narrow) : wn_f32_to_bf16(narrow);
    memcpy(at, dtype == WN_f64 ? (void *)&wide : dtype == WN_f32 ? (void *)&narrow : &half, size_of(dtype));
}

static double storage_epsilon(wn_dtype dtype) {
    static const double epsilons[] = {
        [WN_f32] = (double)FLT_EPSILON, [WN_f64] = DBL_EPSILON, [WN_f16] = 0x1p-10, [WN_bf16] = 0x1p-7};
    return epsilons[dtype];
}

static double activated(double v, wn_activation activation) {
    double t = v;
    switch (activation) {
    case WN_NO_ACTIVATION:
        return v;
    case WN_RELU:
        return v < 0.0 ? 0.0 : v;
    case WN_GELU:
        return v * 0.5 * erfc(-v * sqrt(0.5));
    case WN_GELU_TANH:
        t = 2.0 * sqrt(2.0 / acos(-1.0)) * (v + 0.044715 * v * v * v);
        break;
    case WN_SILU:
        break;
    }
    return v * (t < 0.0 ? exp(t) / (1.0 + exp(t)) : 1.0 / (1.0 + exp(-t)));
}

#endif
