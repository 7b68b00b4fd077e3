/* The wide path: the apply step in float64, for what the compute type cannot hold (wn_is_wide). Rare, so
 * written to be read. */
#ifndef WN_WIDE_H
#define WN_WIDE_H

#include "job.h"

/* As the kernel apply_run; norm may have a scale other than 1. */
void wn_wide_apply(const wn_job *job, const void *x, void *y, size_t n, const wn_norm *norm,
                   const wn_affine *affine);

/* One element at any address, rounded to its dtype. */
void wn_store(void *to, wn_dtype dtype, double value);

bool wn_is_wide(const wn_job *job, const wn_norm *norm, double m2, double eps);

/* The largest finite magnitude among n elements of x's dtype; infinity or NaN if there is one. */
double wn_max_magnitude(const void *x, size_t n);

/* Whether these statistics of float64 data left the range, so that the data must be scaled to have better
 * ones. Large numbers whose m2 is small are constant, and left alone. */
bool wn_needs_scale(const wn_job *job, const wn_state *state);

/* A power of two that brings numbers of such a magnitude near 1, and eps, which takes its square, no further.
 */
double wn_scale_for(double magnitude, double eps);

#endif
