/* The apply step alone, with given statistics, in the order in which x lies in memory: batch norm in
 * inference. */
#include "job.h"
#include "threads.h"
#include "wide.h"

#include <stdlib.h>

/* What the body needs for each statistic: a norm in the pattern run; in cols its parts, weight and bias, of
 * the compute type. */
typedef struct {
    const wn_job *job;
    wn_norm *norms;
    char *mean_hi, *rstd, *offset, *weight, *bias;
} given_call;

/* One segment after the other, in the order of memory: the reduced index goes slowest. */
static void run_body(void *context, int thread, int thread_count) {
    const given_call *call = context;
    const wn_job *job = call->job;
    const wn_problem *p = job->problem;
    const wn_axis last = wn_last_axis(&p->outer);
    size_t outer = (size_t)p->outer.count, length = (size_t)last.count, n = (size_t)p->inner.count;
    size_t item, end, count;
    wn_split((size_t)p->reduced.count * outer, thread, thread_count, &item, &end);
    for (; item < end; item += count) { /* as many as lie along the last axis */
        size_t unit = item % outer;
        wn_offset row = wn_locate(&p->reduced, item / outer), at = wn_locate(&p->outer, unit);
        const char *x = (const char *)p->x + row.x + at.x;
        char *y = (char *)p->y + row.y + at.y;
        count = wn_min(end - item, length - unit % length);
        for (size_t i = 0; i < count; i++) {
            ptrdiff_t k = (ptrdiff_t)i;
            wn_affine affine = wn_affine_at(job, row.affine + at.affine + k * last.affine_stride);
            job->kernels->apply_run(x + k * last.x_stride, y + k * last.y_stride, n, &call->norms[unit + i],
                                    &affine);
        }
    }
    if (job->stream) job->kernels->stream_end();
}

static void cols_body(void *context, int thread, int thread_count) {
    const given_call *call = context;
    const wn_job *job = call->job;
    const wn_problem *p = job->problem;
    const wn_cols_norm norm = {call->mean_hi, call->rstd, call->offset};
    const wn_affine affine = {call->weight, call->bias, 1, p->activation, job->to_compute, job->stream};
    size_t row, end, count;
    wn_split((size_t)p->reduced.count, thread, thread_count, &row, &end);
    for (; row < end; row += count) {
        const void *x_rows[WN_ROWS];
        void *y_rows[WN_ROWS];
        count = wn_min(WN_ROWS, end - row);
        for (size_t r = 0; r < count; r++) {
            wn_offset at = wn_locate(&p->reduced, row + r);
            x_rows[r] = (const char *)p->x + at.x;
            y_rows[r] = (char *)p->y + at.y;
        }
        job->kernels->apply_cols(x_rows, y_rows, count, (size_t)p->inner.count, &norm, &affine);
    }
    if (job->stream) job->kernels->stream_end();
}

/* Fills in what the body needs; false if a statistic is for the wide path. */
static bool finish(given_call *call, size_t count) {
    const wn_job *job = call->job;
    const wn_problem *p = job->problem;
    for (size_t i = 0; i < count; i++) {
        const wn_state state = {.count = 1.0, .mean = p->given_mean[i], .m2 = p->given_var[i]};
        wn_norm norm = wn_finish(&state, p->eps);
        if (fabs(state.mean) > WN_FAR_MEAN || wn_is_wide(job, &norm, state.m2, p->eps)) return false;
        if (p->pattern == WN_RUN)
            call->norms[i] = norm;
        else
            wn_put_norm(job, i, &norm, call->mean_hi, call->rstd, call->offset);
    }
    if (p->pattern == WN_COLS) {
        wn_load_parameters(job, p->weight, 0, count, 1.0, call->weight);
        wn_load_parameters(job, p->bias, 0, count, -0.0, call->bias);
    }
    return true;
}

bool wn_apply_given(const wn_job *job, int threads) {
    const wn_problem *p = job->problem;
    bool in_cols = p->pattern == WN_COLS;
    size_t count = (size_t)(in_cols ? p->inner.count : p->outer.count);
    if (!job->direct_x || !job->direct_y || p->mask || p->group != 1) return false;
    if (in_cols && (p->outer.count != 1 || !job->inner_affine || job->rows_affine)) return false;
    size_t bytes = in_cols ? 5 * job->compute_size : sizeof(wn_norm);
    char *memory = malloc(count * bytes);
    if (!memory) return false; /* the other way needs less for many statistics */
    size_t part = count * job->compute_size;
    given_call call = {job,
                       (wn_norm *)memory,
                       memory,
                       memory + part,
                       memory + 2 * part,
                       memory + 3 * part,
                       memory + 4 * part};
    bool fits = finish(&call, count);
    if (fits) wn_parallel(threads, in_cols ? cols_body : run_body, &call);
    free(memory);
    return fits;
}
