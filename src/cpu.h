/* What this CPU, and the operating system on it, can run; and how it rounds. */
#ifndef WN_CPU_H
#define WN_CPU_H

#include <fenv.h>

enum {
    WN_CPU_AVX2 = 1,   /* AVX2, FMA and F16C */
    WN_CPU_AVX512 = 2, /* AVX-512 F, BW, DQ and VL, and all of WN_CPU_AVX2 */
    WN_CPU_NEON = 4
};

unsigned wn_cpu_features(void);

/* The floating-point environment of what we compile: on x86-64 not that of the x87, which takes ten times as
 * long to get or set. */
#ifdef __x86_64__
typedef unsigned wn_environment;
#else
typedef fenv_t wn_environment;
#endif
wn_environment wn_get_environment(void);
void wn_set_environment(wn_environment environment);

#endif
