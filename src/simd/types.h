/* Vector types of WN_VECTOR_BYTES bytes: GCC's and Clang's vector extension, so that formulas are operators.
 */
#ifndef WN_SIMD_TYPES_H
#define WN_SIMD_TYPES_H

#include <stdint.h>

#ifdef WN_SCALAR
typedef float v_f32, v_f32_narrow;
typedef double v_f64;
typedef uint16_t v_u16;
typedef uint32_t v_i32; /* bits: without a sign, whose shift C does not define */
typedef uint64_t v_i64;
#    define V_F32 1
#    define V_F64 1
#    define V_SPLAT(type, s) (s)
#    define V_WHERE(condition)                                                                               \
        ((v_i64)0 - (condition)) /* a comparison as a mask: all bits of an element, or none */
#else
typedef float v_f32 __attribute__((vector_size(WN_VECTOR_BYTES)));
typedef double v_f64 __attribute__((vector_size(WN_VECTOR_BYTES)));
typedef int32_t v_i32 __attribute__((vector_size(WN_VECTOR_BYTES)));
typedef int64_t v_i64 __attribute__((vector_size(WN_VECTOR_BYTES)));
/* as many floats as a v_f64 has doubles */
typedef float v_f32_narrow __attribute__((vector_size(WN_VECTOR_BYTES / 2)));
/* as many 16-bit elements as a v_f32 has floats */
typedef uint16_t v_u16 __attribute__((vector_size(WN_VECTOR_BYTES / 2)));
#    define V_F32 (WN_VECTOR_BYTES / 4)
#    define V_F64 (WN_VECTOR_BYTES / 8)
#    define V_SPLAT(type, s) ((s) - (type){0}) /* minus, which keeps -0.0 */
#    define V_WHERE(condition) (condition)
#endif

#endif
