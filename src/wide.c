#include "wide.h"
#include "convert.h"

bool wn_is_wide(const wn_job *job, const wn_norm *norm, double m2, double eps) {
    return job->compute_f64 ? wn_is_wide_f64(norm, m2, eps) : wn_is_wide_f32(norm, m2, eps);
}

static double load(const void *p, size_t i, wn_dtype dtype) {
    double wide;
    float narrow;
    uint16_t half;
    switch (dtype) {
    case WN_f64:
        memcpy(&wide, (const char *)p + i * sizeof wide, sizeof wide);
        return wide;
    case WN_f32:
        memcpy(&narrow, (const char *)p + i * sizeof narrow, sizeof narrow);
        return narrow;
    default:
        memcpy(&half, (const char *)p + i * sizeof half, sizeof half);
        return dtype == WN_f16 ? wn_f16_to_f32(half) : wn_bf16_to_f32(half);
    }
}

/* The float on either side of value whose last bit is set, unless value is a float: from there to fewer
 * digits rounds as if there had been no step between. S. Boldo, G. Melquiond, "Emulation of FMA and correctly
 * rounded sums: proved algorithms using rounding to odd", IEEE Trans. Comput. 57 (2008). */
static float to_odd(double value) {
    float nearest = (float)value;
    uint32_t bits = wn_bits_of(nearest);
    if ((double)nearest == value || value != value) return nearest;
    if (fabs((double)nearest) > fabs(value)) bits--;
    return wn_float_of(bits | 1);
}

void wn_store(void *to, wn_dtype dtype, double value) {
    float narrow = (float)value;
    uint16_t half;
    switch (dtype) {
    case WN_f64:
        memcpy(to, &value, sizeof value);
        return;
    case WN_f32:
        memcpy(to, &narrow, sizeof narrow);
        return;
    case WN_f16:
        half = wn_f32_to_f16(to_odd(value));
        break;
    default:
        half = wn_f32_to_bf16(narrow); /* by way of float, as ml_dtypes has it */
    }
    memcpy(to, &half, sizeof half);
}

void wn_wide_apply(const wn_job *job, const void *x, void *y, size_t n, const wn_norm *norm,
                   const wn_affine *affine) {
    wn_dtype x_dtype = job->problem->x_dtype, compute = job->compute_f64 ? WN_f64 : WN_f32;
    wn_dtype y_dtype = affine->to_compute ? compute : x_dtype;
    size_t y_size = affine->to_compute ? job->compute_size : job->x_size;
    for (size_t i = 0; i < n; i++) {
        size_t a = affine->advance ? i : 0;
        double w = affine->weight ? load(affine->weight, a, compute) : 1.0;
        double b = affine->bias ? load(affine->bias, a, compute) : -0.0;
        double deviation = (load(x, i, x_dtype) * norm->scale - norm->mean) - norm->mean_lo;
        double normalized = deviation * norm->rstd, result = normalized * w + b;
        /* perhaps the product alone left the range: once more, in quarters */
        if (!(fabs(result) <= DBL_MAX)) result = 4.0 * (0.25 * normalized * w + 0.25 * b);
        if (affine->activation) { /* of the value that the compute type has room for */
            double activated;
            wn_store(&activated, compute, result);
            job->kernels->activate(&activated, 1, affine->activation);
            result = load(&activated, 0, compute);
        }
        wn_store((char *)y + i * y_size, y_dtype, result);
    }
}

double wn_max_magnitude(const void *x, size_t n) {
    double most = 0.0;
    for (size_t i = 0; i < n; i++) {
        double magnitude = fabs(load(x, i, WN_f64));
        if (!(magnitude <= most)) most = magnitude;
        if (magnitude != magnitude) return magnitude;
    }
    return most;
}

bool wn_needs_scale(const wn_job *job, const wn_state *state) {
    if (!job->compute_f64) return false;
    bool is_constant = job->problem->centred && fabs(state->mean) > 0x1p-390;
    if (state->m2 < 1.0 && (!job->problem->y || is_constant)) return false;
    wn_norm norm = wn_finish(state, job->problem->eps);
    return wn_is_wide(job, &norm, state->m2, job->problem->eps);
}

double wn_scale_for(double magnitude, double eps) {
    int exponent;
    if (!(magnitude > 0.0 && magnitude <= DBL_MAX)) return 1.0;
    frexp(fmax(magnitude, sqrt(eps)), &exponent);
    return ldexp(1.0, exponent < -1000 ? 1000 : -exponent);
}
