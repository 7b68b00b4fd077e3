/* Portable: any C11 compiler. Where GCC's vector types exist, 16 bytes, which every 64-bit processor has;
 * else (or with WN_SCALAR) width 1. No FMA: this table keeps the accuracy of the others, not their bits. */
#ifndef __GNUC__
#    define WN_SCALAR
#endif
#define WN_VECTOR_BYTES 16
#define WN_PORTABLE

#if defined(__SSE2__) && !defined(WN_SCALAR)
#    include <emmintrin.h>
#    include "types.h"
/* GCC 12 makes a conversion for each element of __builtin_convertvector */
#    define v_wide_f32 v_wide_f32
static inline v_f64 v_wide_f32(const void *p) { return _mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64(p))); }
#endif

#include "simd.h"
