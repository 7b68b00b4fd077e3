/* What the drivers share: a problem cut into units and parts, and the way to its elements.
 *
 * A unit holds whole statistics: one or, of long rows, WN_TEAM in the pattern run, a strip of columns in
 * cols. A part is a fixed number of a unit's blocks. Units and parts are shared out among threads, but which
 * blocks exist and in which order they merge (blocks within a part, then parts) depends on the shape alone:
 * the bits of a result depend neither on the number of threads nor on what else is in the batch. */
#ifndef WN_JOB_H
#define WN_JOB_H

#include "dispatch.h"

#include <stdbool.h>
#include <string.h>

enum {
    WN_PART_BLOCKS = 4,       /* a part is at least so many blocks, */
    WN_MAX_PARTS = 1024,      /* and a unit at most so many parts, */
    WN_MAX_COLUMN_PARTS = 16, /* fewer in the pattern cols, where a part's state is a strip's: 40 KiB */
    WN_PACK = 32,             /* runs shorter than this are packed before their statistics are taken */
    WN_TILE = 64,             /* columns of a strip that is packed */
    WN_TOGETHER = 512         /* columns of rows that go as one in the pattern cols, within the cache */
};

typedef struct {
    const wn_problem *problem;
    const struct wn_dtype_kernels *kernels;
    size_t x_size, y_size, compute_size;
    bool compute_f64;
    bool direct_x, direct_y; /* the inner elements are contiguous (and of a type kernels write): no packing */
    bool to_compute;         /* kernels write the compute type: y, or scratch */
    bool inner_affine;       /* weight and bias vary along the inner axes, */
    bool rows_affine;        /* and along the reduced ones */
    bool stream;             /* results do not fit the last-level cache: past it */
    bool far;                /* not that, but the data are much of what it holds, or more */
    size_t l1;               /* bytes of the CPU's first cache */
    bool adds;               /* x is still to be written: augend + addend */
    bool weaves;             /* the statistics of a unit are made while the one before it is applied; */
    bool backwards; /* else it is applied from its end, which was read last and may be in the cache */
    size_t units, unit_columns, strips; /* unit_columns: statistics of a unit, columns or rows */
    size_t blocks, part_blocks, parts;
} wn_job;

/* Statistics of a unit or of a part of it: an array element per column. They are of the data times scale,
 * which is 1 but for float64 data whose squares would leave the range. */
typedef struct {
    double *count;
    wn_states states;
    double *scale;
} wn_unit_state;

static inline wn_state wn_get_state(const wn_unit_state *from, size_t c) {
    return (wn_state){*from->count, from->states.mean[c], from->states.mean_lo[c], from->states.m2[c],
                      from->states.m2_lo[c]};
}

static inline void wn_put_state(const wn_states *to, size_t c, const wn_state *state) {
    to->mean[c] = state->mean;
    to->mean_lo[c] = state->mean_lo;
    to->m2[c] = state->m2;
    to->m2_lo[c] = state->m2_lo;
}

static inline wn_states wn_states_from(const wn_states *states, size_t c) {
    return (wn_states){states->mean + c, states->mean_lo + c, states->m2 + c, states->m2_lo + c};
}

/* What a pattern does. scratch is one thread's memory, of scratch_bytes. */
typedef struct {
    size_t scratch_bytes;
    /* Fills in units, unit_columns, strips, blocks, part_blocks and parts. */
    void (*cut)(wn_job *job, size_t threads);
    void (*part_moments)(const wn_job *job, size_t unit, size_t part, void *scratch, wn_unit_state *state);
    /* Chan's merge of b into a. */
    void (*merge)(const wn_job *job, size_t unit, wn_unit_state *a, const wn_unit_state *b);
    /* Merges what shares a statistic, and replaces statistics that left the range by those of scaled data. */
    void (*settle)(const wn_job *job, size_t unit, void *scratch, wn_unit_state *state);
    /* Readies scratch for part_apply on any part of the unit. */
    void (*finish)(const wn_job *job, size_t unit, void *scratch, const wn_unit_state *state);
    void (*part_apply)(const wn_job *job, size_t unit, size_t part, void *scratch);
    /* part_apply of a unit, readied, and part_moments of the one after it; false, and nothing done, if the
     * unit is not for this way. */
    bool (*weave)(const wn_job *job, size_t unit, size_t part, void *scratch, wn_unit_state *next);
    /* The number of the unit's first statistic in the problem's arrays, and how many it holds. */
    size_t (*first_statistic)(const wn_job *job, size_t unit, size_t *count);
} wn_pattern_ops;

extern const wn_pattern_ops wn_run_ops, wn_cols_ops;

/* The whole of a problem with given statistics; false, and nothing done, if it is not for this way. */
bool wn_apply_given(const wn_job *job, int threads);

/* Whether rows of more than a block share the loads of a weight of their length, WN_TEAM at a time, within
 * the cache: enough of them for that many threads. */
bool wn_go_side_by_side(const wn_job *job, size_t threads);

/* In place of part_apply on all parts, of the pattern run: the unit as int8. */
void wn_quantize_unit(const wn_job *job, size_t unit, void *scratch);

/* Statistics and apply of one row of the pattern run, a block at most, in scratch of its own. */
void wn_run_one_row(const wn_job *job, size_t row);

/* Writes n contiguous elements of x as the sum that they are, `offset` bytes into it. */
static inline void wn_add_elements(const wn_job *job, ptrdiff_t offset, size_t n) {
    const wn_problem *p = job->problem;
    job->kernels->add((const char *)p->augend + offset, (const char *)p->addend + offset,
                      (char *)(uintptr_t)p->x + offset, n);
}

/* Element i of an array of float64 or, for all other dtypes, float32. */
static inline double wn_wide_at(const void *array, wn_dtype dtype, size_t i) {
    return dtype == WN_f64 ? ((const double *)array)[i] : (double)((const float *)array)[i];
}

/* One element where there are no axes. */
static inline wn_axis wn_last_axis(const wn_axes *axes) {
    return axes->ndim ? axes->axis[axes->ndim - 1] : (wn_axis){1, 0, 0, 0, 0};
}

/* Weight and bias from element `affine` on, and what follows them. */
static inline wn_affine wn_affine_at(const wn_job *job, ptrdiff_t affine) {
    const wn_problem *p = job->problem;
    ptrdiff_t bytes = affine * (ptrdiff_t)job->compute_size;
    return (wn_affine){p->weight ? (const char *)p->weight + bytes : NULL,
                       p->bias ? (const char *)p->bias + bytes : NULL,
                       job->inner_affine,
                       p->activation,
                       job->to_compute,
                       job->stream,
                       job->far,
                       job->l1};
}

typedef struct {
    ptrdiff_t x, y, affine, mask;
} wn_offset;

static inline size_t wn_min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t wn_ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }

/* Where the index-th element of a group of axes lies: bytes in x, y and mask, elements in weight and bias. */
static inline wn_offset wn_locate(const wn_axes *axes, size_t index) {
    wn_offset at = {0, 0, 0, 0};
    for (int d = axes->ndim; d-- > 0;) {
        const wn_axis *axis = &axes->axis[d];
        size_t i = index;
        if (d > 0) {
            i = index % (size_t)axis->count;
            index /= (size_t)axis->count;
        }
        at.x += (ptrdiff_t)i * axis->x_stride;
        at.y += (ptrdiff_t)i * axis->y_stride;
        at.affine += (ptrdiff_t)i * axis->affine_stride;
        at.mask += (ptrdiff_t)i * axis->mask_stride;
    }
    return at;
}

/* Rows from `row` on, at most `most`, that lie along the last of the reduced axes: where the first one is,
 * what leads from one to the next, and how many. */
typedef struct {
    wn_offset at, step;
    size_t count;
} wn_stretch;

static inline wn_stretch wn_stretch_from(const wn_job *job, size_t row, size_t most) {
    const wn_axes *rows = &job->problem->reduced;
    if (rows->ndim == 0) return (wn_stretch){{0, 0, 0, 0}, {0, 0, 0, 0}, 1};
    const wn_axis *last = &rows->axis[rows->ndim - 1];
    size_t length = (size_t)last->count;
    return (wn_stretch){wn_locate(rows, row),
                        {last->x_stride, last->y_stride, last->affine_stride, last->mask_stride},
                        wn_min(most, length - row % length)};
}

/* n affine parameters of the compute type, or `missing` where the problem has none: for a bias -0, which is
 * what adds nothing to either zero. */
static inline void wn_load_parameters(const wn_job *job, const void *source, ptrdiff_t from, size_t n,
                                      double missing, void *parameters) {
    if (source)
        memcpy(parameters, (const char *)source + from * (ptrdiff_t)job->compute_size, n * job->compute_size);
    else if (job->compute_f64)
        for (size_t i = 0; i < n; i++) ((double *)parameters)[i] = missing;
    else
        for (size_t i = 0; i < n; i++) ((float *)parameters)[i] = (float)missing;
}

/* A norm of columns from column c on. */
static inline wn_cols_norm wn_cols_norm_from(const wn_job *job, const wn_cols_norm *norm, size_t c) {
    size_t bytes = c * job->compute_size;
    return (wn_cols_norm){(const char *)norm->mean_hi + bytes, (const char *)norm->rstd + bytes,
                          (const char *)norm->offset + bytes};
}

/* How far one part of columns' norms is from the next, each at its place beside y. */
static inline size_t wn_apart(size_t bytes) { return wn_ceil_div(bytes, 2 * WN_APART) * (2 * WN_APART); }

/* How many rows of the pattern cols make one for the apply step, of `most` columns (half as many of float64),
 * as far as they do: a kernel takes time for each row, however short, and for the line that it shares with
 * the next. Along the last axis they must lie one after the other, in x and in y; where given.c takes them,
 * which counts in such rows, it must be the only axis. */
static inline size_t wn_rows_together(const wn_job *job, size_t most) {
    const wn_problem *p = job->problem;
    const wn_axis rows = wn_last_axis(&p->reduced);
    size_t columns = (size_t)p->inner.count, whole = 1;
    size_t together = most * sizeof(float) / (columns * job->compute_size);
    bool is_one_piece = rows.x_stride == (int64_t)(columns * job->x_size) &&
                        rows.y_stride == (int64_t)(columns * job->y_size) && job->direct_x && job->direct_y;
    if (p->given_mean && p->outer.count == 1) is_one_piece &= p->reduced.ndim <= 1;
    while (whole * columns * job->y_size % 64 != 0) whole *= 2;
    if (whole <= together) together -= together % whole;
    return together > 1 && is_one_piece && !p->mask && (size_t)rows.count >= together ? together : 1;
}

/* The norm of `columns` columns `times` times, one after the other. */
static inline void wn_repeat(const wn_job *job, const wn_cols_norm *norm, size_t columns, size_t times) {
    size_t bytes = columns * job->compute_size;
    const void *parts[] = {norm->mean_hi, norm->rstd, norm->offset};
    for (size_t part = 0; part < 3; part++)
        for (size_t t = 1; t < times; t++)
            memcpy((char *)(uintptr_t)parts[part] + t * bytes, parts[part], bytes);
}

#endif
