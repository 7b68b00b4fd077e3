/* What follows the affine step where the result is not of x's dtype: an activation in place, int8. Included
 * once per instruction set and dtype by dtype.tpl.h; y is of the compute type. */

static void FN(activate)(void *y, size_t n, wn_activation activation) {
    C *p = y;
    size_t i = 0;
    for (; i + V_N <= n; i += V_N) V_STORE_C(p + i, ACTIVATE(V_LOAD_C(p + i), activation));
    if (i < n) V_STORE_PART_C(p + i, ACTIVATE(V_LOAD_PART_C(p + i, n - i), activation), n - i);
}

/* Magnitudes compare as their bits do, and NaN is above them all. */
static double FN(max_magnitude)(const void *y, size_t n) {
    const char *p = y;
    C_BITS most = 0;
    C result;
    for (size_t i = 0; i < n; i++) {
        C_BITS bits;
        memcpy(&bits, p + i * sizeof bits, sizeof bits);
        bits &= (C_BITS)-1 >> 1;
        most = bits > most ? bits : most;
    }
    memcpy(&result, &most, sizeof result);
    return (double)result;
}

static void FN(quantize)(const void *y, int8_t *q, size_t n, double scale) {
    const char *p = y;
    C divisor = (C)scale;
    for (size_t i = 0; i < n; i++) {
        C value;
        memcpy(&value, p + i * sizeof value, sizeof value);
        value /= divisor;
        value = value > 127 ? 127 : value < -127 ? -127 : value == value ? value : 0;
        q[i] = (int8_t)(int)C_RINT(value);
    }
}
