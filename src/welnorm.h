/* welnorm: the C interface of the drivers. One struct describes any normalization on any layout
 * (see _problem.py, which makes it); one function carries it out. */
#ifndef WELNORM_H
#define WELNORM_H

#include <stddef.h>
#include <stdint.h>

typedef enum {
#define WN_DTYPE(name, type) WN_##name,
#include "dtypes.def"
#undef WN_DTYPE
    WN_DTYPE_COUNT
} wn_dtype;

typedef enum { WN_OK, WN_NO_MEMORY } wn_status;

/* Which way the statistics run: along the innermost axes, or down the rows for each innermost position. */
typedef enum { WN_RUN, WN_COLS } wn_pattern;

/* One axis: element count, strides of x and y in bytes, stride of weight and bias in elements. */
typedef struct {
    int64_t count, x_stride, y_stride, affine_stride;
} wn_axis;

/* A group of axes, slowest first; count is the product of theirs (1 if there are none). */
typedef struct {
    const wn_axis *axis;
    int ndim;
    int64_t count;
} wn_axes;

/* The canonical problem. In the pattern `run` a statistic is taken, for each index of `outer`, over
 * `reduced` segments of `inner` elements; in `cols`, for each index of `outer` and each of `inner`, over
 * the `reduced` rows. Statistics are numbered by outer index and, in `cols`, by inner position. */
typedef struct {
    wn_pattern pattern;
    wn_dtype x_dtype, y_dtype;
    wn_axes outer, reduced, inner;
    const void *x;
    void *y;                   /* NULL: statistics only */
    const void *weight, *bias; /* of the compute type of x_dtype; may be NULL */
    double eps;
    const double *given_mean, *given_var; /* normalise with these instead of the data's own */
    double *mean, *mean_lo, *m2;          /* NULL, or where the data's statistics go */
} wn_problem;

wn_status wn_run(const wn_problem *problem);

/* The group of the `ndim` axes from `axis` on. */
wn_axes wn_axes_of(const wn_axis *axis, int ndim);

/* The ordinary call of layer norm: row_count contiguous rows of n elements, weight and bias (either may
 * be NULL) of n elements of the compute type. */
wn_status wn_layer_norm(wn_dtype dtype, const void *x, void *y, size_t row_count, size_t n,
                        const void *weight, const void *bias, double eps);

/* Copies with the library's threads, by ordinary or by non-temporal stores: the physical limit that the
 * benchmarks compare with. The regions must not overlap. */
void wn_copy(void *dst, const void *src, size_t bytes, int nontemporal);

#endif
