/* Portable: any C11 compiler. Where GCC's vector types exist, 16 bytes, which every 64-bit processor has;
 * else (or with WN_SCALAR) width 1. No FMA: this table keeps the accuracy of the others, not their bits. */
#ifndef __GNUC__
#    define WN_SCALAR
#endif
#define WN_VECTOR_BYTES 16
#define WN_PORTABLE

#include "simd.h"
