/* welnorm: the C interface of the drivers. One struct describes any normalization on any layout
 * (see _problem.py, which makes it); one function carries it out. */
#ifndef WELNORM_H
#define WELNORM_H

#include "state.h"

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

/* One axis: element count, strides of x and y in bytes, of weight and bias in elements, of the mask in bytes.
 */
typedef struct {
    int64_t count, x_stride, y_stride, affine_stride, mask_stride;
} wn_axis;

/* A group of axes, slowest first; count is the product of theirs (1 if there are none). */
typedef struct {
    const wn_axis *axis;
    int ndim;
    int64_t count;
} wn_axes;

/* The canonical problem. In the pattern `run` a statistic is taken, for each index of `outer`, over
 * `reduced` segments of `inner` elements; in `cols`, for each index of `outer` and each `group` adjacent ones
 * of `inner`, over the `reduced` rows. Statistics are numbered by outer index and, in `cols`, by inner
 * position. */
typedef struct {
    wn_pattern pattern;
    wn_dtype x_dtype, y_dtype;
    wn_axes outer, reduced, inner;
    int64_t group; /* columns that share a statistic; 1 if each has its own, and in `run` */
    int centred;   /* if not, the mean counts as 0: RMS norm */
    const void *x;
    void *y;                   /* NULL: statistics only */
    const void *weight, *bias; /* of the compute type of x_dtype; may be NULL */
    wn_activation activation;
    double eps;
    const uint8_t *mask;         /* NULL, or what counts: the rest comes out as 0 */
    const void *augend, *addend; /* NULL, or what x, then written to, is the sum of: x's strides */
    float *scale;                /* NULL, or y is int8 (whatever y_dtype): its scale for each statistic, */
    int scale_is_given;          /* to be used or to be found */
    const void *given_mean, *given_var; /* normalise with these instead of the data's own: */
    wn_dtype given_dtype;               /* WN_f32 or WN_f64 */
    int exact;        /* statistics that merge without loss; not finite where sums leave the range */
    wn_states states; /* mean NULL, or where the data's statistics go, */
    double *count;    /* and their counts */
} wn_problem;

wn_status wn_run(const wn_problem *problem);

size_t wn_dtype_bytes(wn_dtype dtype);

/* The group of the `ndim` axes from `axis` on. */
wn_axes wn_axes_of(const wn_axis *axis, int ndim);

/* The ordinary call: row_count contiguous rows of n elements, weight and bias (either may be NULL) of n
 * elements of the compute type. augend and addend as in wn_problem. */
wn_status wn_norm_rows(wn_dtype dtype, const void *augend, const void *addend, const void *x, void *y,
                       size_t row_count, size_t n, const void *weight, const void *bias, double eps,
                       int centred, wn_activation activation);

/* The ordinary call of batch, group and instance norm: x and y contiguous, of (batch, channels, positions),
 * with the channels last of (batch, positions, channels), or in blocks of `block` channels, which is for
 * batch norm alone, of (batch, channels / block, positions, block). */
typedef struct {
    wn_dtype dtype;
    const void *x;
    void *y;
    size_t batch, channels, positions;
    int last;
    size_t block; /* 0: none; else `last` is 0 */
    size_t
        groups; /* of channels, each with statistics of its own in each sample; 0: channels', of the batch */
    const void *weight, *bias; /* of the compute type, an element per channel; may be NULL */
    double eps;
    wn_activation activation;
    int training; /* only of batch norm: with the batch's statistics, not the running ones */
    void *running_mean, *running_var; /* of the compute type; read, or in training updated (unless NULL) */
    double momentum;
} wn_channels;

wn_status wn_norm_channels(const wn_channels *call);

/* Copies n contiguous elements in the compute type of their dtype. */
void wn_widen(wn_dtype dtype, const void *elements, void *wide, size_t n);

/* Between (batch, channels, positions) and (batch, blocks, positions, block), elements of so many bytes:
 * channels into blocks, the last one padded with zeros, or out of them. */
void wn_move_blocked(void *plain, void *blocked, size_t batch, size_t channels, size_t positions,
                     size_t block, size_t element_bytes, int into_blocks);

/* Copies with the library's threads, by ordinary or by non-temporal stores: the physical limit that the
 * benchmarks compare with. The regions must not overlap. If read_first is not 0, a thread reads up to so many
 * bytes, a multiple of 64, before it copies them, and then the next: the limit of what needs all of them to
 * begin. */
void wn_copy(void *dst, const void *src, size_t bytes, int nontemporal, size_t read_first);

#endif
