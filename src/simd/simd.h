/* The vector vocabulary: what the kernels need beyond the operators of GCC and Clang vector types.
 *
 * An ISA header defines WN_VECTOR_BYTES (or WN_SCALAR), overrides what it does better by defining the
 * function and a macro of the same name, then includes this file, which fills in generic defaults. f32
 * and f64 vectors are v_f32 and v_f64, of V_F32 and V_F64 elements. Addresses need no alignment.
 *
 *   v_set_T(s)                    all elements s
 *   v_load_T(p), v_store_T(p, v)  a whole vector
 *   v_load_part_T(p, n), v_store_part_T(p, v, n)  the first n (0 < n < V_T) elements; the rest read 0
 *   v_stream_T(p, v)              a whole vector to an aligned address, past the cache where that exists;
 *   v_stream_end()                before others may read what was streamed
 *   v_fma_T(a, b, c)              a * b + c; rounded once where the instruction set has it
 *   v_wide_T(p)                   V_F64 elements of T as a v_f64
 *   v_wide_part_T(p, n, fill)     the first n of them; the rest are fill
 *   v_sum_f64(v)                  sum of the elements, by halves: (i) + (i + half), again and again
 */
#ifndef WN_SIMD_H
#define WN_SIMD_H

#include "types.h"

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

#ifndef v_stream_f32
static inline void v_stream_f32(void *p, v_f32 v) { v_store_f32(p, v); }
static inline void v_stream_f64(void *p, v_f64 v) { v_store_f64(p, v); }
static inline void v_stream_end(void) {}
#endif

#ifndef v_fma_f32
static inline v_f32 v_fma_f32(v_f32 a, v_f32 b, v_f32 c) { return a * b + c; }
#endif

#ifndef v_fma_f64
static inline v_f64 v_fma_f64(v_f64 a, v_f64 b, v_f64 c) { return a * b + c; }
#endif

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
