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

#define v_store_head_f32 v_store_head_f32
static inline void v_store_head_f32(void *p, v_f32 v, size_t n) {
    __mmask16 last = (__mmask16)(0xffffu << (16 - n));
    _mm512_mask_storeu_ps((float *)p - (16 - n), last, _mm512_maskz_expand_ps(last, v));
}
static inline void v_store_head_f64(void *p, v_f64 v, size_t n) {
    __mmask8 last = (__mmask8)(0xffu << (8 - n));
    _mm512_mask_storeu_pd((double *)p - (8 - n), last, _mm512_maskz_expand_pd(last, v));
}

#define v_stream_f32 v_stream_f32
static inline void v_stream_f32(void *p, v_f32 v) { _mm512_stream_ps(p, v); }
static inline void v_stream_f64(void *p, v_f64 v) { _mm512_stream_pd(p, v); }
static inline void v_stream_end(void) { _mm_sfence(); }

#define v_fma_f32 v_fma_f32
static inline v_f32 v_fma_f32(v_f32 a, v_f32 b, v_f32 c) { return _mm512_fmadd_ps(a, b, c); }

#define v_fma_f64 v_fma_f64
static inline v_f64 v_fma_f64(v_f64 a, v_f64 b, v_f64 c) { return _mm512_fmadd_pd(a, b, c); }

#define v_sqrt_f64 v_sqrt_f64
static inline v_f64 v_sqrt_f64(v_f64 v) { return _mm512_sqrt_pd(v); }

/* Zen 4 loads 64 bytes by both its pipes, twice if they lie in two lines; of their halves one takes one pipe
 * once, and the other twice */
#define v_load_halves_f32 v_load_halves_f32
static inline v_f32 v_load_halves_f32(const void *p) {
    const float *half = p;
    return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(half)), _mm256_loadu_ps(half + 8), 1);
}

#define v_order_f64 v_order_f64
static inline void v_order_f64(v_f64 *a, v_f64 *b) { __asm__("" : "+v"(*a), "+v"(*b)); }

/* GCC 12 makes two conversions and an insert of __builtin_convertvector */
#define v_wide_f32 v_wide_f32
static inline v_f64 v_wide_f32(const void *p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }

#define v_low_f32 v_low_f32
static inline v_f64 v_low_f32(v_f32 v) { return _mm512_cvtps_pd(_mm512_castps512_ps256(v)); }
static inline v_f64 v_high_f32(v_f32 v) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)); }

#define v_wide_part_f64 v_wide_part_f64
static inline v_f64 v_wide_part_f64(const void *p, size_t n, double fill) {
    return _mm512_mask_loadu_pd(_mm512_set1_pd(fill), (__mmask8)v_mask(n), p);
}

#define v_fill_f64 v_fill_f64
static inline v_f64 v_fill_f64(v_f64 v, size_t n, double fill) {
    return _mm512_mask_mov_pd(_mm512_set1_pd(fill), (__mmask8)v_mask(n), v);
}

#define v_wide_part_f32 v_wide_part_f32
static inline v_f64 v_wide_part_f32(const void *p, size_t n, double fill) {
    __mmask8 mask = (__mmask8)v_mask(n);
    return _mm512_mask_cvtps_pd(_mm512_set1_pd(fill), mask, _mm256_maskz_loadu_ps(mask, p));
}

/* GCC 12 takes the last two elements from memory */
#define v_sum_f64 v_sum_f64
static inline double v_sum_f64(v_f64 v) {
    __m256d four = _mm512_castpd512_pd256(v) + _mm512_extractf64x4_pd(v, 1);
    __m128d two = _mm256_castpd256_pd128(four) + _mm256_extractf128_pd(four, 1);
    return _mm_cvtsd_f64(two) + _mm_cvtsd_f64(_mm_unpackhi_pd(two, two));
}

#define v_load_f16 v_load_f16
static inline v_f32 v_load_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }
static inline void v_store_f16(void *p, v_f32 v) {
    _mm256_storeu_si256(p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

#define v_wide_f16 v_wide_f16
static inline v_f64 v_wide_f16(const void *p) { return _mm512_cvtps_pd(_mm256_cvtph_ps(_mm_loadu_si128(p))); }

#define v_load_part_u16 v_load_part_u16
static inline v_u16 v_load_part_u16(const void *p, size_t n) {
    return (v_u16)_mm256_maskz_loadu_epi16(v_mask(n), p);
}
static inline void v_store_part_u16(void *p, v_u16 v, size_t n) {
    _mm256_mask_storeu_epi16(p, v_mask(n), (__m256i)v);
}
/* the last elements of the vector that ends at p + n, so that none of it lies beyond */
#define v_store_head_u16 v_store_head_u16
static inline void v_store_head_u16(void *p, v_u16 v, size_t n) {
    const __m256i place = _mm256_set_epi16(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m256i from = _mm256_sub_epi16(place, _mm256_set1_epi16((short)(16 - n)));
    _mm256_mask_storeu_epi16((uint16_t *)p - (16 - n), (__mmask16)(0xffffu << (16 - n)),
                             _mm256_permutexvar_epi16(from, (__m256i)v));
}

/* bfloat16 elements become the upper halves of float32 ones in one step */
#define v_wide_bf16 v_wide_bf16
static inline v_f64 v_wide_bf16(const void *p) {
    const __m256i twice = _mm256_set_epi16(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    __m256i half = _mm256_castsi128_si256(_mm_loadu_si128(p));
    return _mm512_cvtps_pd(_mm256_castsi256_ps(_mm256_maskz_permutexvar_epi16(0xaaaa, twice, half)));
}

#define v_load_bf16 v_load_bf16
static inline v_f32 v_load_bf16(const void *p) {
    const __m512i twice = _mm512_set_epi16(15, 15, 14, 14, 13, 13, 12, 12, 11, 11, 10, 10, 9, 9, 8, 8, 7, 7,
                                           6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    __m512i half = _mm512_castsi256_si512(_mm256_loadu_si256(p));
    return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, twice, half));
}

/* GCC 12 makes several steps of it, and a store of vpmovdw is slow on Zen 4 and 5 */
#define v_high_u16 v_high_u16
static inline v_u16 v_high_u16(v_i32 v) {
    const __m512i odd = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, 31, 29,
                                         27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1);
    return (v_u16)_mm512_castsi512_si256(_mm512_permutexvar_epi16(odd, (__m512i)v));
}

#define v_round_bf16 v_round_bf16
static inline v_i32 v_round_bf16(v_f32 v) {
    __m512i bits = _mm512_castps_si512(v), rounded = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
    __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
    rounded = _mm512_mask_add_epi32(rounded, odd, bits, _mm512_set1_epi32(0x8000));
    __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    if (__builtin_expect(is_nan, 0))
        rounded = _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x400000));
    return (v_i32)rounded;
}

#define v_stream_u16 v_stream_u16
static inline void v_stream_f16(void *p, v_f32 v) {
    _mm256_stream_si256(p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
static inline void v_stream_bf16(void *p, v_f32 v) {
    _mm256_stream_si256(p, (__m256i)v_high_u16(v_round_bf16(v)));
}

#include "simd.h"
