/* NEON (AArch64, where it is always there, with FMA): 16 bytes. */
#if !defined(__aarch64__) || !defined(__ARM_NEON)
#    error "simd/neon.h needs AArch64 with NEON"
#endif

#include <arm_neon.h>

#define WN_VECTOR_BYTES 16

#include "types.h"

#define v_fma_f32 v_fma_f32
static inline v_f32 v_fma_f32(v_f32 a, v_f32 b, v_f32 c) { return vfmaq_f32(c, a, b); }

#define v_fma_f64 v_fma_f64
static inline v_f64 v_fma_f64(v_f64 a, v_f64 b, v_f64 c) { return vfmaq_f64(c, a, b); }

#define v_order_f64 v_order_f64
static inline void v_order_f64(v_f64 *a, v_f64 *b) { __asm__("" : "+w"(*a), "+w"(*b)); }

#define v_load_f16 v_load_f16
static inline v_f32 v_load_f16(const void *p) {
    float16x4_t half;
    __builtin_memcpy(&half, p, sizeof half);
    return vcvt_f32_f16(half);
}
static inline void v_store_f16(void *p, v_f32 v) {
    float16x4_t half = vcvt_f16_f32(v);
    __builtin_memcpy(p, &half, sizeof half);
}

#include "simd.h"
