/* The judge of exact statistics: integers of 128 bits. Part of test_kernels.c, for its length. */

typedef __int128 wide_int; /* 126 bits of it */

/* Integers times 2^q, of up to 40 bits beside an offset, so that sums of their squares fit. Returns q. */
static int fill_integers(void *to, wn_dtype dtype, size_t n, kind k, uint64_t seed) {
    static const int large_at[] = {[WN_f32] = 106, [WN_f64] = 400, [WN_f16] = 6, [WN_bf16] = 118};
    static const int tiny_at[] = {[WN_f32] = -149, [WN_f64] = -400, [WN_f16] = -24, [WN_bf16] = -133};
    int bits = dtype == WN_f64 ? (k == OUTLIER ? 24 : 40) : dtype == WN_f32 ? 20 : 9;
    for (size_t i = 0; i < n; i++) {
        double value = rint(ldexp(noise(i, seed), bits));
        if (k == FAR_FROM_0 || k == OUTLIER) {
            double far = k == FAR_FROM_0 ? offsets[dtype] : i ? 1e3 : outliers[dtype];
            value += ldexp(rint(far), bits);
        }
        if (k == CONSTANT) value = ldexp(rint(constants[dtype]), bits);
        if (k == LARGE) value = ldexp(value, large_at[dtype] + bits);
        if (k == TINY) value = ldexp(value, tiny_at[dtype] + bits);
        value = ldexp(value, -bits);
        if (is_poisoned(k) && i == n / 2) value = k == WITH_INF ? (double)INFINITY : (double)NAN;
        set(to, i, dtype, value);
    }
    return k == LARGE ? large_at[dtype] : k == TINY ? tiny_at[dtype] : -bits;
}

/* value * 2^shift, cut to an integer. */
static wide_int to_integer(double value, int shift) {
    int exponent;
    wide_int fraction = (wide_int)ldexp(frexp(value, &exponent), 53);
    shift += exponent - 53;
    if (fraction == 0) return 0;
    if (shift > 72) shift = 72; /* too large in any case */
    if (shift >= 0) return fraction * ((wide_int)1 << shift);
    return shift > -63 ? fraction / ((wide_int)1 << -shift) : 0;
}

/* |high + low - numerator / denominator| * 2^-q, as a share of that and of `least`, besides. */
static double error_of_pair(double high, double low, int q, wide_int numerator, size_t denominator,
                            double least) {
    int shift = 0;
    wide_int most = numerator < 0 ? -numerator : numerator;
    while (shift < 120 && most < (wide_int)1 << 122) most *= 2, shift++;
    wide_int exact = numerator * ((wide_int)1 << shift) / (wide_int)denominator;
    wide_int error = to_integer(high, shift - q) + to_integer(low, shift - q) - exact;
    double size = fabs((double)numerator / (double)denominator);
    if (error < 0) error = -error;
    /* three integers were cut */
    return error <= 3 ? 0.0 : ldexp((double)error, -shift) / (size > least ? size : least);
}

/* One column's state, of n integers `step` apart from `first` on, times 2^q. */
static void compare_exactly(wn_dtype dtype, size_t first, size_t n, size_t step, int q, const double *state,
                            size_t stride) {
    double mean = state[0], mean_lo = state[stride], m2 = state[2 * stride], m2_lo = state[3 * stride];
    wide_int base = (wide_int)ldexp(get(source, first, dtype), -q), sum = 0, square = 0;
    for (size_t i = 0; i < n; i++) {
        double element = ldexp(get(source, first + i * step, dtype), -q);
        wide_int d = (wide_int)element - base;
        if (element != rint(element)) abort();
        sum += d, square += d * d;
    }
    wide_int total = sum + base * (wide_int)n, scatter = (wide_int)n * square - sum * sum;
    double rms = sqrt((double)scatter) / (double)n;
    EXPECT(mean + mean_lo == mean && m2 + m2_lo == m2); /* the second parts are beyond the first's digits */
    if (scatter == 0) EXPECT(m2 == 0.0 && m2_lo == 0.0 && mean_lo == 0.0);
    double of_mean = error_of_pair(mean, mean_lo, q, total, n, rms);
    double of_m2 = error_of_pair(m2, m2_lo, 2 * q, scatter, n, 0.0);
    EXPECT(of_mean <= 0x1p-97 && of_m2 <= 0x1p-93);
}

/* After the trials: states of `columns` columns as they were seen (mean, mean_lo, m2, m2_lo) are exact. */
static void compare_exact_states(wn_dtype dtype, size_t columns, size_t n, kind k, int q) {
    for (size_t c = 0; c < columns; c++) {
        int poisoned = is_poisoned(k) && c == n * columns / 2 % columns;
        for (int has_fma = 0; has_fma < 2 && expected_count[has_fma]; has_fma++) {
            const double *state = expected[has_fma] + c;
            if (poisoned)
                EXPECT(!(fabs(state[0]) <= DBL_MAX) && !(fabs(state[2 * columns]) <= DBL_MAX));
            else
                compare_exactly(dtype, c, n, columns, q, state, columns);
        }
        for (size_t part = 0; part < 4;
             part++) /* beyond compare_exactly: the last place of the first parts */
            sizes[part * columns + c] = fabs(expected[0][part / 2 * 2 * columns + c]);
        for (size_t part = 0; part < 2; part++)
            sizes[part * columns + c] += sqrt(expected[0][2 * columns + c] / (double)n);
    }
    compare_with_portable(2 * DBL_EPSILON);
}
