/* AVX2 with FMA: 32 bytes. */
#if !defined(__AVX2__) || !defined(__FMA__)
#    error "simd/avx2.h needs -mavx2 -mfma"
#endif

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define WN_VECTOR_BYTES 32

#include "types.h"

/* A window into ones and zeros: the mask whose first n elements of 4 or 8 bytes are set. */
static const int32_t v_mask_window[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

static inline __m256i v_mask_f32(size_t n) {
    return _mm256_loadu_si256((const __m256i *)(v_mask_window + 8 - n));
}

static inline __m256i v_mask_f64(size_t n) { return v_mask_f32(2 * n); }

#define v_load_part_f32 v_load_part_f32
static inline v_f32 v_load_part_f32(const void *p, size_t n) { return _mm256_maskload_ps(p, v_mask_f32(n)); }

#define v_load_part_f64 v_load_part_f64
static inline v_f64 v_load_part_f64(const void *p, size_t n) { return _mm256_maskload_pd(p, v_mask_f64(n)); }

#define v_store_part_f32 v_store_part_f32
static inline void v_store_part_f32(void *p, v_f32 v, size_t n) { _mm256_maskstore_ps(p, v_mask_f32(n), v); }

#define v_store_part_f64 v_store_part_f64
static inline void v_store_part_f64(void *p, v_f64 v, size_t n) { _mm256_maskstore_pd(p, v_mask_f64(n), v); }

#define v_stream_f32 v_stream_f32
static inline void v_stream_f32(void *p, v_f32 v) { _mm256_stream_ps(p, v); }
static inline void v_stream_f64(void *p, v_f64 v) { _mm256_stream_pd(p, v); }
static inline void v_stream_end(void) { _mm_sfence(); }

#define v_fma_f32 v_fma_f32
static inline v_f32 v_fma_f32(v_f32 a, v_f32 b, v_f32 c) { return _mm256_fmadd_ps(a, b, c); }

#define v_fma_f64 v_fma_f64
static inline v_f64 v_fma_f64(v_f64 a, v_f64 b, v_f64 c) { return _mm256_fmadd_pd(a, b, c); }

/* GCC 12 makes two conversions and an insert of __builtin_convertvector */
#define v_wide_f32 v_wide_f32
static inline v_f64 v_wide_f32(const void *p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }

#define v_wide_part_f64 v_wide_part_f64
static inline v_f64 v_wide_part_f64(const void *p, size_t n, double fill) {
    __m256d v = v_load_part_f64(p, n);
    return _mm256_blendv_pd(_mm256_set1_pd(fill), v, _mm256_castsi256_pd(v_mask_f64(n)));
}

#define v_wide_part_f32 v_wide_part_f32
static inline v_f64 v_wide_part_f32(const void *p, size_t n, double fill) {
    __m128 narrow = _mm256_castps256_ps128(v_load_part_f32(p, n));
    return _mm256_blendv_pd(_mm256_set1_pd(fill), _mm256_cvtps_pd(narrow),
                            _mm256_castsi256_pd(v_mask_f64(n)));
}

#include "simd.h"
