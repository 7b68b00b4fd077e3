#include "cpu.h"

#if defined(__AVX__) || defined(__SSE3__)
#    error "CPU detection runs before the CPU is known: build it for the baseline"
#endif

#if defined(__x86_64__) && defined(__GNUC__)
#    include <cpuid.h>
#    include <stdint.h>

/* The register states the operating system saves (XCR0). A CPU may have AVX on a system that does not
 * save its registers: only OSXSAVE together with XGETBV tells. */
static uint64_t saved_states(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

unsigned wn_cpu_features(void) {
    const unsigned leaf1 = bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C;
    const unsigned leaf7_avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    const uint64_t ymm = 0x06, zmm = 0xe6; /* SSE, AVX; and the three AVX-512 states */
    unsigned eax, ebx, ecx, edx, features = 0;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & leaf1) != leaf1) return features;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return features;
    uint64_t saved = saved_states();
    if ((saved & ymm) == ymm && (ebx & bit_AVX2)) features |= WN_CPU_AVX2;
    if (features && (saved & zmm) == zmm && (ebx & leaf7_avx512) == leaf7_avx512) features |= WN_CPU_AVX512;
    return features;
}

#elif defined(__aarch64__)
unsigned wn_cpu_features(void) { return WN_CPU_NEON; }
#else
unsigned wn_cpu_features(void) { return 0; }
#endif

#ifdef __x86_64__
#    include <xmmintrin.h>
wn_environment wn_get_environment(void) { return _mm_getcsr(); }
void wn_set_environment(wn_environment environment) { _mm_setcsr(environment); }
#else
wn_environment wn_get_environment(void) {
    fenv_t environment;
    fegetenv(&environment);
    return environment;
}
void wn_set_environment(wn_environment environment) { fesetenv(&environment); }
#endif
