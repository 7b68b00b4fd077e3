/* Statistics: the Welford state of a set of numbers, its merge, and what the apply step needs of it.
 *
 * Baseline and kernel files share these, so that a row has the same bits whoever finishes it. All is
 * plain float64 arithmetic in a written order (the build forbids contraction): the same bits everywhere. */
#ifndef WN_STATE_H
#define WN_STATE_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>

enum {
    WN_BLOCK = 4096,      /* elements of a block in the pattern run: at most 32 KiB, within L1 */
    WN_BLOCK_RUNS = 128,  /* and at most so many runs */
    WN_ROWS = 128,        /* rows of a block in the pattern cols */
    WN_TEAM = 4,          /* rows that go side by side, at most, where they share weight and bias */
    WN_STRIP = 1024,      /* columns whose statistics one kernel call may take, */
    WN_SHORT_STRIP = 512, /* and takes where L1 is less than WN_MORE_L1, or parts are few */
    WN_MORE_L1 = 49152    /* bytes, from which on rows go otherwise; measured on one Intel Xeon, with 48 KB */
};

/* count, mean and M2 (sum of squared deviations). The mean is the sum mean + mean_lo, for float64 data
 * and for merges that lose nothing; and M2 is m2 + m2_lo where the statistics are exact (wn_sums), else m2_lo
 * is 0. */
typedef struct {
    double count, mean, mean_lo, m2, m2_lo;
} wn_state;

/* The same for many columns that share a count: one array each. */
typedef struct {
    double *mean, *mean_lo, *m2, *m2_lo;
} wn_states;

/* An unevaluated sum of two float64 values, the second at most what rounding the sum to the first lost. */
typedef struct {
    double high, low;
} wn_pair;

/* Sums of deviations from a shift and of their squares, as pairs: exact but for some 2^-100. */
typedef struct {
    wn_pair sum, square;
} wn_sums;

/* How far the M2 of a block that is not centred, a sum of float32 squares, may be from the true one, as a
 * share of it: whatever the data, and a rounding of each square more where there is no FMA. */
#define WN_SQUARES_ERROR 0x1.cp-23

/* What the apply step needs: y = (x * scale - mean) * rstd. scale is 1 but on the wide path. */
typedef struct {
    double mean, mean_lo, rstd, scale;
} wn_norm;

/* The same for many columns, in the compute type: y = fma(x - mean_hi, rstd, offset). */
typedef struct {
    const void *mean_hi, *rstd, *offset;
} wn_cols_norm;

/* The apply step with a weight and a bias that do not vary, y = fma(x - mean_hi, scale, shift), of the
 * compute type: two roundings less than in two steps. Returns whether it can be had: not where the product of
 * rstd and weight leaves the range, or shift does. */
#define WN_FOLD(T, C, LEAST, MOST)                                                                           \
    static inline int wn_fold_##T(const wn_norm *norm, C weight, C bias, C *mean_hi, C *scale, C *shift) {   \
        *mean_hi = (C)norm->mean;                                                                            \
        C mean_lo = (C)((norm->mean - (double)*mean_hi) + norm->mean_lo);                                    \
        *scale = (C)(norm->rstd * (double)weight);                                                           \
        *shift = mean_lo == 0 ? bias : (C)((double)bias - (double)mean_lo * (double)*scale);                 \
        double magnitude = fabs((double)*scale);                                                             \
        return (weight == 0 || magnitude >= LEAST) && magnitude <= MOST && fabs((double)*shift) <= MOST;     \
    }
WN_FOLD(f32, float, FLT_MIN, FLT_MAX)
WN_FOLD(f64, double, DBL_MIN, DBL_MAX)
#undef WN_FOLD

/* The runs of a block: `count` of n elements each. Strides are in bytes; affine_step leads to a run's
 * parameters. */
typedef struct {
    size_t count, n;
    const void *x;
    void *y;
    ptrdiff_t x_stride, y_stride, affine_step;
} wn_runs;

/* What is read while y is written, columns' norms or parameters of rows, is read late a line or two behind a
 * store, counted within a page. So it begins half a kilobyte from where y does, counted within a kilobyte,
 * and at a line. */
enum { WN_APART = 512 };

/* Where in memory, of 2 * WN_APART more bytes, it begins. */
static inline void *wn_beside(void *memory, const void *y) {
    uintptr_t line = (uintptr_t)y / 64 * 64;
    return (char *)memory + (line + WN_APART - (uintptr_t)memory) % (2 * WN_APART);
}

/* In the order of ACTIVATIONS in python/welnorm/_problem.py. */
typedef enum { WN_NO_ACTIVATION, WN_RELU, WN_SILU, WN_GELU, WN_GELU_TANH } wn_activation;

/* What follows the normalization: weight and bias, of the compute type, either or both NULL, that advance
 * with the elements of a row or are one scalar each; an activation. The result is of x's dtype or, if
 * to_compute, of its compute type. */
typedef struct {
    const void *weight, *bias;
    int advance;
    wn_activation activation;
    int to_compute;
    int stream; /* y past the cache where its address allows: a row of x's dtype, without an activation */
    int far;    /* not that, but the data are much of what the cache holds, or more */
    size_t l1;  /* bytes of the CPU's first cache; 0: as few as any has */
} wn_affine;

/* Rows that have yet to be written, from row `done` on: augend + addend, of their strides. augend may be x.
 */
typedef struct {
    const void *augend, *addend;
    size_t done;
} wn_addends;

/* a + b = *sum + *error exactly (Knuth's two-sum); no error term where the sum is not finite. */
static inline void wn_two_sum(double a, double b, double *sum, double *error) {
    double s = a + b;
    double b_part = s - a;
    double e = (a - (s - b_part)) + (b - b_part);
    *sum = s;
    *error = fabs(s) <= DBL_MAX ? e : 0.0;
}

/* Welford's update for a whole set: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm
 * for computing sample variances" (1979), with the mean carried as a pair. */
static inline void wn_merge_into(double *mean, double *mean_lo, double *m2, double count, double b_mean,
                                 double b_mean_lo, double b_m2, double b_count) {
    double b_share = b_count / (count + b_count);
    double delta = (b_mean - *mean) + (b_mean_lo - *mean_lo);
    double sum, error;
    *m2 = (*m2 + b_m2) + (delta * delta) * (count * b_share);
    wn_two_sum(*mean, delta * b_share, &sum, &error);
    wn_two_sum(sum, *mean_lo + error, &sum, &error);
    /* inf in the data: inf + finite is inf, as np.mean has it, where inf - finite in delta loses that */
    int finite = fabs(delta) <= DBL_MAX;
    *mean = finite ? sum : *mean + b_mean;
    *mean_lo = finite ? error : 0.0;
}

static inline void wn_merge(wn_state *a, const wn_state *b) {
    if (a->count == 0.0 || b->count == 0.0) {
        if (a->count == 0.0) *a = *b;
        return;
    }
    wn_merge_into(&a->mean, &a->mean_lo, &a->m2, a->count, b->mean, b->mean_lo, b->m2, b->count);
    a->count += b->count;
}

/* Pairs: T. J. Dekker, "A floating-point technique for extending the available precision" (1971). */
static inline wn_pair wn_pair_add(wn_pair a, wn_pair b) {
    wn_pair sum;
    wn_two_sum(a.high, b.high, &sum.high, &sum.low);
    wn_two_sum(sum.high, sum.low + (a.low + b.low), &sum.high, &sum.low);
    return sum;
}

static inline wn_pair wn_two_product(double a, double b) {
    const double split = 0x1.0000002p27; /* Veltkamp's 2^27 + 1 */
    double a_high = a * split - (a * split - a), b_high = b * split - (b * split - b);
    double a_low = a - a_high, b_low = b - b_high, product = a * b;
    return (wn_pair){product,
                     ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low};
}

static inline wn_pair wn_pair_multiply(wn_pair a, wn_pair b) {
    wn_pair product = wn_two_product(a.high, b.high);
    wn_two_sum(product.high, product.low + (a.high * b.low + a.low * b.high), &product.high, &product.low);
    return product;
}

static inline wn_pair wn_pair_divide(wn_pair a, double b) {
    double quotient = a.high / b;
    wn_pair product = wn_two_product(quotient, b), result;
    wn_two_sum(quotient, (((a.high - product.high) - product.low) + a.low) / b, &result.high, &result.low);
    return result;
}

/* The state that exact sums of `count` deviations from shift make. Not finite where they left the range. */
static inline wn_state wn_exact_state(double count, double shift, wn_sums sums) {
    wn_pair mean = wn_pair_divide(sums.sum, count), excess = wn_pair_multiply(sums.sum, mean);
    wn_pair m2 = wn_pair_add(sums.square, (wn_pair){-excess.high, -excess.low});
    mean = wn_pair_add((wn_pair){shift, 0.0}, mean);
    if (m2.high < 0.0) m2 = (wn_pair){0.0, 0.0};
    return (wn_state){count, mean.high, mean.low, m2.high, m2.low};
}

/* As wn_merge, of exact states. */
static inline void wn_merge_exact(wn_state *a, const wn_state *b) {
    if (a->count == 0.0 || b->count == 0.0) {
        if (a->count == 0.0) *a = *b;
        return;
    }
    double count = a->count + b->count;
    wn_pair mean = {a->mean, a->mean_lo}, m2 = {a->m2, a->m2_lo};
    wn_pair delta = wn_pair_add((wn_pair){b->mean, b->mean_lo}, (wn_pair){-mean.high, -mean.low});
    wn_pair step = wn_pair_divide(wn_pair_multiply(delta, (wn_pair){b->count, 0.0}), count);
    wn_pair between = wn_pair_multiply(wn_pair_multiply(delta, (wn_pair){a->count, 0.0}), step);
    mean = wn_pair_add(mean, step);
    m2 = wn_pair_add(wn_pair_add(m2, (wn_pair){b->m2, b->m2_lo}), between);
    *a = (wn_state){count, mean.high, mean.low, m2.high, m2.low};
}

/* A given mean beyond it is for data scaled by a quarter: x - mean could leave the range of float64 where y
 * does not. */
#define WN_FAR_MEAN 0x1p960

static inline wn_norm wn_finish(const wn_state *state, double eps) {
    double var = state->m2 / state->count;
    return (wn_norm){state->mean, state->mean_lo, 1.0 / sqrt(var + eps), 1.0};
}

/* True where the fast apply step could overflow or lose digits in its compute type: such rows take the wide
 * path (wide.c). |x - mean| <= sqrt(m2), so m2 bounds the deviations; where statistics are given, the mean
 * must. NaN is not wide for float32; for float64 it may stand for sums that overflowed, so it is. As masks,
 * of one or of a vector: WHERE makes one of a comparison. */
#define WN_WIDE_f32(WHERE, mean, m2, rstd, eps)                                                              \
    (WHERE(rstd < 0x1p-100) | WHERE(rstd > 0x1p100) | WHERE(m2 > 0x1p250) | WHERE(mean > 0x1p100) |          \
     WHERE(mean < -0x1p100))
#define WN_WIDE_f64(WHERE, mean, m2, rstd, eps)                                                              \
    (~WHERE(m2 <= 0x1p1000) | (eps < 0x1p-900 ? WHERE(m2 < 0x1p-900) : WHERE(m2 != m2)))

#define WN_WHERE(condition) (-(int)(condition))
static inline int wn_is_wide_f32(const wn_norm *norm, double m2, double eps) {
    (void)eps;
    return WN_WIDE_f32(WN_WHERE, norm->mean, m2, norm->rstd, eps) != 0;
}

static inline int wn_is_wide_f64(const wn_norm *norm, double m2, double eps) {
    (void)norm;
    return WN_WIDE_f64(WN_WHERE, norm->mean, m2, norm->rstd, eps) != 0;
}

#endif
