/* Statistics: the Welford state of a set of numbers, its merge, and what the apply step needs of it.
 *
 * Baseline and kernel files share these, so that a row has the same bits whoever finishes it. All is
 * plain float64 arithmetic in a written order (the build forbids contraction): the same bits everywhere. */
#ifndef WN_STATE_H
#define WN_STATE_H

#include <float.h>
#include <math.h>
#include <stddef.h>

enum {
    WN_BLOCK = 4096,     /* elements of a block in the pattern run: at most 32 KiB, within L1 */
    WN_BLOCK_RUNS = 128, /* and at most so many runs */
    WN_ROWS = 128,       /* rows of a block in the pattern cols */
    WN_STRIP = 512       /* columns that one cols kernel call may take */
};

/* count, mean and M2 (sum of squared deviations). The mean is the sum mean + mean_lo, for float64 data
 * and for merges that lose nothing. */
typedef struct {
    double count, mean, mean_lo, m2;
} wn_state;

/* The same for many columns that share a count: one array each. */
typedef struct {
    double *mean, *mean_lo, *m2;
} wn_states;

/* What the apply step needs: y = (x * scale - mean) * rstd. scale is 1 but on the wide path. */
typedef struct {
    double mean, mean_lo, rstd, scale;
} wn_norm;

/* The same for many columns, in the compute type: y = fma(x - mean_hi, rstd, offset). */
typedef struct {
    const void *mean_hi, *rstd, *offset;
} wn_cols_norm;

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
    if (a->count == 0.0) {
        *a = *b;
        return;
    }
    wn_merge_into(&a->mean, &a->mean_lo, &a->m2, a->count, b->mean, b->mean_lo, b->m2, b->count);
    a->count += b->count;
}

static inline wn_norm wn_finish(const wn_state *state, double eps) {
    double var = state->m2 / state->count;
    return (wn_norm){state->mean, state->mean_lo, 1.0 / sqrt(var + eps), 1.0};
}

/* True where the fast apply step could overflow or lose digits in its compute type: such rows take the wide
 * path (wide.c). |x - mean| <= sqrt(m2), so m2 bounds the deviations; where statistics are given, the mean
 * must. NaN is not wide for float32; for float64 it may stand for sums that overflowed, so it is. */
static inline int wn_is_wide_f32(const wn_norm *norm, double m2, double eps) {
    (void)eps;
    return norm->rstd < 0x1p-100 || norm->rstd > 0x1p100 || m2 > 0x1p250 || fabs(norm->mean) > 0x1p100;
}

static inline int wn_is_wide_f64(const wn_norm *norm, double m2, double eps) {
    (void)norm;
    return !(m2 <= 0x1p1000) || (m2 < 0x1p-900 && eps < 0x1p-900);
}

#endif
