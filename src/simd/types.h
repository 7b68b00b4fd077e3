/* Vector types of WN_VECTOR_BYTES bytes: GCC's and Clang's vector extension, so that formulas are operators.
 */
#ifndef WN_SIMD_TYPES_H
#define WN_SIMD_TYPES_H

#ifdef WN_SCALAR
typedef float v_f32, v_f32_narrow;
typedef double v_f64;
#    define V_F32 1
#    define V_F64 1
#    define V_SPLAT(type, s) (s)
#else
typedef float v_f32 __attribute__((vector_size(WN_VECTOR_BYTES)));
typedef double v_f64 __attribute__((vector_size(WN_VECTOR_BYTES)));
/* as many floats as a v_f64 has doubles */
typedef float v_f32_narrow __attribute__((vector_size(WN_VECTOR_BYTES / 2)));
#    define V_F32 (WN_VECTOR_BYTES / 4)
#    define V_F64 (WN_VECTOR_BYTES / 8)
#    define V_SPLAT(type, s) ((s) - (type){0}) /* minus, which keeps -0.0 */
#endif

#endif
