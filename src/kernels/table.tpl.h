/* Every kernel for every dtype, and the one symbol an instruction set exports. The includer has included
 * its simd header and defined ISA. A dtype is a block here: its storage type T, compute type C (COMPUTE
 * names its vectors, V_N counts their elements), and whether its sums have no digits to spare. */
#include "../dispatch.h"

#include <stdint.h>

#define LANES 32
/* How often M2 the squared distance of shift and mean may be: it costs 20 of float64's 53 bits, which leaves
 * float32 its 24 and some. */
#define MAX_EXCESS 0x1p20
#if defined(__GNUC__) && !defined(__clang__)
#    define UNROLL _Pragma("GCC unroll 8")
#elif defined(__clang__)
#    define UNROLL _Pragma("clang loop unroll_count(8)")
#else
#    define UNROLL
#endif
#ifdef __GNUC__
#    define ALWAYS_INLINE inline __attribute__((always_inline))
#else
#    define ALWAYS_INLINE inline
#endif

#define DTYPE f32
#define COMPUTE f32
#define T float
#define C float
#define V_N V_F32
#define IS_FLOAT64 0
#include "dtype.tpl.h"
#undef IS_FLOAT64
#undef V_N
#undef C
#undef T
#undef COMPUTE
#undef DTYPE

#define DTYPE f64
#define COMPUTE f64
#define T double
#define C double
#define V_N V_F64
#define IS_FLOAT64 1
#include "dtype.tpl.h"
#undef IS_FLOAT64
#undef V_N
#undef C
#undef T
#undef COMPUTE
#undef DTYPE

#define TABLE_(isa) wn_kernels_##isa
#define TABLE(isa) TABLE_(isa)
#define NAME_(isa) #isa
#define NAME(isa) NAME_(isa)

const wn_kernels TABLE(ISA) = {
    .isa = NAME(ISA),
    .dtype =
        {
#define WN_KERNEL(result, name, arguments) .name = WN_ENTRY(name),
#define WN_ENTRY(name) name##_f32
            [WN_f32] =
                {
#include "../kernels.def"
                },
#undef WN_ENTRY
#define WN_ENTRY(name) name##_f64
            [WN_f64] =
                {
#include "../kernels.def"
                },
#undef WN_ENTRY
#undef WN_KERNEL
        },
};
