/* The vector vocabulary: what the kernels need beyond the operators of GCC and Clang vector types.
 *
 * An ISA header defines WN_VECTOR_BYTES (or WN_SCALAR), overrides what it does better by defining the
 * function and a macro of the same name, then includes this file, which fills in generic defaults. f32
 * and f64 vectors are v_f32 and v_f64, of V_F32 and V_F64 elements; f16 and bf16 are types of memory only,
 * and v_f32 in registers. Addresses need no alignment.
 *
 *   v_set_T(s)                    all elements s
 *   v_load_T(p), v_store_T(p, v)  a whole vector; to 16 bits rounded to nearest even
 *   v_load_halves_T(p)            a whole vector which is likely to lie in two cache lines
 *   v_load_part_T(p, n), v_store_part_T(p, v, n)  the first n (0 < n < V_T) elements; the rest read 0
 *   v_store_head_T(p, v, n)       the same, and of its vector nothing, masked or not, lies beyond p + n
 *   v_stream_T(p, v)              a whole vector to an aligned address, past the cache where that exists
 *   v_stream_end()                before others may read what was streamed
 *   v_fma_T(a, b, c)              a * b + c, rounded once where the instruction set has it
 *   v_wide_T(p)                   V_F64 elements of T as a v_f64
 *   v_wide_part_T(p, n, fill)     the first n of them, all at most; the rest are fill
 *   v_low_f32(v), v_high_f32(v)   the first and the last V_F64 elements of a v_f32 as a v_f64
 *   v_order_f64(a, b)             nothing, but what uses *a or *b from here on comes after what made both
 *   v_fill_f64(v, n, fill)        the first n elements of v, all at most; the rest are fill
 *   v_load_part_u16(p, n), v_store_part_u16(p, v, n), v_store_head_u16(p, v, n)  parts of a v_u16, of which
 *                                 those of both 16-bit types are made
 *   v_narrow_T(p, v)              the elements of a v_f64 to memory, as T
 *   v_sqrt_f64(v)                 square roots
 *   v_any_i64(mask)               whether any bit is set
 *   v_sum_f64(v)                  sum of the elements, by halves: (i) + (i + half), again and again
 *   v_bits_T(v), v_from_bits_T(b) the same bits as integers, and back
 *   v_select_T(mask, a, b)        a where mask = V_WHERE(a comparison) is set, else b
 *   v_product_error_T(a, b, p)    a * b - p exactly, where p is a * b rounded (and nothing leaves the range)
 */
#ifndef WN_SIMD_H
#define WN_SIMD_H

#include "../convert.h"
#include "types.h"

#include <math.h>
#include <stddef.h>
#include <string.h>

static inline v_f32 v_set_f32(float s) { return V_SPLAT(v_f32, s); }
static inline v_f64 v_set_f64(double s) { return V_SPLAT(v_f64, s); }

/* memcpy is how C says "no alignment"; it becomes one instruction. */
static inline v_f32 v_load_f32(const void *p) {
    v_f32 v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline v_f64 v_load_f64(const void *p) {
    v_f64 v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void v_store_f32(void *p, v_f32 v) { memcpy(p, &v, sizeof v); }
static inline void v_store_f64(void *p, v_f64 v) { memcpy(p, &v, sizeof v); }

/* What is long and not worth a copy at each use stays a function, and WN_ONE_COPY a single one: GCC makes
 * another of most functions for arguments that it knows. */
#ifdef __GNUC__
#    define WN_NOINLINE __attribute__((noinline, unused))
#else
#    define WN_NOINLINE inline
#endif
#if defined __GNUC__ && !defined __clang__
#    define WN_ONE_COPY WN_NOINLINE __attribute__((noclone))
#else
#    define WN_ONE_COPY WN_NOINLINE
#endif

#ifndef v_load_part_f32
static inline v_f32 v_load_part_f32(const void *p, size_t n) {
    v_f32 v = v_set_f32(0.0f);
    memcpy(&v, p, n * sizeof(float));
    return v;
}
#endif

#ifndef v_load_part_f64
static inline v_f64 v_load_part_f64(const void *p, size_t n) {
    v_f64 v = v_set_f64(0.0);
    memcpy(&v, p, n * sizeof(double));
    return v;
}
#endif

#ifndef v_store_part_f32
static inline void v_store_part_f32(void *p, v_f32 v, size_t n) { memcpy(p, &v, n * sizeof(float)); }
#endif

#ifndef v_store_part_f64
static inline void v_store_part_f64(void *p, v_f64 v, size_t n) { memcpy(p, &v, n * sizeof(double)); }
#endif

#ifndef v_store_head_f32
static WN_NOINLINE void v_store_head_f32(void *p, v_f32 v, size_t n) { memcpy(p, &v, n * sizeof(float)); }
static WN_NOINLINE void v_store_head_f64(void *p, v_f64 v, size_t n) { memcpy(p, &v, n * sizeof(double)); }
#endif

#ifndef v_stream_f32
static inline void v_stream_f32(void *p, v_f32 v) { v_store_f32(p, v); }
static inline void v_stream_f64(void *p, v_f64 v) { v_store_f64(p, v); }
static inline void v_stream_end(void) {}
#endif

#ifndef v_fma_f32
static inline v_f32 v_fma_f32(v_f32 a, v_f32 b, v_f32 c) { return a * b + c; }
#endif

#ifdef v_fma_f64
static inline v_f32 v_product_error_f32(v_f32 a, v_f32 b, v_f32 p) { return v_fma_f32(a, b, -p); }
static inline v_f64 v_product_error_f64(v_f64 a, v_f64 b, v_f64 p) { return v_fma_f64(a, b, -p); }
#else
static inline v_f64 v_fma_f64(v_f64 a, v_f64 b, v_f64 c) { return a * b + c; }
/* Dekker's product of Veltkamp's halves. */
static inline v_f32 v_product_error_f32(v_f32 a, v_f32 b, v_f32 p) {
    v_f32 a_high = a * 0x1.002p12f - (a * 0x1.002p12f - a), a_low = a - a_high;
    v_f32 b_high = b * 0x1.002p12f - (b * 0x1.002p12f - b), b_low = b - b_high;
    return ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low;
}
static inline v_f64 v_product_error_f64(v_f64 a, v_f64 b, v_f64 p) {
    v_f64 a_high = a * 0x1.0000002p27 - (a * 0x1.0000002p27 - a), a_low = a - a_high;
    v_f64 b_high = b * 0x1.0000002p27 - (b * 0x1.0000002p27 - b), b_low = b - b_high;
    return ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low;
}
#endif

/* memcpy is also how C says "the same bits". */
static inline v_i32 v_bits_f32(v_f32 v) {
    v_i32 bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}
static inline v_i64 v_bits_f64(v_f64 v) {
    v_i64 bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}
static inline v_f32 v_from_bits_f32(v_i32 bits) {
    v_f32 v;
    memcpy(&v, &bits, sizeof v);
    return v;
}
static inline v_f64 v_from_bits_f64(v_i64 bits) {
    v_f64 v;
    memcpy(&v, &bits, sizeof v);
    return v;
}
static inline v_f32 v_select_f32(v_i32 mask, v_f32 a, v_f32 b) {
    return v_from_bits_f32((v_bits_f32(a) & mask) | (v_bits_f32(b) & ~mask));
}
static inline v_f64 v_select_f64(v_i64 mask, v_f64 a, v_f64 b) {
    return v_from_bits_f64((v_bits_f64(a) & mask) | (v_bits_f64(b) & ~mask));
}

#ifndef v_wide_f32
static inline v_f64 v_wide_f32(const void *p) {
    v_f32_narrow narrow;
    memcpy(&narrow, p, sizeof narrow);
#    ifdef WN_SCALAR
    return narrow;
#    else
    return __builtin_convertvector(narrow, v_f64);
#    endif
}
#endif

static inline v_f64 v_wide_f64(const void *p) { return v_load_f64(p); }

#ifdef WN_SCALAR
static inline v_f64 v_low_f32(v_f32 v) { return v; }
static inline v_f64 v_high_f32(v_f32 v) { return v; }
#elif !defined(v_low_f32)
static inline v_f64 v_low_f32(v_f32 v) { return v_wide_f32(&v); }
static inline v_f64 v_high_f32(v_f32 v) { return v_wide_f32((const float *)&v + V_F64); }
#endif

#ifndef v_load_halves_f32
#    define v_load_halves_f32 v_load_f32
#endif
#define v_load_halves_f64 v_load_f64
#define v_load_halves_f16 v_load_f16
#define v_load_halves_bf16 v_load_bf16

#ifndef v_order_f64
static inline void v_order_f64(v_f64 *a, v_f64 *b) { (void)a, (void)b; }
#endif

static inline void v_narrow_f32(void *p, v_f64 v) {
#ifdef WN_SCALAR
    v_f32_narrow narrow = (float)v;
#else
    v_f32_narrow narrow = __builtin_convertvector(v, v_f32_narrow);
#endif
    memcpy(p, &narrow, sizeof narrow);
}
static inline void v_narrow_f64(void *p, v_f64 v) { v_store_f64(p, v); }

#ifndef v_sqrt_f64
static inline v_f64 v_sqrt_f64(v_f64 v) {
    double lane[V_F64];
    v_store_f64(lane, v);
    for (size_t i = 0; i < V_F64; i++) lane[i] = sqrt(lane[i]);
    return v_load_f64(lane);
}
#endif

static inline int v_any_i64(v_i64 mask) {
    int64_t lane[V_F64], any = 0;
    memcpy(lane, &mask, sizeof lane);
    for (size_t i = 0; i < V_F64; i++) any |= lane[i];
    return any != 0;
}

#ifndef v_wide_part_f32
static inline v_f64 v_wide_part_f32(const void *p, size_t n, double fill) {
    double wide[V_F64];
    for (size_t i = 0; i < V_F64; i++) {
        float element = 0.0f;
        if (i < n) memcpy(&element, (const char *)p + i * sizeof(float), sizeof(float));
        wide[i] = i < n ? (double)element : fill;
    }
    return v_load_f64(wide);
}
#endif

#ifndef v_wide_part_f64
static inline v_f64 v_wide_part_f64(const void *p, size_t n, double fill) {
    v_f64 v = v_set_f64(fill);
    memcpy(&v, p, n * sizeof(double));
    return v;
}
#endif

/* 16-bit elements. */
#ifdef WN_SCALAR
#    define WN_ONE(T)                                                                                        \
        static inline v_f32 v_load_##T(const void *p) {                                                      \
            uint16_t half;                                                                                   \
            memcpy(&half, p, sizeof half);                                                                   \
            return wn_##T##_to_f32(half);                                                                    \
        }                                                                                                    \
        static inline void v_store_##T(void *p, v_f32 v) {                                                   \
            uint16_t half = wn_f32_to_##T(v);                                                                \
            memcpy(p, &half, sizeof half);                                                                   \
        }
WN_ONE(f16)
WN_ONE(bf16)
#    undef WN_ONE
#elif !defined(v_load_f16)
/* As wn_f16_to_f32 and wn_f32_to_f16, all cases at once. */
static inline v_f32 v_load_f16(const void *p) {
    v_u16 halves;
    memcpy(&halves, p, sizeof halves);
    v_i32 half = __builtin_convertvector(halves, v_i32), magnitude = (half & 0x7fff) << 13;
    v_i32 number = magnitude + (112 << 23) + ((magnitude >= 0x7c00 << 13) & (112 << 23));
    v_f32 subnormal = v_from_bits_f32(magnitude + (113 << 23)) - wn_float_of(113u << 23);
    v_i32 is_subnormal = magnitude < 0x0400 << 13;
    return v_from_bits_f32((half & 0x8000) << 16 | (v_bits_f32(subnormal) & is_subnormal) |
                           (number & ~is_subnormal));
}
static WN_NOINLINE void v_store_f16(void *p, v_f32 v) {
    v_i32 bits = v_bits_f32(v), magnitude = bits & 0x7fffffff, shifted = magnitude >> 13;
    v_i32 is_subnormal = magnitude < 0x38800000, is_large = magnitude >= 0x477ff000;
    v_i32 number = ((magnitude & ~is_large) - (112 << 23) + 0xfff + (shifted & 1)) >> 13; /* no overflow */
    v_i32 subnormal = v_bits_f32(v_from_bits_f32(magnitude) + 0.5f) - (int32_t)wn_bits_of(0.5f);
    v_i32 large = 0x7c00 | ((magnitude > 0x7f800000) & (0x0200 | (shifted & 0x3ff))); /* inf, NaN */
    v_i32 half = (subnormal & is_subnormal) | (large & is_large) | (number & ~(is_subnormal | is_large));
    v_u16 halves = __builtin_convertvector(half | (bits >> 16 & 0x8000), v_u16);
    memcpy(p, &halves, sizeof halves);
}
#endif

#ifndef WN_SCALAR
#    ifndef v_high_u16
static inline v_u16 v_high_u16(v_i32 v) { return __builtin_convertvector(v >> 16, v_u16); } /* upper halves */
#    endif
#    ifndef v_load_bf16
static inline v_f32 v_load_bf16(const void *p) {
    v_u16 half;
    memcpy(&half, p, sizeof half);
    return v_from_bits_f32(__builtin_convertvector(half, v_i32) << 16);
}
#    endif
#    ifndef v_round_bf16
/* As wn_f32_to_bf16; the result is in the upper halves. */
static inline v_i32 v_round_bf16(v_f32 v) {
    v_i32 is_nan = v != v, bits = v_bits_f32(v), number = bits & ~is_nan; /* no overflow */
    return ((number + 0x7fff + (number >> 16 & 1)) & ~is_nan) | ((bits | 0x400000) & is_nan);
}
#    endif
static inline void v_store_bf16(void *p, v_f32 v) {
    v_u16 half = v_high_u16(v_round_bf16(v));
    memcpy(p, &half, sizeof half);
}
#endif

/* As part of a v_f32. */
#define WN_WIDE(T)                                                                                           \
    static inline v_f64 v_wide_##T(const void *p) {                                                          \
        uint16_t half[V_F32] = {0};                                                                          \
        float narrow[V_F32];                                                                                 \
        memcpy(half, p, V_F64 * sizeof *half);                                                               \
        v_store_f32(narrow, v_load_##T(half));                                                               \
        return v_wide_f32(narrow);                                                                           \
    }
#ifndef v_wide_f16
WN_WIDE(f16)
#endif
#ifndef v_wide_bf16
WN_WIDE(bf16)
#endif
#undef WN_WIDE

#ifndef v_stream_u16
static inline void v_stream_f16(void *p, v_f32 v) { v_store_f16(p, v); }
static inline void v_stream_bf16(void *p, v_f32 v) { v_store_bf16(p, v); }
#endif

#ifndef v_load_part_u16
static inline v_u16 v_load_part_u16(const void *p, size_t n) {
    uint16_t half[V_F32] = {0};
    v_u16 v;
    for (size_t i = 0; i < V_F32; i++) /* a memcpy of unknown length is a call */
        if (i < n) memcpy(half + i, (const char *)p + i * sizeof *half, sizeof *half);
    memcpy(&v, half, sizeof v);
    return v;
}
static inline void v_store_part_u16(void *p, v_u16 v, size_t n) {
    uint16_t half[V_F32];
    memcpy(half, &v, sizeof v);
    for (size_t i = 0; i < V_F32; i++)
        if (i < n) memcpy((char *)p + i * sizeof *half, half + i, sizeof *half);
}
#endif
#ifndef v_store_head_u16
#    define v_store_head_u16 v_store_part_u16
#endif

#ifndef v_fill_f64
static inline v_f64 v_fill_f64(v_f64 v, size_t n, double fill) {
    double lane[V_F64];
    v_store_f64(lane, v);
    for (size_t i = 0; i < V_F64; i++)
        if (i >= n) lane[i] = fill;
    return v_load_f64(lane);
}
#endif

/* Parts of vectors of 16-bit elements, by way of whole ones. */
#define WN_PARTS(T)                                                                                          \
    static WN_NOINLINE v_f32 v_load_part_##T(const void *p, size_t n) {                                      \
        v_u16 half = v_load_part_u16(p, n);                                                                  \
        return v_load_##T(&half);                                                                            \
    }                                                                                                        \
    static WN_NOINLINE void v_store_part_##T(void *p, v_f32 v, size_t n) {                                   \
        v_u16 half;                                                                                          \
        v_store_##T(&half, v);                                                                               \
        v_store_part_u16(p, half, n);                                                                        \
    }                                                                                                        \
    static WN_NOINLINE void v_store_head_##T(void *p, v_f32 v, size_t n) {                                   \
        v_u16 half;                                                                                          \
        v_store_##T(&half, v);                                                                               \
        v_store_head_u16(p, half, n);                                                                        \
    }                                                                                                        \
    static WN_NOINLINE v_f64 v_wide_part_##T(const void *p, size_t n, double fill) {                         \
        v_u16 half = v_load_part_u16(p, n);                                                                  \
        return v_fill_f64(v_wide_##T(&half), n, fill);                                                       \
    }
WN_PARTS(f16)
WN_PARTS(bf16)
#undef WN_PARTS

#ifndef v_sum_f64
static inline double v_sum_f64(v_f64 v) {
    double lane[V_F64];
    memcpy(lane, &v, sizeof lane);
    for (size_t half = V_F64 / 2; half > 0; half /= 2)
        for (size_t i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}
#endif

#endif
