/* The apply step alone, with given statistics, in the order in which x lies in memory: batch norm in
 * inference. */
#include "job.h"
#include "threads.h"

#include <stdatomic.h>
#include <stdlib.h>

/* Norms that every thread finishes for itself, in memory of its own: to fetch them from another's cache, and
 * to write again what another has, takes longer. Of more than so many each finishes a share. */
enum { MOST_OWN = 4096 };

/* Columns that rows, or rows together, take at a time within the cache: L1 holds the norms of so many from
 * row to row, beside x and y. Past the cache parts of rows would be more streams. */
enum { MOST_COLUMNS = 1024 };

typedef struct {
    const wn_job *job;
    size_t statistics;
    size_t together;     /* rows that make one in cols */
    char *memory;        /* of norms, */
    size_t part;         /* bytes of each of their three parts, */
    size_t thread_bytes; /* and from one thread's to the next's; 0: all have the same */
    atomic_bool fits;    /* all statistics, with their weight and bias, are for a kernel */
} given_call;

static wn_affine what_follows(const wn_job *job) {
    return (wn_affine){.activation = job->problem->activation,
                       .to_compute = job->to_compute,
                       .stream = job->stream,
                       .l1 = job->l1};
}

static wn_cols_norm norms_of(const given_call *call, int thread) {
    const char *memory = call->memory + (size_t)thread * call->thread_bytes;
    return (wn_cols_norm){memory, memory + call->part, memory + 2 * call->part};
}

/* Fills in norms [begin, end), weight and bias folded in; false if one of them is not for a kernel. */
static bool finish(const given_call *call, size_t begin, size_t end, const wn_cols_norm *norms) {
    enum { AT_ONCE = 64 };
    const wn_job *job = call->job;
    const wn_problem *p = job->problem;
    double mean[AT_ONCE], var[AT_ONCE];
    const wn_states given = {.mean = mean, .m2 = var};
    for (size_t first = begin, count; first < end; first += count) {
        count = wn_min(AT_ONCE, end - first);
        for (size_t i = 0; i < count; i++) {
            mean[i] = wn_wide_at(p->given_mean, p->given_dtype, first + i);
            var[i] = wn_wide_at(p->given_var, p->given_dtype, first + i);
        }
        const wn_cols_norm to = wn_cols_norm_from(job, norms, first);
        const wn_affine affine = wn_affine_at(job, (ptrdiff_t)first);
        if (!job->kernels->finish_cols(&given, 1.0, p->eps, affine.weight, affine.bias, count, &to))
            return false;
    }
    return true;
}

/* One segment after the other, in the order of memory: the reduced index goes slowest. */
static void apply_in_runs(const given_call *call, const wn_cols_norm *norms, int thread, int thread_count) {
    const wn_job *job = call->job;
    const wn_problem *p = job->problem;
    const wn_axis last = wn_last_axis(&p->outer);
    const wn_affine affine = what_follows(job);
    size_t outer = call->statistics, length = (size_t)last.count, n = (size_t)p->inner.count;
    size_t item, end, count;
    wn_split((size_t)p->reduced.count * outer, thread, thread_count, &item, &end);
    for (; item < end; item += count) { /* as many as lie along the last axis */
        size_t unit = item % outer;
        wn_offset row = wn_locate(&p->reduced, item / outer), at = wn_locate(&p->outer, unit);
        const wn_cols_norm norm = wn_cols_norm_from(job, norms, unit);
        count = wn_min(end - item, length - unit % length);
        job->kernels->apply_runs((const char *)p->x + row.x + at.x, last.x_stride,
                                 (char *)p->y + row.y + at.y, last.y_stride, count, n, &norm, &affine);
    }
}

static void apply_in_cols(const given_call *call, const wn_cols_norm *norms, int thread, int thread_count) {
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
        for (size_t done = 0, next; done < count; done = next) {
            wn_stretch from = wn_stretch_from(job, row + done * together, (count - done) * together);
            next = done + from.count / together;
            for (size_t r = done; r < next; r++) {
                ptrdiff_t step = (ptrdiff_t)((r - done) * together);
                x_rows[r] = (const char *)p->x + from.at.x + step * from.step.x;
                y_rows[r] = (char *)p->y + from.at.y + step * from.step.y;
            }
        }
        size_t width = job->stream ? columns * together : MOST_COLUMNS, part;
        for (size_t c = 0; c < columns * together; c += part) {
            const wn_cols_norm norm = wn_cols_norm_from(job, norms, c);
            part = wn_min(width, columns * together - c);
            job->kernels->apply_cols(x_rows, y_rows, count, part, &norm, &affine);
            for (size_t r = 0; r < count; r++) {
                x_rows[r] = (const char *)x_rows[r] + part * job->x_size;
                y_rows[r] = (char *)y_rows[r] + part * job->y_size;
            }
        }
    }
}

static void finish_body(void *context, int thread, int thread_count) {
    given_call *call = context;
    const wn_cols_norm norms = norms_of(call, 0);
    size_t begin, end;
    wn_split(call->statistics, thread, thread_count, &begin, &end);
    if (!finish(call, begin, end, &norms)) call->fits = false;
}

static void apply_body(void *context, int thread, int thread_count) {
    given_call *call = context;
    const wn_cols_norm norms = norms_of(call, thread);
    if (call->thread_bytes) {
        if (!finish(call, 0, call->statistics, &norms)) { /* as for every other thread: nothing is written */
            call->fits = false;
            return;
        }
        wn_repeat(call->job, &norms, call->statistics, call->together);
    }
    if (call->job->problem->pattern == WN_COLS)
        apply_in_cols(call, &norms, thread, thread_count);
    else
        apply_in_runs(call, &norms, thread, thread_count);
    if (call->job->stream) call->job->kernels->stream_end();
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
    bool is_shared = count > MOST_OWN;
    size_t together = in_cols ? wn_rows_together(job, job->stream ? 2 * WN_TOGETHER : WN_TOGETHER) : 1;
    size_t part = wn_apart(count * together * job->compute_size);
    char *memory = malloc((is_shared ? 1 : (size_t)threads) * 3 * part + 2 * WN_APART);
    if (!memory) return false; /* the other way needs less */
    given_call call = {job, count, together, wn_beside(memory, p->y), part, is_shared ? 0 : 3 * part, true};
    if (is_shared) wn_parallel(threads, finish_body, &call);
    if (call.fits) wn_parallel(threads, apply_body, &call);
    free(memory);
    return call.fits;
}
