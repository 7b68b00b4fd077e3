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

/* What becomes of a vector, or of a part of one: `part` elements, 0 for all. */
static ALWAYS_INLINE V FN(result)(const T *x, size_t part, const FN(norm_v) * norm, const wn_affine *affine,
                                  V w, V b, int has_weight, int has_bias, int is_plain) {
    V v = FN(normalize)(part ? V_LOAD_PART(x, part) : V_LOAD(x), norm);
    v = has_bias ? V_FMA(v, w, b) : has_weight ? v * w : v;
    if (!is_plain && affine->activation) v = ACTIVATE(v, affine->activation);
    return v;
}

/* One combination of weight and bias, present or not, per element or not: the flags are constants at each
 * call, so each becomes a loop of its own. Any activation and another type of result are one more. */
static ALWAYS_INLINE void FN(apply_with)(const T *x, void *to, size_t n, const wn_norm *norm,
                                         const wn_affine *affine, int has_weight, int has_bias, int vary,
                                         int is_plain) {
    static const C one = 1, zero = (C)-0.0; /* adds nothing to either zero */
    const C *weight = affine->weight ? affine->weight : &one, *bias = affine->bias ? affine->bias : &zero;
    FN(norm_v) nv = FN(spread)(norm);
    V w = V_SET(has_weight ? FN(parameter)(weight) : 1), b = V_SET(has_bias ? FN(parameter)(bias) : zero);
    size_t i = 0, part;
#define LOAD_PARAMETERS                                                                                      \
    if (has_weight && vary && (is_plain || affine->weight))                                                  \
        w = part ? V_LOAD_PART_C(weight + i, part) : V_LOAD_C(weight + i);                                   \
    if (has_bias && vary && (is_plain || affine->bias))                                                      \
        b = part ? V_LOAD_PART_C(bias + i, part) : V_LOAD_C(bias + i);
    if (is_plain && affine->stream && (uintptr_t)to % sizeof(T) == 0) {
        part = (size_t)(-(uintptr_t)to % (V_N * sizeof(T))) / sizeof(T); /* up to an aligned address */
        if (part > n) part = n;
        if (part) {
            LOAD_PARAMETERS
            V_STORE_PART((T *)to, FN(result)(x, part, &nv, affine, w, b, has_weight, has_bias, 1), part);
        }
        i = part, part = 0;
        UNROLL_LITTLE for (; i + V_N <= n; i += V_N) {
            LOAD_PARAMETERS
            if (affine->ahead) PREFETCH((const T *)affine->ahead + i);
            V_STREAM((T *)to + i, FN(result)(x + i, 0, &nv, affine, w, b, has_weight, has_bias, 1));
        }
    }
    part = 0;
    UNROLL_APPLY for (; i + V_N <= n; i += V_N) {
        LOAD_PARAMETERS
        V v = FN(result)(x + i, 0, &nv, affine, w, b, has_weight, has_bias, is_plain);
        if (is_plain || !affine->to_compute)
            V_STORE((T *)to + i, v);
        else
            V_STORE_C((C *)to + i, v);
    }
    if (i < n) {
        part = n - i;
        LOAD_PARAMETERS
        V v = FN(result)(x + i, part, &nv, affine, w, b, has_weight, has_bias, is_plain);
        if (is_plain || !affine->to_compute)
            V_STORE_PART((T *)to + i, v, part);
        else
            V_STORE_PART_C((C *)to + i, v, part);
    }
#undef LOAD_PARAMETERS
}

static WN_NOINLINE void FN(apply_run)(const void *x, void *y, size_t n, const wn_norm *norm,
                                      const wn_affine *affine) {
    if (affine->activation || (IS_16BIT && affine->to_compute)) {
        if (affine->advance)
            FN(apply_with)(x, y, n, norm, affine, 1, 1, 1, 0);
        else
            FN(apply_with)(x, y, n, norm, affine, 1, 1, 0, 0);
    } else if (!affine->weight && !affine->bias)
        FN(apply_with)(x, y, n, norm, affine, 0, 0, 0, 1);
    else if (!affine->advance)
        FN(apply_with)(x, y, n, norm, affine, 1, 1, 0, 1);
    else if (affine->weight && affine->bias)
        FN(apply_with)(x, y, n, norm, affine, 1, 1, 1, 1);
    else if (affine->weight)
        FN(apply_with)(x, y, n, norm, affine, 1, 0, 1, 1);
    else
        FN(apply_with)(x, y, n, norm, affine, 0, 1, 1, 1);
}

/* Two rows at a time share the loads of weight and bias, which long rows find in L2 only. Returns the rows
 * done: all pairs before one of which a row is for the wide path. */
static size_t FN(norm_pairs)(const char *x, ptrdiff_t x_stride, char *y, ptrdiff_t y_stride, size_t row_count,
                             size_t n, const wn_affine *affine, double eps, int centred) {
    const C *weight = affine->weight, *bias = affine->bias;
    wn_state state[2];
    size_t row = 0;
    for (; row + 2 <= row_count; row += 2, x += 2 * x_stride, y += 2 * y_stride) {
        const void *rows[4] = {x, x + x_stride, x + 2 * x_stride, x + 3 * x_stride};
        for (size_t r = 0; row == 0 && r < 2; r++) FN(moments_run)(&rows[r], 1, n, centred, &state[r]);
        wn_norm first = wn_finish(&state[0], eps), second = wn_finish(&state[1], eps);
        if (IS_WIDE(&first, state[0].m2, eps) || IS_WIDE(&second, state[1].m2, eps)) break;
        for (size_t r = 2; row + 4 <= row_count && r < 4; r++)
            FN(moments_run)(&rows[r], 1, n, centred, &state[r - 2]);
        FN(norm_v) a = FN(spread)(&first), b = FN(spread)(&second);
        const T *x0 = rows[0], *x1 = rows[1];
        T *y0 = (T *)y, *y1 = (T *)(y + y_stride);
        size_t i = 0;
        UNROLL_LITTLE for (; i + V_N <= n; i += V_N) {
            V w = V_LOAD_C(weight + i), c = V_LOAD_C(bias + i);
            V v0 = FN(normalize)(V_LOAD(x0 + i), &a), v1 = FN(normalize)(V_LOAD(x1 + i), &b);
            V_STORE(y0 + i, V_FMA(v0, w, c));
            V_STORE(y1 + i, V_FMA(v1, w, c));
        }
        if (i < n) {
            V w = V_LOAD_PART_C(weight + i, n - i), c = V_LOAD_PART_C(bias + i, n - i);
            V v0 = FN(normalize)(V_LOAD_PART(x0 + i, n - i), &a);
            V v1 = FN(normalize)(V_LOAD_PART(x1 + i, n - i), &b);
            V_STORE_PART(y0 + i, V_FMA(v0, w, c), n - i);
            V_STORE_PART(y1 + i, V_FMA(v1, w, c), n - i);
        }
    }
    return row;
}

/* A row's statistics come before the apply of the row above: their additions fill its wait for the square
 * root and the division. */
static size_t FN(norm_run)(const void *x, ptrdiff_t x_stride, void *y, ptrdiff_t y_stride, size_t row_count,
                           size_t n, const wn_affine *affine, ptrdiff_t affine_step, double eps,
                           int centred) {
    double count = (double)n, inverse_count = 1.0 / count;
    wn_affine of_row = *affine;
    wn_state state;
    int is_usual = affine->weight && affine->bias && affine->advance && !affine->activation &&
                   !(IS_16BIT && affine->to_compute); /* worth a copy of the loop here */
    size_t begin = 0;
    if (is_usual && n >= LONG_ROW && !affine->stream && affine_step == 0) {
        begin = FN(norm_pairs)(x, x_stride, y, y_stride, row_count, n, affine, eps, centred);
        if (begin == row_count) return row_count;
        x = (const char *)x + (ptrdiff_t)begin * x_stride;
        y = (char *)y + (ptrdiff_t)begin * y_stride;
    }
    const void *above = x;
    for (size_t row = begin;; row++) {
        wn_norm norm;
        if (row > begin) {
            norm = wn_finish(&state, eps);
            if (IS_WIDE(&norm, state.m2, eps)) return row - 1;
        }
        if (row < row_count) state = FN(block_moments)(&x, 1, n, centred, count, inverse_count);
        if (row > begin) {
            of_row.ahead = affine->stream && row + 1 < row_count ? (const char *)x + x_stride : NULL;
            if (is_usual)
                FN(apply_with)(above, y, n, &norm, &of_row, 1, 1, 1, 1);
            else
                FN(apply_run)(above, y, n, &norm, &of_row);
            if (row == row_count) break;
            y = (char *)y + y_stride;
            if (affine_step && of_row.weight) of_row.weight = (const C *)of_row.weight + affine_step;
            if (affine_step && of_row.bias) of_row.bias = (const C *)of_row.bias + affine_step;
        }
        above = x;
        x = (const char *)x + x_stride;
    }
    return row_count;
}

/* What was streamed is there for others. */
static void FN(stream_end)(void) { v_stream_end(); }

static void FN(add)(const void *a, const void *b, void *sum, size_t n) {
    const T *p = a, *q = b;
    T *to = sum;
    size_t i = 0;
    UNROLL for (; i + V_N <= n; i += V_N) V_STORE(to + i, V_LOAD(p + i) + V_LOAD(q + i));
    if (i < n) V_STORE_PART(to + i, V_LOAD_PART(p + i, n - i) + V_LOAD_PART(q + i, n - i), n - i);
}
