/* The apply step alone, with given statistics, in the order in which x lies in memory: batch norm in
 * inference. */
#include "job.h"
#include "threads.h"

#include <stdlib.h>

typedef struct {
    const wn_job *job;
    wn_cols_norm norm; /* of each statistic, weight and bias folded in */
    size_t together;   /* rows that make one in cols */
} given_call;

static wn_affine what_follows(const wn_job *job) {
    return (wn_affine){
        .activation = job->problem->activation, .to_compute = job->to_compute, .stream = job->stream};
}

/* One segment after the other, in the order of memory: the reduced index goes slowest. */
static void run_body(void *context, int thread, int thread_count) {
    const given_call *call = context;
    const wn_job *job = call->job;
    const wn_problem *p = job->problem;
    const wn_axis last = wn_last_axis(&p->outer);
    const wn_affine affine = what_follows(job);
    size_t outer = (size_t)p->outer.count, length = (size_t)last.count, n = (size_t)p->inner.count;
    size_t item, end, count;
    wn_split((size_t)p->reduced.count * outer, thread, thread_count, &item, &end);
    for (; item < end; item += count) { /* as many as lie along the last axis */
        size_t unit = item % outer;
        wn_offset row = wn_locate(&p->reduced, item / outer), at = wn_locate(&p->outer, unit);
        const wn_cols_norm norm = wn_cols_norm_from(job, &call->norm, unit);
        count = wn_min(end - item, length - unit % length);
        job->kernels->apply_runs((const char *)p->x + row.x + at.x, last.x_stride,
                                 (char *)p->y + row.y + at.y, last.y_stride, count, n, &norm, &affine);
    }
    if (job->stream) job->kernels->stream_end();
}

static void cols_body(void *context, int thread, int thread_count) {
    const given_call *call = context;
    const wn_job *job = call->job;
    const wn_problem *p = job->problem;
    const wn_affine affine = what_follows(job);
    size_t rows = (size_t)p->reduced.count, columns = (size_t)p->inner.count, row, end, count, together;
    wn_split(wn_ceil_div(rows, call->together), thread, thread_count, &row, &end);
    row *= call->together, end = wn_min(rows, end * call->together);
    for (; row < end; row += count * together) {
        const void *x_rows[WN_ROWS];
        void *y_rows[WN_ROWS];
        together = wn_min(end - row, call->together);
        count = wn_min(WN_ROWS, (end - row) / together);
        for (size_t r = 0; r < count; r++) {
            wn_offset at = wn_locate(&p->reduced, row + r * together);
            x_rows[r] = (const char *)p->x + at.x;
            y_rows[r] = (char *)p->y + at.y;
        }
        job->kernels->apply_cols(x_rows, y_rows, count, columns * together, &call->norm, &affine);
    }
    if (job->stream) job->kernels->stream_end();
}

/* Fills in the norms; false if a statistic, or its weight and bias, are not for a kernel. */
static bool finish(const given_call *call, size_t count) {
    const wn_job *job = call->job;
    const wn_problem *p = job->problem;
    const wn_states given = {.mean = (double *)(uintptr_t)p->given_mean,
                             .m2 = (double *)(uintptr_t)p->given_var};
    if (!job->kernels->finish_cols(&given, 1.0, p->eps, p->weight, p->bias, count, &call->norm)) return false;
    wn_repeat(job, &call->norm, count, call->together);
    return true;
}

/* Whether weight and bias have an element for each statistic, in their order. */
static bool is_affine_by_statistic(const wn_job *job) {
    const wn_problem *p = job->problem;
    const wn_axes *axes = p->pattern == WN_COLS ? &p->inner : &p->outer;
    int64_t stride = 1;
    if (!p->weight && !p->bias) return true;
    for (int d = axes->ndim; d-- > 0;) {
        const wn_axis *axis = &axes->axis[d];
        if (axis->count > 1 && axis->affine_stride != stride) return false;
        stride *= axis->count;
    }
    for (int d = 0; d < p->reduced.ndim; d++)
        if (p->reduced.axis[d].count > 1 && p->reduced.axis[d].affine_stride != 0) return false;
    return (p->pattern == WN_COLS) == job->inner_affine;
}

bool wn_apply_given(const wn_job *job, int threads) {
    const wn_problem *p = job->problem;
    bool in_cols = p->pattern == WN_COLS;
    size_t count = (size_t)(in_cols ? p->inner.count : p->outer.count);
    if (!job->direct_x || !job->direct_y || p->mask || p->group != 1) return false;
    if ((in_cols && p->outer.count != 1) || !is_affine_by_statistic(job)) return false;
    size_t together = in_cols && p->reduced.ndim <= 1 ? wn_rows_together(job) : 1,
           part = count * together * job->compute_size;
    char *memory = malloc(3 * part);
    if (!memory) return false; /* the other way needs less for many statistics */
    given_call call = {job, {memory, memory + part, memory + 2 * part}, together};
    bool fits = finish(&call, count);
    if (fits) wn_parallel(threads, in_cols ? cols_body : run_body, &call);
    free(memory);
    return fits;
}
