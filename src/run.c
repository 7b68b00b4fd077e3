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
    const wn_problem *p = job->problem;
    job->weaves = p->y && job->direct_x && job->direct_y && !job->to_compute && !p->activation && !p->mask &&
                  !p->exact && !p->scale && !job->compute_f64 && p->reduced.ndim <= 1 && !is_packed(job);
}

static const char *segment_x(const wn_job *job, size_t unit, size_t segment) {
    const wn_problem *p = job->problem;
    return (const char *)p->x + wn_locate(&p->outer, unit).x + wn_locate(&p->reduced, segment).x;
}

static const uint8_t *segment_mask(const wn_job *job, size_t unit, size_t segment) {
    const wn_problem *p = job->problem;
    return p->mask + wn_locate(&p->outer, unit).mask + wn_locate(&p->reduced, segment).mask;
}

/* Makes runs in scratch point at the block's runs, packed or scaled first where that is called for; what the
 * mask leaves of them is packed into one. Returns their number and length, which may be 0. */
static size_t load_block(const wn_job *job, size_t unit, const run_block *block, double scale,
                         run_scratch *scratch, size_t *n) {
    char *packed = (char *)scratch->x, *dst = packed;
    bool packs = is_packed(job) || job->problem->mask;
    bool direct = job->direct_x && scale == 1.0 && !packs;
    for (size_t i = 0; i < block->run_count; i++) {
        const char *x = segment_x(job, unit, block->segment + i);
        size_t kept = block->n;
        if (!direct) wn_gather(job, x, block->begin, block->n, scale, dst);
        if (!packs) scratch->runs[i] = direct ? x + block->begin * job->x_size : dst;
        if (job->problem->mask)
            kept = wn_compress(job, segment_mask(job, unit, block->segment + i), block->begin, block->n, dst);
        dst += kept * job->x_size;
    }
    *n = block->n;
    if (!packs) return block->run_count;
    scratch->runs[0] = packed;
    *n = (size_t)(dst - packed) / job->x_size;
    return 1;
}

static void scaled_part_moments(const wn_job *job, size_t unit, size_t part, double scale,
                                run_scratch *scratch, wn_state *state) {
    size_t end = wn_min(job->blocks, (part + 1) * job->part_blocks);
    *state = (wn_state){0};
    for (size_t index = part * job->part_blocks; index < end; index++) {
        run_block block = block_at(job, index);
        wn_state of_block;
        size_t n, runs = load_block(job, unit, &block, scale, scratch, &n);
        if (n == 0) continue; /* all of it masked */
        if (job->problem->exact) {
            job->kernels->exact_run(scratch->runs, runs, n, &of_block);
            wn_merge_exact(state, &of_block);
        } else {
            job->kernels->moments_run(scratch->runs, runs, n, job->problem->centred, &of_block);
            wn_merge(state, &of_block);
        }
    }
}

static void put(wn_unit_state *to, const wn_state *state, double scale) {
    *to->count = state->count;
    wn_put_state(&to->states, 0, state);
    *to->scale = scale;
}

static void add_part(const wn_job *job, size_t unit, size_t part) {
    size_t end = wn_min(job->blocks, (part + 1) * job->part_blocks);
    for (size_t index = part * job->part_blocks; index < end; index++) {
        run_block block = block_at(job, index);
        for (size_t i = 0; i < block.run_count; i++) {
            const char *x = segment_x(job, unit, block.segment + i) + block.begin * job->x_size;
            wn_add_elements(job, x - (const char *)job->problem->x, block.n);
        }
    }
}

static void part_moments(const wn_job *job, size_t unit, size_t part, void *scratch, wn_unit_state *to) {
    wn_state state;
    if (job->adds) add_part(job, unit, part);
    scaled_part_moments(job, unit, part, 1.0, scratch, &state);
    put(to, &state, 1.0);
}

static void merge(const wn_job *job, size_t unit, wn_unit_state *a, const wn_unit_state *b) {
    (void)unit;
    wn_state merged = wn_get_state(a, 0), other = wn_get_state(b, 0);
    if (job->problem->exact)
        wn_merge_exact(&merged, &other);
    else
        wn_merge(&merged, &other);
    put(a, &merged, 1.0);
}

static double unit_max_magnitude(const wn_job *job, size_t unit, run_scratch *scratch) {
    double most = 0.0;
    for (size_t index = 0; index < job->blocks; index++) {
        run_block block = block_at(job, index);
        size_t n, runs = load_block(job, unit, &block, 1.0, scratch, &n);
        for (size_t i = 0; i < runs; i++) {
            double magnitude = wn_max_magnitude(scratch->runs[i], n);
            if (!(magnitude <= most)) most = magnitude;
            if (magnitude != magnitude) return magnitude;
        }
    }
    return most;
}

static void settle(const wn_job *job, size_t unit, void *scratch, wn_unit_state *to) {
    wn_state state = wn_get_state(to, 0);
    if (!wn_needs_scale(job, &state)) return;
    double scale = wn_scale_for(unit_max_magnitude(job, unit, scratch), job->problem->eps);
    if (scale == 1.0) return;
    state = (wn_state){0};
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
    wn_state state = wn_get_state(from, 0);
    double scale = *from->scale, eps = job->problem->eps * scale * scale;
    scratch->norm = wn_finish(&state, eps);
    scratch->norm.scale = scale;
    scratch->wide = scale != 1.0 || wn_is_wide(job, &scratch->norm, state.m2, eps);
}

/* Applies the norm to elements [begin, begin + n) of the segment that lies `at` in x, into `to`. */
static void apply(const wn_job *job, run_scratch *scratch, wn_offset at, size_t begin, size_t n, void *to) {
    const char *x = (const char *)job->problem->x + at.x;
    const void *from = x + begin * job->x_size;
    wn_affine affine = wn_affine_at(job, at.affine + (job->inner_affine ? (ptrdiff_t)begin : 0));
    if (!job->direct_x) {
        wn_gather(job, x, begin, n, 1.0, scratch->x);
        from = scratch->x;
    }
    if (scratch->wide)
        wn_wide_apply(job, from, to, n, &scratch->norm, &affine);
    else
        job->kernels->apply_run(from, to, n, &scratch->norm, &affine);
}

static wn_offset locate_segment(const wn_job *job, size_t unit, size_t segment) {
    const wn_problem *p = job->problem;
    wn_offset at = wn_locate(&p->outer, unit), within = wn_locate(&p->reduced, segment);
    return (wn_offset){at.x + within.x, at.y + within.y, at.affine + within.affine, at.mask + within.mask};
}

static void part_apply(const wn_job *job, size_t unit, size_t part, void *memory) {
    run_scratch *scratch = memory;
    const wn_problem *p = job->problem;
    size_t end = wn_min(job->blocks, (part + 1) * job->part_blocks);
    for (size_t index = part * job->part_blocks; index < end; index++) {
        run_block block = block_at(job, index);
        for (size_t i = 0; i < block.run_count; i++) {
            wn_offset at = locate_segment(job, unit, block.segment + i);
            char *y = (char *)p->y + at.y;
            void *to = job->direct_y ? (void *)(y + block.begin * job->y_size) : (void *)scratch->y;
            apply(job, scratch, at, block.begin, block.n, to);
            if (p->mask)
                wn_zero_masked(job, p->mask + at.mask, block.begin, block.n, to,
                               job->direct_y ? job->y_size : job->compute_size);
            if (!job->direct_y) wn_scatter(job, scratch->y, y, block.begin, block.n);
        }
    }
}

static bool weave(const wn_job *job, size_t unit, size_t part, void *memory, wn_unit_state *to) {
    const run_scratch *scratch = memory;
    const wn_problem *p = job->problem;
    const wn_axis segments = wn_last_axis(&p->reduced); /* the only one */
    wn_state state = {0}, of_block;
    if (scratch->wide) return false;
    if (job->adds) add_part(job, unit + 1, part);
    size_t first = part * job->part_blocks, end = wn_min(job->blocks, first + job->part_blocks);
    for (size_t index = first; index < end; index++) {
        /* of a long run the last block first, which L1 has yet, where it is as long as the one summed */
        run_block summed = block_at(job, index), block = block_at(job, first + end - 1 - index);
        if (job->stream || summed.run_count > 1 || block.run_count > 1 || block.n != summed.n) block = summed;
        wn_offset at = locate_segment(job, unit, block.segment);
        wn_affine affine = wn_affine_at(job, at.affine + (job->inner_affine ? (ptrdiff_t)block.begin : 0));
        const wn_runs runs = {block.run_count,
                              block.n,
                              (const char *)p->x + at.x + block.begin * job->x_size,
                              (char *)p->y + at.y + block.begin * job->y_size,
                              segments.x_stride,
                              segments.y_stride,
                              segments.affine_stride};
        const char *next = segment_x(job, unit + 1, summed.segment) + summed.begin * job->x_size;
        job->kernels->norm_and_moments(next, &runs, p->centred, &scratch->norm, &affine, &of_block);
        wn_merge(&state, &of_block);
    }
    put(to, &state, 1.0);
    return true;
}

/* NaN if there is one. */
static double largest_result(const wn_job *job, size_t unit, run_scratch *scratch) {
    double most = 0.0;
    for (size_t index = 0; index < job->blocks; index++) {
        run_block block = block_at(job, index);
        for (size_t i = 0; i < block.run_count; i++) {
            apply(job, scratch, locate_segment(job, unit, block.segment + i), block.begin, block.n,
                  scratch->y);
            double magnitude = job->kernels->max_magnitude(scratch->y, block.n);
            if (most == most && !(magnitude <= most)) most = magnitude;
        }
    }
    return most;
}

void wn_quantize_unit(const wn_job *job, size_t unit, void *memory) {
    run_scratch *scratch = memory;
    const wn_problem *p = job->problem;
    float *scale = &p->scale[unit];
    bool is_there = false;
    if (!p->scale_is_given) {
        double most = largest_result(job, unit, scratch);
        *scale = job->compute_f64 ? (float)(most / 127.0) : (float)most / 127.0f;
        if (*scale == 0.0f) *scale = 1.0f;
        is_there = job->blocks == 1 && block_at(job, 0).run_count == 1;
    }
    for (size_t index = 0; index < job->blocks; index++) {
        run_block block = block_at(job, index);
        for (size_t i = 0; i < block.run_count; i++) {
            wn_offset at = locate_segment(job, unit, block.segment + i);
            if (!is_there) apply(job, scratch, at, block.begin, block.n, scratch->y);
            job->kernels->quantize(scratch->y, (int8_t *)p->y + at.y + block.begin, block.n, *scale);
        }
    }
}

void wn_run_one_unit(const wn_job *whole, size_t unit) {
    run_scratch scratch;
    double count, mean, mean_lo, m2, m2_lo, scale;
    wn_unit_state state = {&count, {&mean, &mean_lo, &m2, &m2_lo}, &scale};
    wn_job job = *whole;
    job.adds = false; /* it is done */
    cut(&job, 1);
    part_moments(&job, unit, 0, &scratch, &state);
    settle(&job, unit, &scratch, &state);
    finish(&job, unit, &scratch, &state);
    part_apply(&job, unit, 0, &scratch);
}

static size_t first_statistic(const wn_job *job, size_t unit, size_t *count) {
    (void)job;
    *count = 1;
    return unit;
}

const wn_pattern_ops wn_run_ops = {sizeof(run_scratch), cut,   part_moments,   merge, settle, finish,
                                   part_apply,          weave, first_statistic};
