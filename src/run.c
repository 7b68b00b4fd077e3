/* The pattern run: a statistic over segments of contiguous (or packed) elements. */
#include "job.h"
#include "pack.h"
#include "wide.h"

typedef struct {
    double x[WN_BLOCK], y[WN_BLOCK]; /* room for a block of any dtype */
    const void *runs[WN_BLOCK_RUNS];
    wn_norm norm;
    bool wide;
} run_scratch;

/* A block: run_count runs of n elements each, from `begin` on within the segments from `segment` on. */
typedef struct {
    size_t segment, run_count, begin, n;
} run_block;

static size_t segment_blocks(const wn_job *job) {
    return wn_ceil_div((size_t)job->problem->inner.count, WN_BLOCK);
}

/* How many whole segments share a block. */
static size_t block_segments(const wn_job *job) {
    size_t n = (size_t)job->problem->inner.count;
    return n >= WN_BLOCK ? 1 : WN_BLOCK / n;
}

static bool is_packed(const wn_job *job) {
    return job->problem->inner.count < WN_PACK && job->problem->reduced.count > 1;
}

static run_block block_at(const wn_job *job, size_t index) {
    size_t n = (size_t)job->problem->inner.count, segments = (size_t)job->problem->reduced.count;
    size_t per_segment = segment_blocks(job), per_block = block_segments(job);
    if (per_segment > 1 || per_block == 1) {
        size_t begin = index % per_segment * WN_BLOCK;
        return (run_block){index / per_segment, 1, begin, wn_min(WN_BLOCK, n - begin)};
    }
    size_t segment = index * per_block;
    return (run_block){segment, wn_min(per_block, segments - segment), 0, n};
}

static void cut(wn_job *job, size_t threads) {
    (void)threads;
    size_t segments = (size_t)job->problem->reduced.count;
    job->units = (size_t)job->problem->outer.count;
    job->unit_columns = job->strips = 1;
    job->blocks =
        block_segments(job) > 1 ? wn_ceil_div(segments, block_segments(job)) : segments * segment_blocks(job);
    job->part_blocks = wn_ceil_div(job->blocks, WN_MAX_PARTS);
    if (job->part_blocks < WN_PART_BLOCKS) job->part_blocks = WN_PART_BLOCKS;
    job->parts = wn_ceil_div(job->blocks, job->part_blocks);
}

static const char *segment_x(const wn_job *job, size_t unit, size_t segment) {
    const wn_problem *p = job->problem;
    return (const char *)p->x + wn_locate(&p->outer, unit).x + wn_locate(&p->reduced, segment).x;
}

/* Makes block.runs in scratch point at the block's runs, packed or scaled first where that is called for.
 * Returns the number of runs: one where they were packed into one. */
static size_t load_block(const wn_job *job, size_t unit, const run_block *block, double scale,
                         run_scratch *scratch) {
    char *packed = (char *)scratch->x;
    bool direct = job->direct_x && scale == 1.0 && !is_packed(job);
    for (size_t i = 0; i < block->run_count; i++) {
        const char *x = segment_x(job, unit, block->segment + i);
        char *dst = packed + i * block->n * job->x_size;
        if (!direct) wn_gather(job, x, block->begin, block->n, scale, dst);
        if (!is_packed(job)) scratch->runs[i] = direct ? x + block->begin * job->x_size : dst;
    }
    if (!is_packed(job)) return block->run_count;
    scratch->runs[0] = packed;
    return 1;
}

static void scaled_part_moments(const wn_job *job, size_t unit, size_t part, double scale,
                                run_scratch *scratch, wn_state *state) {
    size_t end = wn_min(job->blocks, (part + 1) * job->part_blocks);
    state->count = 0.0;
    for (size_t index = part * job->part_blocks; index < end; index++) {
        run_block block = block_at(job, index);
        wn_state of_block;
        size_t runs = load_block(job, unit, &block, scale, scratch);
        job->kernels->moments_run(scratch->runs, runs, block.run_count / runs * block.n, &of_block);
        wn_merge(state, &of_block);
    }
}

static wn_state get(const wn_unit_state *from) {
    return (wn_state){*from->count, *from->states.mean, *from->states.mean_lo, *from->states.m2};
}

static void put(wn_unit_state *to, const wn_state *state, double scale) {
    *to->count = state->count;
    *to->states.mean = state->mean;
    *to->states.mean_lo = state->mean_lo;
    *to->states.m2 = state->m2;
    *to->scale = scale;
}

static void part_moments(const wn_job *job, size_t unit, size_t part, void *scratch, wn_unit_state *to) {
    wn_state state;
    scaled_part_moments(job, unit, part, 1.0, scratch, &state);
    put(to, &state, 1.0);
}

static void merge(const wn_job *job, size_t unit, wn_unit_state *a, const wn_unit_state *b) {
    (void)job;
    (void)unit;
    wn_state merged = get(a), other = get(b);
    wn_merge(&merged, &other);
    put(a, &merged, 1.0);
}

static double unit_max_magnitude(const wn_job *job, size_t unit, run_scratch *scratch) {
    double most = 0.0;
    for (size_t index = 0; index < job->blocks; index++) {
        run_block block = block_at(job, index);
        for (size_t i = 0; i < block.run_count; i++) {
            wn_gather(job, segment_x(job, unit, block.segment + i), block.begin, block.n, 1.0, scratch->x);
            double magnitude = wn_max_magnitude(scratch->x, block.n);
            if (!(magnitude <= most)) most = magnitude;
            if (magnitude != magnitude) return magnitude;
        }
    }
    return most;
}

static void rescale(const wn_job *job, size_t unit, void *scratch, wn_unit_state *to) {
    wn_state state = get(to);
    if (!wn_needs_scale(job, &state)) return;
    double scale = wn_scale_for(unit_max_magnitude(job, unit, scratch), job->problem->eps);
    if (scale == 1.0) return;
    state.count = 0.0;
    for (size_t part = 0; part < job->parts; part++) {
        wn_state of_part;
        scaled_part_moments(job, unit, part, scale, scratch, &of_part);
        wn_merge(&state, &of_part);
    }
    put(to, &state, scale);
}

static void finish(const wn_job *job, size_t unit, void *memory, const wn_unit_state *from) {
    (void)unit;
    run_scratch *scratch = memory;
    wn_state state = get(from);
    double scale = *from->scale, eps = job->problem->eps * scale * scale;
    scratch->norm = wn_finish(&state, eps);
    scratch->norm.scale = scale;
    scratch->wide = scale != 1.0 || wn_is_wide(job, &scratch->norm, state.m2, eps);
}

/* Applies the norm to n contiguous elements whose parameters start at affine. */
static void apply(const wn_job *job, const run_scratch *scratch, const void *x, void *y, size_t n,
                  ptrdiff_t affine) {
    const wn_problem *p = job->problem;
    const char *weight = p->weight ? (const char *)p->weight + affine * (ptrdiff_t)job->compute_size : NULL;
    const char *bias = p->bias ? (const char *)p->bias + affine * (ptrdiff_t)job->compute_size : NULL;
    if (scratch->wide)
        wn_wide_apply(job, x, y, n, &scratch->norm, weight, bias, job->inner_affine);
    else
        job->kernels->apply_run(x, y, n, &scratch->norm, weight, bias, job->inner_affine);
}

static void part_apply(const wn_job *job, size_t unit, size_t part, void *memory) {
    run_scratch *scratch = memory;
    const wn_problem *p = job->problem;
    wn_offset of_unit = wn_locate(&p->outer, unit);
    size_t end = wn_min(job->blocks, (part + 1) * job->part_blocks);
    for (size_t index = part * job->part_blocks; index < end; index++) {
        run_block block = block_at(job, index);
        for (size_t i = 0; i < block.run_count; i++) {
            wn_offset of_segment = wn_locate(&p->reduced, block.segment + i);
            const char *x = (const char *)p->x + of_unit.x + of_segment.x;
            char *y = (char *)p->y + of_unit.y + of_segment.y;
            ptrdiff_t affine = of_unit.affine + of_segment.affine;
            if (job->inner_affine) affine += (ptrdiff_t)block.begin;
            const void *from = x + block.begin * job->x_size;
            if (!job->direct_x) {
                wn_gather(job, x, block.begin, block.n, 1.0, scratch->x);
                from = scratch->x;
            }
            void *to = job->direct_y ? (void *)(y + block.begin * job->y_size) : (void *)scratch->y;
            apply(job, scratch, from, to, block.n, affine);
            if (!job->direct_y) wn_scatter(job, scratch->y, y, block.begin, block.n);
        }
    }
}

void wn_run_one_unit(const wn_job *whole, size_t unit) {
    run_scratch scratch;
    double count, mean, mean_lo, m2, scale;
    wn_unit_state state = {&count, {&mean, &mean_lo, &m2}, &scale};
    wn_job job = *whole;
    cut(&job, 1);
    part_moments(&job, unit, 0, &scratch, &state);
    rescale(&job, unit, &scratch, &state);
    finish(&job, unit, &scratch, &state);
    part_apply(&job, unit, 0, &scratch);
}

static size_t first_statistic(const wn_job *job, size_t unit, size_t *count) {
    (void)job;
    *count = 1;
    return unit;
}

const wn_pattern_ops wn_run_ops = {sizeof(run_scratch), cut, part_moments, merge, rescale, finish, part_apply,
                                   first_statistic};
