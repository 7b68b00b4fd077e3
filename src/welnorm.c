/* The drivers: cut a problem into units and parts, share them out among threads, one sweep or two. */
#include "welnorm.h"
#include "cache.h"
#include "job.h"
#include "threads.h"

#include <stdatomic.h>
#include <stdlib.h>

static const size_t dtype_bytes[WN_DTYPE_COUNT] = {
#define WN_DTYPE(name, type) sizeof(type),
#include "dtypes.def"
#undef WN_DTYPE
};

size_t wn_dtype_bytes(wn_dtype dtype) { return dtype_bytes[dtype]; }

enum {
    STATE_ARRAYS = 5,         /* mean, mean_lo, m2, m2_lo, scale */
    SPLIT_BELOW = 2,          /* units a thread, below which units are split */
    LONG_UNIT = 8 * WN_BLOCK, /* elements */
    SHORT_ROW = 128,          /* bytes: at most one line for itself, if it does not begin at one */
    LONG_ROW = 256,           /* a few */
    FEW_BYTES = 1 << 16 /* of rows that one thread takes without a plan; what is past the cache is far more */
};

typedef struct {
    size_t first, count;
} unit_range;

typedef struct {
    wn_job job;
    const wn_pattern_ops *ops;
    char *memory; /* every thread's scratch and two states, then the states of parts if units are split */
    size_t thread_bytes;
    double *part_states;
    size_t at_a_time;       /* units that are split at a time, */
    unit_range next, ready; /* those whose statistics are made, and those that are applied meanwhile */
} wn_call;

static bool is_contiguous(const wn_axes *inner, ptrdiff_t stride, size_t size) {
    return inner->ndim == 0 || (inner->ndim == 1 && stride == (ptrdiff_t)size);
}

static wn_job make_job(const wn_problem *p) {
    wn_job job = {.problem = p, .kernels = &wn_selected_isa()->dtype[p->x_dtype]};
    const wn_axis *last = p->inner.ndim ? &p->inner.axis[p->inner.ndim - 1] : NULL;
    job.x_size = dtype_bytes[p->x_dtype];
    job.y_size = dtype_bytes[p->y_dtype];
    job.compute_f64 = p->x_dtype == WN_f64;
    job.compute_size = job.compute_f64 ? sizeof(double) : sizeof(float);
    bool is_x = p->y_dtype == p->x_dtype, is_compute = p->y_dtype == (job.compute_f64 ? WN_f64 : WN_f32);
    if (p->scale) job.y_size = 1;
    job.direct_x = is_contiguous(&p->inner, last ? last->x_stride : 0, job.x_size);
    job.direct_y =
        !p->scale && (is_x || is_compute) && is_contiguous(&p->inner, last ? last->y_stride : 0, job.y_size);
    job.to_compute = !job.direct_y || !is_x;
    job.inner_affine = last && last->affine_stride != 0;
    for (int d = 0; d < p->reduced.ndim; d++)
        job.rows_affine |= job.inner_affine && p->reduced.axis[d].affine_stride != 0;
    job.adds = p->augend != NULL;
    job.l1 = wn_known_caches().l1;
    return job;
}

static size_t problem_bytes(const wn_problem *p, const wn_job *job) {
    size_t elements = (size_t)(p->outer.count * p->reduced.count * p->inner.count);
    size_t parameters = job->inner_affine ? (size_t)p->inner.count * (!!p->weight + !!p->bias) : 0;
    return elements * (job->x_size * (p->augend ? 3 : 1) + (p->y ? job->y_size : 0)) +
           parameters * job->compute_size;
}

/* A unit's or a part's state in memory: the count, then an array per statistic. */
static size_t state_doubles(const wn_job *job) { return 1 + STATE_ARRAYS * job->unit_columns; }

static wn_unit_state state_at(const wn_job *job, double *memory) {
    size_t columns = job->unit_columns;
    double *arrays = memory + 1;
    return (wn_unit_state){
        memory, {arrays, arrays + columns, arrays + 2 * columns, arrays + 3 * columns}, arrays + 4 * columns};
}

/* There is room for two ranges of units, or for all of them. */
static wn_unit_state part_state(const wn_call *call, size_t unit, size_t part) {
    size_t room = wn_min(2 * call->at_a_time, call->job.units);
    size_t index = unit % room * call->job.parts + part;
    return state_at(&call->job, call->part_states + index * state_doubles(&call->job));
}

static void *thread_scratch(const wn_call *call, int thread) {
    return call->memory + (size_t)thread * call->thread_bytes;
}

/* Each thread has room for two states: a unit's, and that of the part to merge next. */
static wn_unit_state thread_state(const wn_call *call, int thread, size_t which) {
    double *memory = (double *)((char *)thread_scratch(call, thread) + call->ops->scratch_bytes);
    return state_at(&call->job, memory + which * state_doubles(&call->job));
}

static wn_unit_state given_state(const wn_call *call, int thread, size_t unit) {
    const wn_problem *p = call->job.problem;
    wn_unit_state state = thread_state(call, thread, 0);
    size_t count, first = call->ops->first_statistic(&call->job, unit, &count);
    *state.count = 1.0;
    for (size_t c = 0; c < count; c++) {
        double mean = wn_wide_at(p->given_mean, p->given_dtype, first + c);
        double var = wn_wide_at(p->given_var, p->given_dtype, first + c);
        double scale = fabs(mean) > WN_FAR_MEAN ? 0.25 : 1.0;
        wn_put_state(&state.states, c, &(wn_state){.mean = mean * scale, .m2 = var * scale * scale});
        state.scale[c] = scale;
    }
    return state;
}

/* The unit's parts are merged: make its statistics final, and hand them out if they are asked for. */
static void settle(const wn_call *call, int thread, size_t unit, wn_unit_state *state) {
    const wn_problem *p = call->job.problem;
    size_t count, first = call->ops->first_statistic(&call->job, unit, &count);
    if (!p->exact) call->ops->settle(&call->job, unit, thread_scratch(call, thread), state);
    if (!p->states.mean) return;
    for (size_t c = 0; c < count; c++) {
        double scale = state->scale[c];
        wn_state s = wn_get_state(state, c);
        if (scale != 1.0)
            s = (wn_state){s.count, s.mean / scale, s.mean_lo / scale, s.m2 / scale / scale,
                           s.m2_lo / scale / scale};
        wn_put_state(&p->states, first + c, &s);
        p->count[first + c] = s.count;
    }
}

/* One sweep: whole units, statistics and apply while the data is in cache. */
static void unit_body(void *context, int thread, int thread_count) {
    const wn_call *call = context;
    const wn_job *job = &call->job;
    void *scratch = thread_scratch(call, thread);
    size_t unit, end;
    bool is_ahead = false;
    for (wn_split(job->units, thread, thread_count, &unit, &end); unit < end; unit++) {
        wn_unit_state total = thread_state(call, thread, 0), next = thread_state(call, thread, 1);
        for (size_t part = 0; part < job->parts && !is_ahead; part++) {
            call->ops->part_moments(job, unit, part, scratch, part ? &next : &total);
            if (part) call->ops->merge(job, unit, &total, &next);
        }
        settle(call, thread, unit, &total);
        if (!job->problem->y) continue;
        call->ops->finish(job, unit, scratch, &total);
        if (job->problem->scale) {
            wn_quantize_unit(job, unit, scratch);
            continue;
        }
        is_ahead = false;
        for (size_t part = 0; part < job->parts; part++) {
            if (job->weaves && unit + 1 < end &&
                call->ops->weave(job, unit, part, scratch, part ? &next : &total)) {
                is_ahead = true;
                if (part) call->ops->merge(job, unit + 1, &total, &next);
            } else {
                call->ops->part_apply(job, unit, job->backwards ? job->parts - 1 - part : part, scratch);
            }
        }
    }
    if (job->stream) job->kernels->stream_end();
}

/* Two sweeps where units are split: parts' statistics, their merge, parts' apply. A part of all units, and
 * then the next: units may be strips of the same rows. */
static void make_moments(const wn_call *call, int thread, int thread_count) {
    size_t item, end;
    for (wn_split(call->next.count * call->job.parts, thread, thread_count, &item, &end); item < end;
         item++) {
        size_t unit = call->next.first + item % call->next.count, part = item / call->next.count;
        wn_unit_state state = part_state(call, unit, part);
        call->ops->part_moments(&call->job, unit, part, thread_scratch(call, thread), &state);
    }
}

static void merge_body(void *context, int thread, int thread_count) {
    const wn_call *call = context;
    size_t index, end;
    for (wn_split(call->next.count, thread, thread_count, &index, &end); index < end; index++) {
        size_t unit = call->next.first + index;
        wn_unit_state total = part_state(call, unit, 0);
        for (size_t part = 1; part < call->job.parts; part++) {
            wn_unit_state next = part_state(call, unit, part);
            call->ops->merge(&call->job, unit, &total, &next);
        }
        settle(call, thread, unit, &total);
    }
}

static void apply(const wn_call *call, int thread, int thread_count) {
    const wn_job *job = &call->job;
    void *scratch = thread_scratch(call, thread);
    size_t begin, end, finished = SIZE_MAX;
    wn_split(call->ready.count * job->parts, thread, thread_count, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        size_t item = job->backwards ? end - 1 - (i - begin) : i;
        size_t unit = call->ready.first + item % call->ready.count, part = item / call->ready.count;
        if (unit != finished) {
            wn_unit_state state =
                job->problem->given_mean ? given_state(call, thread, unit) : part_state(call, unit, 0);
            call->ops->finish(job, unit, scratch, &state);
            finished = unit;
        }
        call->ops->part_apply(job, unit, part, scratch);
    }
    if (job->stream) job->kernels->stream_end();
}

/* Every other thread the other way round: some write to memory while others read from it. */
static void sweep_body(void *context, int thread, int thread_count) {
    const wn_call *call = context;
    if (thread % 2 == 1) make_moments(call, thread, thread_count);
    if (call->job.problem->y) apply(call, thread, thread_count);
    if (thread % 2 == 0) make_moments(call, thread, thread_count);
}

/* Rows of one block each, contiguous: the ordinary layer, RMS and instance norm. The kernel takes many rows a
 * call and needs no memory. */
static bool is_rows(const wn_job *job) {
    const wn_problem *p = job->problem;
    return p->pattern == WN_RUN && p->y && !p->given_mean && !p->states.mean && !p->mask && !p->scale &&
           p->reduced.count == 1 && p->inner.count <= WN_BLOCK && job->direct_x && job->direct_y;
}

static void rows_body(void *context, int thread, int thread_count) {
    const wn_job *job = context;
    const wn_problem *p = job->problem;
    const wn_axis last = wn_last_axis(&p->outer);
    size_t n = (size_t)p->inner.count, length = (size_t)last.count, row, end;
    wn_split((size_t)p->outer.count, thread, thread_count, &row, &end);
    wn_addends adds = {.done = 0};
    while (row < end) {
        wn_offset at = wn_locate(&p->outer, row);
        size_t count = wn_min(end - row, length - row % length);
        if (job->adds) {
            adds.augend = (const char *)p->augend + at.x;
            adds.addend = (const char *)p->addend + at.x;
        }
        wn_affine affine = wn_affine_at(job, at.affine);
        size_t done = job->kernels->norm_run((const char *)p->x + at.x, last.x_stride, (char *)p->y + at.y,
                                             last.y_stride, count, n, &affine, last.affine_stride, p->eps,
                                             p->centred, job->adds ? &adds : NULL);
        row += done;
        if (done < count) wn_run_one_row(job, row++), done++;
        adds.done = done < count ? adds.done - done : 0;
    }
    if (job->stream) job->kernels->stream_end();
}

/* As many units as stay in the cache from one sweep to the next, with room for others, but enough parts for
 * the threads; all of them where even one does not stay. Two of such ranges have states of parts at once,
 * which are not to be more than PART_STATES for each thread. */
static size_t units_at_a_time(const wn_job *job, size_t bytes, size_t threads, size_t state_bytes) {
    enum { PART_STATES = 768 << 10 }; /* with scratch less than 1 MB */
    size_t unit_bytes = bytes / job->units, cache = wn_known_caches().share;
    size_t fit = unit_bytes > cache ? job->units : cache / 4 / unit_bytes;
    size_t busy = wn_ceil_div(threads, job->parts),
           room = threads * PART_STATES / (2 * job->parts * state_bytes);
    fit = wn_min(fit, room);
    return wn_min(fit > busy ? fit : busy, job->units);
}

static void run_split(wn_call *call, int threads) {
    const wn_job *job = &call->job;
    do {
        call->next.count = wn_min(call->at_a_time, job->units - call->next.first);
        if (call->next.count > 0 || job->problem->y) wn_parallel(threads, sweep_body, call);
        wn_parallel(job->unit_columns > 1 && call->next.count > 1 ? threads : 1, merge_body, call);
        call->ready = call->next;
        call->next.first += call->next.count;
    } while (call->ready.count > 0);
}

static wn_status run_units(wn_call *call, int threads, bool split, size_t bytes) {
    const wn_job *job = &call->job;
    size_t state_bytes = state_doubles(job) * sizeof(double);
    size_t part_states = 0;
    if (split && !job->problem->given_mean) {
        call->at_a_time = units_at_a_time(job, bytes, (size_t)threads, state_bytes);
        part_states = wn_min(2 * call->at_a_time, job->units) * job->parts;
    }
    /* whole cache lines, so that threads do not share one */
    call->thread_bytes = wn_ceil_div(call->ops->scratch_bytes + 2 * state_bytes, 64) * 64;
    call->memory = malloc((size_t)threads * call->thread_bytes + part_states * state_bytes);
    if (!call->memory) return WN_NO_MEMORY;
    call->part_states = (double *)(call->memory + (size_t)threads * call->thread_bytes);
    if (job->problem->given_mean) {
        call->ready.count = job->units;
        wn_parallel(threads, sweep_body, call);
    } else if (split) {
        run_split(call, threads);
    } else {
        wn_parallel(threads, unit_body, call);
    }
    free(call->memory);
    return WN_OK;
}

/* Ordinary stores read each line before they write it, and drive what is read next out of the cache. Past the
 * cache they go where the data is more than fits, as others use it too, and whole lines of y are written that
 * nothing reads: y is not x. In the pattern cols, rows must lie alike to their lines, or most of a row's
 * lines be its own. */
static bool is_streamed(const wn_job *job, size_t bytes, size_t threads) {
    const wn_problem *p = job->problem;
    /* Long units, read again later, are driven out sooner, unless they go side by side on several threads. */
    bool has_long_units = p->pattern == WN_RUN && p->reduced.count * p->inner.count > LONG_UNIT;
    bool leaves_sooner =
        has_long_units && !p->given_mean && !(threads > 1 && wn_go_side_by_side(job, threads));
    /* Where a sum is written, too, what the cache still holds of more than fits saves most. */
    size_t eighths = leaves_sooner ? 5 : job->adds && threads > 1 ? 12 : 7;
    size_t fits = wn_known_caches().share / 8 * eighths;
    if (!p->y || p->y == p->x || !job->direct_y || job->to_compute || bytes <= fits) return false;
    if ((uintptr_t)p->y % job->y_size != 0) return false;
    size_t row_bytes = (size_t)p->inner.count * job->y_size;
    /* Runs with a line to themselves at most had better not; but a statistic's many, which lie apart, gain.
     */
    bool has_few_lines = row_bytes < SHORT_ROW && row_bytes % 64 != 0;
    if (p->pattern == WN_RUN) return !has_few_lines || (p->reduced.count > 1 && !p->given_mean);
    row_bytes *= wn_rows_together(job, WN_TOGETHER);
    bool alike = true;
    for (int d = 0; d < p->reduced.ndim; d++) alike &= p->reduced.axis[d].y_stride % 64 == 0;
    return alike || row_bytes >= LONG_ROW;
}

/* Whether lines of results had better be fetched, which may not be there any more: where it pays from, as
 * measured. In place they are those of x. It goes by the whole cache: by the CPUs' share of it that
 * would be sooner, and took longer. */
static bool is_far(const wn_job *job, size_t bytes) {
    size_t touched = job->problem->y == job->problem->x ? bytes / 2 : bytes;
    return !job->stream && touched > wn_known_caches().last / 8 * (job->adds ? 5 : 3);
}

/* Fewer units than keep the threads busy; or what goes past the cache, by units that stay in it from one
 * sweep to the next but not in a thread's own. */
static bool gains_by_split(const wn_job *job, size_t bytes, size_t threads) {
    if (job->units < SPLIT_BELOW * threads) return true;
    size_t unit_bytes = bytes / job->units, cache = wn_known_caches().share;
    return job->stream && !job->weaves && job->parts >= threads && unit_bytes > cache / 8 &&
           unit_bytes <= cache;
}

wn_status wn_run(const wn_problem *p) {
    wn_call call = {.job = make_job(p), .ops = p->pattern == WN_RUN ? &wn_run_ops : &wn_cols_ops};
    wn_job *job = &call.job;
    size_t bytes = problem_bytes(p, job);
    int threads = wn_threads_for(bytes, SIZE_MAX);
    job->stream = is_streamed(job, bytes, (size_t)threads);
    job->far = is_far(job, bytes);
    if (is_rows(job)) {
        wn_parallel(wn_threads_for(bytes, (size_t)p->outer.count), rows_body, job);
        return WN_OK;
    }
    if (p->given_mean && wn_apply_given(job, threads)) return WN_OK;
    call.ops->cut(job, (size_t)threads);
    bool split =
        job->parts > 1 && !p->scale && (p->given_mean || gains_by_split(job, bytes, (size_t)threads));
    size_t items = split ? job->units * job->parts : job->units;
    if ((size_t)threads > items) threads = (int)items;
    split = split && threads > 1;
    job->backwards = !p->given_mean && (split || !job->weaves);
    return run_units(&call, threads, split, bytes);
}

wn_status wn_norm_rows(wn_dtype dtype, const void *augend, const void *addend, const void *x, void *y,
                       size_t row_count, size_t n, const void *weight, const void *bias, double eps,
                       int centred, wn_activation activation) {
    int64_t size = (int64_t)dtype_bytes[dtype], row = (int64_t)n * size;
    if (!augend && n <= WN_BLOCK && row_count * (size_t)row < FEW_BYTES) {
        const wn_affine affine = {weight, bias, 1, activation, 0, 0, 0, wn_known_caches().l1};
        size_t done = wn_selected_isa()->dtype[dtype].norm_run(x, row, y, row, row_count, n, &affine, 0, eps,
                                                               centred, NULL);
        if (done == row_count) return WN_OK;
        row_count -= done, x = (const char *)x + done * (size_t)row, y = (char *)y + done * (size_t)row;
    }
    const wn_axis outer = {(int64_t)row_count, row, row, 0, 0}, inner = {(int64_t)n, size, size, 1, 0};
    const wn_problem problem = {
        .pattern = WN_RUN,
        .x_dtype = dtype,
        .y_dtype = dtype,
        .outer = {&outer, 1, outer.count},
        .reduced = {NULL, 0, 1},
        .inner = {&inner, 1, inner.count},
        .group = 1,
        .centred = centred,
        .x = x,
        .y = y,
        .weight = weight,
        .bias = bias,
        .activation = activation,
        .eps = eps,
        .augend = augend,
        .addend = addend,
    };
    return wn_run(&problem);
}

void wn_widen(wn_dtype dtype, const void *elements, void *wide, size_t n) {
    const wn_norm as_they_are = {.rstd = 1.0, .scale = 1.0};
    const wn_affine none = {.to_compute = 1};
    wn_selected_isa()->dtype[dtype].apply_run(elements, wide, n, &as_they_are, &none);
}

wn_axes wn_axes_of(const wn_axis *axis, int ndim) {
    wn_axes axes = {axis, ndim, 1};
    for (int d = 0; d < ndim; d++) axes.count *= axis[d].count;
    return axes;
}

typedef struct {
    char *dst;
    const char *src;
    size_t bytes, read_first;
    int nontemporal;
    atomic_uint *bits; /* for the compiler not to leave out the reading */
} copy_call;

static void copy_body(void *context, int thread, int thread_count) {
    const copy_call *call = context;
    const struct wn_dtype_kernels *kernels = &wn_selected_isa()->dtype[WN_f32];
    size_t line, end;
    wn_split(wn_ceil_div(call->bytes, 64), thread, thread_count, &line, &end);
    size_t step = call->read_first ? call->read_first : call->bytes;
    end = wn_min(call->bytes, end * 64);
    for (size_t begin = line * 64, bytes; begin < end; begin += bytes) {
        bytes = wn_min(step, end - begin);
        if (call->read_first) *call->bits |= kernels->read(call->src + begin, bytes / sizeof(uint32_t));
        kernels->copy(call->dst + begin, call->src + begin, bytes, call->nontemporal);
    }
}

void wn_copy(void *dst, const void *src, size_t bytes, int nontemporal, size_t read_first) {
    atomic_uint bits = 0;
    copy_call call = {dst, src, bytes, read_first, nontemporal, &bits};
    wn_parallel(wn_threads_for(2 * bytes, wn_ceil_div(bytes, 64)), copy_body, &call);
}
