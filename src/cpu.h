/* What this CPU, and the operating system on it, can run. */
#ifndef WN_CPU_H
#define WN_CPU_H

enum {
    WN_CPU_AVX2 = 1,   /* AVX2, FMA and F16C */
    WN_CPU_AVX512 = 2, /* AVX-512 F, BW, DQ and VL, and all of WN_CPU_AVX2 */
    WN_CPU_NEON = 4
};

unsigned wn_cpu_features(void);

#endif
