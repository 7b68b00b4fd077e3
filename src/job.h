/* What the drivers share: a problem cut into units and parts, and the way to its elements.
 *
 * A unit holds whole statistics: one statistic in the pattern run, a strip of columns in cols. A part is a
 * fixed number of a unit's blocks. Units and parts are shared out among threads, but which blocks exist and
 * in which order they merge (blocks within a part, then parts) depends on the shape alone: the bits of a
 * result depend neither on the number of threads nor on what else is in the batch. */
#ifndef WN_JOB_H
#define WN_JOB_H

#include "dispatch.h"

#include <stdbool.h>
#include <string.h>

enum {
    WN_PART_BLOCKS = 4,       /* a part is at least so many blocks, */
    WN_MAX_PARTS = 1024,      /* and a unit at most so many parts, */
    WN_MAX_COLUMN_PARTS = 32, /* fewer in the pattern cols, where a part's state is a strip's: 16 KiB */
    WN_PACK = 32,             /* runs shorter than this are packed before their statistics are taken */
    WN_TILE = 64              /* columns of a strip that is packed */
};

typedef struct {
    const wn_problem *problem;
    const struct wn_dtype_kernels *kernels;
    size_t x_size, y_size, compute_size;
    bool compute_f64;
    bool direct_x, direct_y; /* the inner elements are contiguous (and of x's dtype): no packing */
    bool inner_affine;       /* weight and bias vary along the inner axes */
    size_t units, unit_columns, strips;
    size_t blocks, part_blocks, parts;
} wn_job;

/* Statistics of a unit or of a part of it: an array element per column. They are of the data times scale,
 * which is 1 but for float64 data whose squares would leave the range. */
typedef struct {
    double *count;
    wn_states states;
    double *scale;
} wn_unit_state;

/* What a pattern does. scratch is one thread's memory, of scratch_bytes. */
typedef struct {
    size_t scratch_bytes;
    /* Fills in units, unit_columns, strips, blocks, part_blocks and parts. */
    void (*cut)(wn_job *job, size_t threads);
    void (*part_moments)(const wn_job *job, size_t unit, size_t part, void *scratch, wn_unit_state *state);
    /* Chan's merge of b into a. */
    void (*merge)(const wn_job *job, size_t unit, wn_unit_state *a, const wn_unit_state *b);
    /* Replaces the statistics that left the range by those of scaled data. */
    void (*rescale)(const wn_job *job, size_t unit, void *scratch, wn_unit_state *state);
    /* Readies scratch for part_apply on any part of the unit. */
    void (*finish)(const wn_job *job, size_t unit, void *scratch, const wn_unit_state *state);
    void (*part_apply)(const wn_job *job, size_t unit, size_t part, void *scratch);
    /* The number of the unit's first statistic in the problem's arrays, and how many it holds. */
    size_t (*first_statistic)(const wn_job *job, size_t unit, size_t *count);
} wn_pattern_ops;

extern const wn_pattern_ops wn_run_ops, wn_cols_ops;

/* Statistics and apply of one unit of the pattern run, in scratch of its own. */
void wn_run_one_unit(const wn_job *job, size_t unit);

typedef struct {
    ptrdiff_t x, y, affine;
} wn_offset;

/* Where the index-th element of a group of axes lies: bytes in x and y, elements in weight and bias. */
static inline wn_offset wn_locate(const wn_axes *axes, size_t index) {
    wn_offset at = {0, 0, 0};
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
    }
    return at;
}

static inline size_t wn_min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t wn_ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }

#endif
