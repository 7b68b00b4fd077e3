/* The apply step over contiguous elements. Included once per instruction set and dtype by dtype.tpl.h.
 *
 * y = ((x - mean_hi) * rstd - mean_lo * rstd) * weight + bias, each product fused with its sum. The mean
 * as a pair of compute-type values is what keeps float32 right at any offset: x - mean_hi is exact or
 * nearly so, and what mean_hi lacks comes back in the constant. */

typedef struct {
    V mean_hi, rstd, offset;
} FN(norm_v);

static inline FN(norm_v) FN(spread)(const wn_norm *norm) {
    C mean_hi = (C)norm->mean;
    C mean_lo = (C)((norm->mean - (double)mean_hi) + norm->mean_lo);
    C rstd = (C)norm->rstd;
    return (FN(norm_v)){V_SET(mean_hi), V_SET(rstd), V_SET(-mean_lo * rstd)};
}

static inline V FN(normalize)(V x, const FN(norm_v) * norm) {
    return V_FMA(x - norm->mean_hi, norm->rstd, norm->offset);
}

/* One parameter, from an address that may not be aligned. */
static inline C FN(parameter)(const C *p) {
    C value;
    memcpy(&value, p, sizeof value);
    return value;
}

/* One combination of weight and bias, present or not, per element or not: the flags are constants at each
 * call, so each becomes a loop of its own. */
static ALWAYS_INLINE void FN(apply_with)(const T *x, T *y, size_t n, const wn_norm *norm, const C *weight,
                                         const C *bias, int has_weight, int has_bias, int vary) {
    FN(norm_v) nv = FN(spread)(norm);
    V w = V_SET(has_weight ? FN(parameter)(weight) : 1), b = V_SET(has_bias ? FN(parameter)(bias) : 0);
    size_t i = 0;
    UNROLL for (; i + V_N <= n; i += V_N) {
        V v = FN(normalize)(V_LOAD(x + i), &nv);
        if (has_weight && vary) w = V_LOAD_C(weight + i);
        if (has_bias && vary) b = V_LOAD_C(bias + i);
        v = has_bias ? V_FMA(v, w, b) : has_weight ? v * w : v;
        V_STORE(y + i, v);
    }
    if (i < n) {
        V v = FN(normalize)(V_LOAD_PART(x + i, n - i), &nv);
        if (has_weight && vary) w = V_LOAD_PART_C(weight + i, n - i);
        if (has_bias && vary) b = V_LOAD_PART_C(bias + i, n - i);
        v = has_bias ? V_FMA(v, w, b) : has_weight ? v * w : v;
        V_STORE_PART(y + i, v, n - i);
    }
}

static inline void FN(apply_run)(const void *x, void *y, size_t n, const wn_norm *norm, const void *weight,
                                 const void *bias, int affine_step) {
    static const C one = 1, zero = 0;
    if (!weight && !bias)
        FN(apply_with)(x, y, n, norm, NULL, NULL, 0, 0, 0);
    else if (!affine_step)
        FN(apply_with)(x, y, n, norm, weight ? weight : &one, bias ? bias : &zero, 1, 1, 0);
    else if (weight && bias)
        FN(apply_with)(x, y, n, norm, weight, bias, 1, 1, 1);
    else if (weight)
        FN(apply_with)(x, y, n, norm, weight, NULL, 1, 0, 1);
    else
        FN(apply_with)(x, y, n, norm, NULL, bias, 0, 1, 1);
}

/* The next row's statistics come before this row's apply: its additions fill the wait for the square root and
 * the division. */
static size_t FN(norm_run)(const void *x, ptrdiff_t x_stride, void *y, ptrdiff_t y_stride, size_t row_count,
                           size_t n, const void *weight, const void *bias, double eps) {
    double count = (double)n, inverse_count = 1.0 / count;
    wn_state state = FN(block_moments)(&x, 1, n, count, inverse_count);
    for (size_t row = 0; row < row_count; row++) {
        const void *next = (const char *)x + x_stride;
        wn_norm norm = wn_finish(&state, eps);
        if (IS_WIDE(&norm, state.m2, eps)) return row;
        if (row + 1 < row_count) state = FN(block_moments)(&next, 1, n, count, inverse_count);
        FN(apply_run)(x, y, n, &norm, weight, bias, 1);
        x = next;
        y = (char *)y + y_stride;
    }
    return row_count;
}
