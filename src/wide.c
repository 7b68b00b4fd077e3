#include "wide.h"

bool wn_is_wide(const wn_job *job, const wn_norm *norm, double m2, double eps) {
    return job->compute_f64 ? wn_is_wide_f64(norm, m2, eps) : wn_is_wide_f32(norm, m2, eps);
}

static double load(const void *p, size_t i, bool is_f64) {
    double wide;
    float narrow;
    if (is_f64) {
        memcpy(&wide, (const char *)p + i * sizeof wide, sizeof wide);
        return wide;
    }
    memcpy(&narrow, (const char *)p + i * sizeof narrow, sizeof narrow);
    return narrow;
}

static void store(void *p, size_t i, bool is_f64, double value) {
    float narrow = (float)value;
    if (is_f64)
        memcpy((char *)p + i * sizeof value, &value, sizeof value);
    else
        memcpy((char *)p + i * sizeof narrow, &narrow, sizeof narrow);
}

void wn_wide_apply(const wn_job *job, const void *x, void *y, size_t n, const wn_norm *norm,
                   const void *weight, const void *bias, int affine_step) {
    bool is_f64 = job->compute_f64;
    for (size_t i = 0; i < n; i++) {
        size_t a = affine_step ? i : 0;
        double w = weight ? load(weight, a, is_f64) : 1.0;
        double b = bias ? load(bias, a, is_f64) : 0.0;
        double deviation = (load(x, i, is_f64) * norm->scale - norm->mean) - norm->mean_lo;
        double normalized = deviation * norm->rstd, result = normalized * w + b;
        /* perhaps the product alone left the range: once more, in quarters */
        if (!(fabs(result) <= DBL_MAX)) result = 4.0 * (0.25 * normalized * w + 0.25 * b);
        store(y, i, is_f64, result);
    }
}

double wn_max_magnitude(const void *x, size_t n) {
    double most = 0.0;
    for (size_t i = 0; i < n; i++) {
        double magnitude = fabs(load(x, i, true));
        if (!(magnitude <= most)) most = magnitude;
        if (magnitude != magnitude) return magnitude;
    }
    return most;
}

bool wn_needs_scale(const wn_job *job, const wn_state *state) {
    if (!job->compute_f64) return false;
    if (state->m2 < 1.0 && (!job->problem->y || fabs(state->mean) > 0x1p-390)) return false;
    wn_norm norm = wn_finish(state, job->problem->eps);
    return wn_is_wide(job, &norm, state->m2, job->problem->eps);
}

double wn_scale_for(double magnitude, double eps) {
    int exponent;
    if (!(magnitude > 0.0 && magnitude <= DBL_MAX)) return 1.0;
    frexp(fmax(magnitude, sqrt(eps)), &exponent);
    return ldexp(1.0, exponent < -1000 ? 1000 : -exponent);
}
