/* AVX2 with FMA and F16C: 32 bytes. */
#if !defined(__AVX2__) || !defined(__FMA__) || !defined(__F16C__)
#    error "simd/avx2.h needs -mavx2 -mfma -mf16c"
#endif

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

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

#define v_sqrt_f64 v_sqrt_f64
static inline v_f64 v_sqrt_f64(v_f64 v) { return _mm256_sqrt_pd(v); }

/* GCC 12 makes two conversions and an insert of __builtin_convertvector */
#define v_wide_f32 v_wide_f32
static inline v_f64 v_wide_f32(const void *p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }

#define v_order_f64 v_order_f64
static inline void v_order_f64(v_f64 *a, v_f64 *b) { __asm__("" : "+x"(*a), "+x"(*b)); }

#define v_low_f32 v_low_f32
static inline v_f64 v_low_f32(v_f32 v) { return _mm256_cvtps_pd(_mm256_castps256_ps128(v)); }
static inline v_f64 v_high_f32(v_f32 v) { return _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)); }

#define v_fill_f64 v_fill_f64
static inline v_f64 v_fill_f64(v_f64 v, size_t n, double fill) {
    return _mm256_blendv_pd(_mm256_set1_pd(fill), v, _mm256_castsi256_pd(v_mask_f64(n)));
}

#define v_wide_part_f64 v_wide_part_f64
static inline v_f64 v_wide_part_f64(const void *p, size_t n, double fill) {
    return v_fill_f64(v_load_part_f64(p, n), n, fill);
}

#define v_wide_part_f32 v_wide_part_f32
static inline v_f64 v_wide_part_f32(const void *p, size_t n, double fill) {
    __m128 narrow = _mm256_castps256_ps128(v_load_part_f32(p, n));
    return v_fill_f64(_mm256_cvtps_pd(narrow), n, fill);
}

#define v_load_f16 v_load_f16
static inline v_f32 v_load_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }
static inline void v_store_f16(void *p, v_f32 v) {
    _mm_storeu_si128(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

#define v_wide_f16 v_wide_f16
static inline v_f64 v_wide_f16(const void *p) { return _mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64(p))); }

/* By four, two and one element, as far as n has them. (GCC before 11.3 has no _mm_loadu_si16 and si32, or
 * wrong ones.) */
#define v_load_part_u16 v_load_part_u16
static inline v_u16 v_load_part_u16(const void *p, size_t n) {
    const uint16_t *from = p;
    __m128i v = _mm_setzero_si128();
    uint16_t one;
    int two;
    if (n & 1) memcpy(&one, from + (n & 6), sizeof one), v = _mm_cvtsi32_si128(one);
    if (n & 2) memcpy(&two, from + (n & 4), sizeof two), v = _mm_insert_epi32(_mm_slli_si128(v, 4), two, 0);
    if (n & 4) v = _mm_or_si128(_mm_slli_si128(v, 8), _mm_loadl_epi64(p));
    return (v_u16)v;
}
static inline void v_store_part_u16(void *p, v_u16 half, size_t n) {
    uint16_t *to = p;
    __m128i v = (__m128i)half;
    if (n & 4) _mm_storel_epi64(p, v), v = _mm_srli_si128(v, 8);
    int two = _mm_cvtsi128_si32(v);
    if (n & 2) memcpy(to + (n & 4), &two, sizeof two), two = _mm_extract_epi32(v, 1);
    uint16_t one = (uint16_t)two;
    if (n & 1) memcpy(to + (n & 6), &one, sizeof one);
}

/* bfloat16 elements become the upper halves of float32 ones in one step */
#define v_wide_bf16 v_wide_bf16
static inline v_f64 v_wide_bf16(const void *p) {
    const __m128i upper = _mm_set_epi8(7, 6, -1, -1, 5, 4, -1, -1, 3, 2, -1, -1, 1, 0, -1, -1);
    return _mm256_cvtps_pd(_mm_castsi128_ps(_mm_shuffle_epi8(_mm_loadl_epi64(p), upper)));
}

#define v_load_bf16 v_load_bf16
static inline v_f32 v_load_bf16(const void *p) {
    const __m256i upper = _mm256_set_epi8(15, 14, -1, -1, 13, 12, -1, -1, 11, 10, -1, -1, 9, 8, -1, -1, 7, 6,
                                          -1, -1, 5, 4, -1, -1, 3, 2, -1, -1, 1, 0, -1, -1);
    __m256i twice = _mm256_broadcastsi128_si256(_mm_loadu_si128(p));
    return _mm256_castsi256_ps(_mm256_shuffle_epi8(twice, upper));
}

#define v_high_u16 v_high_u16
static inline v_u16 v_high_u16(v_i32 v) {
    const __m256i high = _mm256_set1_epi64x(0x0f0e0b0a07060302);
    __m256i pairs = _mm256_permute4x64_epi64(_mm256_shuffle_epi8((__m256i)v, high), 0x08);
    return (v_u16)_mm256_castsi256_si128(pairs);
}

#define v_round_bf16 v_round_bf16
static inline v_i32 v_round_bf16(v_f32 v) {
    __m256i bits = _mm256_castps_si256(v),
            odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    __m256 is_nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    if (__builtin_expect(_mm256_movemask_ps(is_nan), 0)) {
        __m256 quiet = _mm256_castsi256_ps(_mm256_or_si256(bits, _mm256_set1_epi32(0x400000)));
        rounded = _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(rounded), quiet, is_nan));
    }
    return (v_i32)rounded;
}

#define v_stream_u16 v_stream_u16
static inline void v_stream_f16(void *p, v_f32 v) {
    _mm_stream_si128(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

#include "simd.h"

static inline void v_stream_bf16(void *p, v_f32 v) {
    _mm_stream_si128(p, (__m128i)v_high_u16(v_round_bf16(v)));
}
