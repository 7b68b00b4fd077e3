/* AVX-512 (F, BW, DQ, VL): 64 bytes. */
#if !defined(__AVX512F__) || !defined(__AVX512BW__) || !defined(__AVX512DQ__) || !defined(__AVX512VL__)
#    error "simd/avx512.h needs -mavx512f -mavx512bw -mavx512dq -mavx512vl"
#endif

#include <immintrin.h>
#include <stddef.h>

#define WN_VECTOR_BYTES 64

#include "types.h"

static inline __mmask16 v_mask(size_t n) { return (__mmask16)((1u << n) - 1u); }

#define v_load_part_f32 v_load_part_f32
static inline v_f32 v_load_part_f32(const void *p, size_t n) { return _mm512_maskz_loadu_ps(v_mask(n), p); }

#define v_load_part_f64 v_load_part_f64
static inline v_f64 v_load_part_f64(const void *p, size_t n) {
    return _mm512_maskz_loadu_pd((__mmask8)v_mask(n), p);
}

#define v_store_part_f32 v_store_part_f32
static inline void v_store_part_f32(void *p, v_f32 v, size_t n) { _mm512_mask_storeu_ps(p, v_mask(n), v); }

#define v_store_part_f64 v_store_part_f64
static inline void v_store_part_f64(void *p, v_f64 v, size_t n) {
    _mm512_mask_storeu_pd(p, (__mmask8)v_mask(n), v);
}

#define v_stream_f32 v_stream_f32
static inline void v_stream_f32(void *p, v_f32 v) { _mm512_stream_ps(p, v); }
static inline void v_stream_f64(void *p, v_f64 v) { _mm512_stream_pd(p, v); }
static inline void v_stream_end(void) { _mm_sfence(); }

#define v_fma_f32 v_fma_f32
static inline v_f32 v_fma_f32(v_f32 a, v_f32 b, v_f32 c) { return _mm512_fmadd_ps(a, b, c); }

#define v_fma_f64 v_fma_f64
static inline v_f64 v_fma_f64(v_f64 a, v_f64 b, v_f64 c) { return _mm512_fmadd_pd(a, b, c); }

/* GCC 12 makes two conversions and an insert of __builtin_convertvector */
#define v_wide_f32 v_wide_f32
static inline v_f64 v_wide_f32(const void *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }

#define v_wide_part_f64 v_wide_part_f64
static inline v_f64 v_wide_part_f64(const void *p, size_t n, double fill) {
    return _mm512_mask_loadu_pd(_mm512_set1_pd(fill), (__mmask8)v_mask(n), p);
}

#define v_wide_part_f32 v_wide_part_f32
static inline v_f64 v_wide_part_f32(const void *p, size_t n, double fill) {
    __mmask8 mask = (__mmask8)v_mask(n);
    return _mm512_mask_cvtps_pd(_mm512_set1_pd(fill), mask, _mm256_maskz_loadu_ps(mask, p));
}

#include "simd.h"
