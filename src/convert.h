/* One element from float16 or bfloat16 to float and back, to nearest even. Integers and sums of normal
 * numbers only: the bits are those of F16C and NEON, even where the CPU flushes subnormal numbers to zero. */
#ifndef WN_CONVERT_H
#define WN_CONVERT_H

#include <stdint.h>
#include <string.h>

static inline float wn_float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t wn_bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float wn_f16_to_f32(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = (uint32_t)(half & 0x7fff) << 13;
    if (magnitude >= 0x7c00u << 13) return wn_float_of(sign | 0x7f800000 | magnitude); /* inf, NaN */
    if (magnitude >= 0x0400u << 13) return wn_float_of(sign | (magnitude + (112u << 23)));
    /* subnormal: as the fraction of a number just above 2^-14, which is then taken off */
    float value = wn_float_of(magnitude + (113u << 23)) - wn_float_of(113u << 23);
    return wn_float_of(sign | wn_bits_of(value));
}

static inline uint16_t wn_f32_to_f16(float value) {
    uint32_t bits = wn_bits_of(value), magnitude = bits & 0x7fffffff, half;
    if (magnitude > 0x7f800000)
        half = 0x7e00 | (magnitude >> 13 & 0x3ff); /* NaN, quiet */
    else if (magnitude >= 0x477ff000)
        half = 0x7c00; /* from 65520 on it rounds to inf */
    else if (magnitude >= 0x38800000)
        half = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    else /* below 2^-14: adding a half rounds at a subnormal's last place */
        half = wn_bits_of(wn_float_of(magnitude) + 0.5f) - wn_bits_of(0.5f);
    return (uint16_t)(half | (bits >> 16 & 0x8000));
}

static inline float wn_bf16_to_f32(uint16_t half) { return wn_float_of((uint32_t)half << 16); }

static inline uint16_t wn_f32_to_bf16(float value) {
    uint32_t bits = wn_bits_of(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#endif
