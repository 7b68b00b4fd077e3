/* Every kernel for every dtype, and the one symbol an instruction set exports. The includer has included
 * its simd header and defined ISA. A dtype is a block here: its storage type T and the way from that to
 * double; its compute type C (COMPUTE names its vectors, V_N counts their elements), with an integer type of
 * that size and a function that rounds; whether its sums have no digits to spare; whether T is
 * not C; how far to unroll the apply step. */
#include "../dispatch.h"

#include <stdint.h>

#define LANES 32
/* Bytes that are fetched ahead of what is read: into L1, and before that into L2 what may come from memory.
 * As far ahead into L1, they would be driven out again, and hold up what is waited for. PAGE_AHEAD is for L2
 * alone. */
enum { AHEAD = 2048, PAGE_AHEAD = 4096, FAR_AHEAD = 16384 };
/* Where the data of a loop are: well within the last-level cache; much of it, or more (wn_affine's `far`);
 * past it, as results go (`stream`), or before the first whole line of such a row. */
enum { NEAR, FAR, PAST, EDGE };
enum { LEAST_L1 = 32768 }; /* of the CPUs that there are */
enum { PAGE = 4096 };      /* what lies so far apart is alike to L1, and the hardware fetches no further */
/* Whether sums are woven into the apply step (rows.tpl.h, woven.tpl.h): float64's take two passes, and the
 * portable table, which few CPUs need, stays small. */
#ifdef WN_PORTABLE
#    define WEAVES 0
#    define UNROLL_WIDE UNROLL_LITTLE
#    define UNROLL_SQUARES UNROLL_LITTLE
#else
#    define WEAVES (!IS_FLOAT64)
#    define UNROLL_WIDE UNROLL
#    define UNROLL_SQUARES UNROLL_MOST
#endif
/* How often M2 the squared distance of shift and mean may be: it costs 20 of float64's 53 bits, which leaves
 * float32 its 24 and some. */
#define MAX_EXCESS 0x1p20
/* The mean of squares from which on float32 sums lose nothing to the end of its range. */
#define LEAST_SQUARE 0x1p-100
#if defined(__GNUC__) && !defined(__clang__)
#    define UNROLL _Pragma("GCC unroll 8")
#    define UNROLL_MOST _Pragma("GCC unroll 16")
#    define UNROLL_LITTLE _Pragma("GCC unroll 2")
#    define UNROLL_NONE _Pragma("GCC unroll 1")
#elif defined(__clang__)
#    define UNROLL _Pragma("clang loop unroll_count(8)")
#    define UNROLL_MOST _Pragma("clang loop unroll_count(16)")
#    define UNROLL_LITTLE _Pragma("clang loop unroll_count(2)")
#    define UNROLL_NONE _Pragma("clang loop unroll(disable)")
#else
#    define UNROLL
#    define UNROLL_MOST
#    define UNROLL_LITTLE
#    define UNROLL_NONE
#endif
#ifdef __GNUC__
#    define ALWAYS_INLINE inline __attribute__((always_inline))
#    define PREFETCH(p) __builtin_prefetch(p)
#    define PREFETCH_L2(p) __builtin_prefetch(p, 0, 2)
#else
#    define ALWAYS_INLINE inline
#    define PREFETCH(p) ((void)(p))
#    define PREFETCH_L2(p) ((void)(p))
#endif

#define CAT_(a, b) a##_##b
#define CAT(a, b) CAT_(a, b)

/* The least normal and the largest number; constants of activation.tpl.h: where exp is 0 and where 2^n would
 * be subnormal, with the step in n that avoids it; the number whose last place is 1, halfway; ln 2 in a part
 * with zeros at its end and a rest; 1 / k! from k = 2. */
#define COMPUTE f32
#define INTEGER i32
#define C float
#define EXP_ZERO -104.0f
#define EXP_SMALL -80.0f
#define EXP_STEP 64
#define EXP_STEP_BACK 0x1p-64f
#define EXPONENT_BIAS 127
#define C_LEAST FLT_MIN
#define C_MOST FLT_MAX
#define MANTISSA_BITS 23
#define ROUND_MAGIC 0x1.8p23f
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW 0x1.7f7d1cp-20f
#define EXP_SERIES                                                                                           \
    0x1.0000000000000p-1f, 0x1.5555555555555p-3f, 0x1.5555555555555p-5f, 0x1.1111111111111p-7f,              \
        0x1.6c16c16c16c17p-10f, 0x1.a01a01a01a01ap-13f,
#define NORMAL_TAIL_ZERO 14.5f
#define MILLS_A 4.0
#define MILLS                                                                                                \
    0x1.d00c14416c22ap-2f, -0x1.0081f1096a5e1p-4f, -0x1.646457fb914eep-7f, 0x1.5fc6bf5886b8bp-5f,            \
        -0x1.3a5540920d73dp-5f, 0x1.41c1fd5057bd2p-6f, -0x1.4e764162e8caap-8f, -0x1.c32f42a97e58ap-12f,      \
        0x1.7ca57aa05684ap-11f, -0x1.c8d96fa67a75bp-15f, -0x1.3c0c25c4008c6p-14f,
#include "activation.tpl.h"
#include "finish.tpl.h"
#undef MILLS
#undef MILLS_A
#undef NORMAL_TAIL_ZERO
#undef EXP_SERIES
#undef LN2_LOW
#undef LN2_HIGH
#undef ROUND_MAGIC
#undef MANTISSA_BITS
#undef C_MOST
#undef C_LEAST
#undef EXPONENT_BIAS
#undef EXP_STEP_BACK
#undef EXP_STEP
#undef EXP_SMALL
#undef EXP_ZERO
#undef C
#undef INTEGER
#undef COMPUTE

#define COMPUTE f64
#define INTEGER i64
#define C double
#define EXP_ZERO -746.0
#define EXP_SMALL -700.0
#define EXP_STEP 128
#define EXP_STEP_BACK 0x1p-128
#define EXPONENT_BIAS 1023
#define C_LEAST DBL_MIN
#define C_MOST DBL_MAX
#define MANTISSA_BITS 52
#define ROUND_MAGIC 0x1.8p52
#define LN2_HIGH 0x1.62e42fefa38p-1
#define LN2_LOW 0x1.ef35793c7673p-45
#define EXP_SERIES                                                                                           \
    0x1.0000000000000p-1, 0x1.5555555555555p-3, 0x1.5555555555555p-5, 0x1.1111111111111p-7,                  \
        0x1.6c16c16c16c17p-10, 0x1.a01a01a01a01ap-13, 0x1.a01a01a01a01ap-16, 0x1.71de3a556c734p-19,          \
        0x1.27e4fb7789f5cp-22, 0x1.ae64567f544e4p-26, 0x1.1eed8eff8d898p-29, 0x1.6124613a86d09p-33,
#define NORMAL_TAIL_ZERO 39.0
#define MILLS_A 4.5
#define MILLS                                                                                                \
    0x1.cc3eb654b053fp-2, -0x1.0325716413271p-4, -0x1.41062fe756b18p-12, 0x1.1a5f2540498e2p-5,               \
        -0x1.3b35069b0784cp-5, 0x1.a76e5407c50e5p-6, -0x1.76c9dfe6c2ce1p-7, 0x1.6a93a7a68edb5p-9,            \
        0x1.765e68ea9b8b6p-13, -0x1.87aed71f7fffdp-12, 0x1.1fbf23c5ca37dp-14, 0x1.33afe1dd26efbp-15,         \
        -0x1.f519e9016eaeep-17, -0x1.0aace3e47347cp-18, 0x1.59856beb93e19p-19, 0x1.3ab2022901d03p-21,        \
        -0x1.ce340f8df5d28p-22, -0x1.ffea841c31f62p-24, 0x1.25c3b72ec225cp-24, 0x1.cc508112b30e8p-26,        \
        -0x1.2d61a0ed3e295p-27, -0x1.501dbee8f138bp-28, 0x1.3d8739446cb6cp-31, 0x1.ef23194e60f29p-32,
#include "activation.tpl.h"
#include "finish.tpl.h"
#undef MILLS
#undef MILLS_A
#undef NORMAL_TAIL_ZERO
#undef EXP_SERIES
#undef LN2_LOW
#undef LN2_HIGH
#undef ROUND_MAGIC
#undef MANTISSA_BITS
#undef C_MOST
#undef C_LEAST
#undef EXPONENT_BIAS
#undef EXP_STEP_BACK
#undef EXP_STEP
#undef EXP_SMALL
#undef EXP_ZERO
#undef C
#undef INTEGER
#undef COMPUTE

#define DTYPE f32
#define UNROLL_APPLY UNROLL_WIDE
#define COMPUTE f32
#define T float
#define C float
#define C_BITS uint32_t
#define C_RINT rintf
#define V_N V_F32
#define IS_FLOAT64 0
#define IS_16BIT 0
#define TO_DOUBLE(value) (double)(value)
#include "dtype.tpl.h"
#undef TO_DOUBLE
#undef IS_16BIT
#undef IS_FLOAT64
#undef V_N
#undef C_RINT
#undef C_BITS
#undef C
#undef T
#undef COMPUTE
#undef UNROLL_APPLY
#undef DTYPE

#define DTYPE f64
#define UNROLL_APPLY UNROLL_WIDE
#define COMPUTE f64
#define T double
#define C double
#define C_BITS uint64_t
#define C_RINT rint
#define V_N V_F64
#define IS_FLOAT64 1
#define IS_16BIT 0
#define TO_DOUBLE(value) (value)
#include "dtype.tpl.h"
#undef TO_DOUBLE
#undef IS_16BIT
#undef IS_FLOAT64
#undef V_N
#undef C_RINT
#undef C_BITS
#undef C
#undef T
#undef COMPUTE
#undef UNROLL_APPLY
#undef DTYPE

#define DTYPE f16
#define UNROLL_APPLY UNROLL_LITTLE
#define COMPUTE f32
#define T uint16_t
#define C float
#define C_BITS uint32_t
#define C_RINT rintf
#define V_N V_F32
#define IS_FLOAT64 0
#define IS_16BIT 1
#define TO_DOUBLE(value) (double)wn_f16_to_f32(value)
#include "dtype.tpl.h"
#undef TO_DOUBLE
#undef IS_16BIT
#undef IS_FLOAT64
#undef V_N
#undef C_RINT
#undef C_BITS
#undef C
#undef T
#undef COMPUTE
#undef UNROLL_APPLY
#undef DTYPE

#define DTYPE bf16
#define UNROLL_APPLY UNROLL_LITTLE
#define COMPUTE f32
#define T uint16_t
#define C float
#define C_BITS uint32_t
#define C_RINT rintf
#define V_N V_F32
#define IS_FLOAT64 0
#define IS_16BIT 1
#define TO_DOUBLE(value) (double)wn_bf16_to_f32(value)
#include "dtype.tpl.h"
#undef TO_DOUBLE
#undef IS_16BIT
#undef IS_FLOAT64
#undef V_N
#undef C_RINT
#undef C_BITS
#undef C
#undef T
#undef COMPUTE
#undef UNROLL_APPLY
#undef DTYPE

#define finish_cols_f16 finish_cols_f32
#define finish_cols_bf16 finish_cols_f32

#include "copy.tpl.h"

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
#define WN_ENTRY(name) name##_f16
            [WN_f16] =
                {
#include "../kernels.def"
                },
#undef WN_ENTRY
#define WN_ENTRY(name) name##_bf16
            [WN_bf16] =
                {
#include "../kernels.def"
                },
#undef WN_ENTRY
#undef WN_KERNEL
        },
};
