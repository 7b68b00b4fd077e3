/* The pattern run: a statistic over segments of contiguous (or packed) elements. */
#include "job.h"
#include "pack.h"
#include "wide.h"

typedef struct {
    double x[WN_BLOCK], y[WN_BLOCK]; /* room for a block of any dtype */
    const void *runs[WN_BLOCK_RUNS];
    wn_norm norm[WN_TEAM];
    bool wide[WN_TEAM];
} run_scratch;

/* A block: run_count runs of n elements each, from `begin` on within the segments from `segment` on. */
typedef struct {
    size_t segment, run_count, begin, n;
} run_block;

static size_t segment_blocks(const wn_job *job) {
    return wn_ceil_div((size_t)job->problem->inner.count, WN_BLOCK);
}

/* Whether rows of one segment have parameters that vary along them, or what stands for such (without a mean,
 * a weight always does). */
static bool have_parameters(const wn_job *job) {
    const wn_problem *p = job->problem;
    return p->reduced.count == 1 && (!p->centred || (job->inner_affine && (p->weight || p->bias)));
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

/* float64 is not woven, but past the cache the kernel fetches the line that a run shares with the next one,
 * and units are then not split for the cache's sake. */
static bool can_weave(const wn_job *job) {
    const wn_problem *p = job->problem;
    return p->y && job->direct_x && job->direct_y && !job->to_compute && !p->activation && !p->mask &&
           !p->exact && !p->scale && (!job->compute_f64 || job->stream) && p->reduced.ndim <= 1 &&
           !is_packed(job);
}

bool wn_go_side_by_side(const wn_job *job, size_t threads) {
    enum { FEW_UNITS = 4 };
    const wn_axis rows = wn_last_axis(&job->problem->outer);
    return can_weave(job) && have_parameters(job) && job->problem->inner.count > WN_BLOCK &&
           rows.count == job->problem->outer.count && rows.affine_stride == 0 &&
           (size_t)rows.count >= FEW_UNITS * WN_TEAM * threads;
}

static void cut(wn_job *job, size_t threads) {
    size_t segments = (size_t)job->problem->reduced.count;
    job->blocks =
        block_segments(job) > 1 ? wn_ceil_div(segments, block_segments(job)) : segments * segment_blocks(job);
    job->part_blocks = wn_ceil_div(job->blocks, WN_MAX_PARTS);
    if (job->part_blocks < WN_PART_BLOCKS) job->part_blocks = WN_PART_BLOCKS;
    job->parts = wn_ceil_div(job->blocks, job->part_blocks);
    job->weaves = can_weave(job);
    job->strips = 1;
    /* not past the cache: as many streams to memory take longer */
    job->unit_columns = !job->stream && wn_go_side_by_side(job, threads) ? WN_TEAM : 1;
    job->units = wn_ceil_div((size_t)job->problem->outer.count, job->unit_columns);
}

/* A unit's rows, from *first on. A row is all that a statistic is of. */
static size_t unit_rows(const wn_job *job, size_t unit, size_t *first) {
    *first = unit * job->unit_columns;
    return wn_min(job->unit_columns, (size_t)job->problem->outer.count - *first);
}

static const char *segment_x(const wn_job *job, size_t row, size_t segment) {
    const wn_problem *p = job->problem;
    return (const char *)p->x + wn_locate(&p->outer, row).x + wn_locate(&p->reduced, segment).x;
}

static const uint8_t *segment_mask(const wn_job *job, size_t row, size_t segment) {
    const wn_problem *p = job->problem;
    return p->mask + wn_locate(&p->outer, row).mask + wn_locate(&p->reduced, segment).mask;
}

/* Makes runs in scratch point at the block's runs, packed or scaled first where that is called for; what the
 * mask leaves of them is packed into one. Returns their number and length, which may be 0. */
static size_t load_block(const wn_job *job, size_t row, const run_block *block, double scale,
                         run_scratch *scratch, size_t *n) {
    char *packed = (char *)scratch->x, *dst = packed;
    bool packs = is_packed(job) || job->problem->mask;
    bool direct = job->direct_x && scale == 1.0 && !packs;
    for (size_t i = 0; i < block->run_count; i++) {
        const char *x = segment_x(job, row, block->segment + i);
        size_t kept = block->n;
        if (!direct) wn_gather(job, x, block->begin, block->n, scale, dst);
        if (!packs) scratch->runs[i] = direct ? x + block->begin * job->x_size : dst;
        if (job->problem->mask)
            kept = wn_compress(job, segment_mask(job, row, block->segment + i), block->begin, block->n, dst);
        dst += kept * job->x_size;
    }
    *n = block->n;
    if (!packs) return block->run_count;
    scratch->runs[0] = packed;
    *n = (size_t)(dst - packed) / job->x_size;
    return 1;
}

static void scaled_part_moments(const wn_job *job, size_t row, size_t part, double scale,
                                run_scratch *scratch, wn_state *state) {
    size_t end = wn_min(job->blocks, (part + 1) * job->part_blocks);
    *state = (wn_state){0};
    for (size_t index = part * job->part_blocks; index < end; index++) {
        run_block block = block_at(job, index);
        wn_state of_block;
        size_t n, runs = load_block(job, row, &block, scale, scratch, &n);
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

static void put(const wn_unit_state *to, size_t k, const wn_state *state, double scale) {
    *to->count = state->count;
    wn_put_state(&to->states, k, state);
    to->scale[k] = scale;
}

static void add_part(const wn_job *job, size_t row, size_t part) {
    size_t end = wn_min(job->blocks, (part + 1) * job->part_blocks);
    for (size_t index = part * job->part_blocks; index < end; index++) {
        run_block block = block_at(job, index);
        for (size_t i = 0; i < block.run_count; i++) {
            const char *x = segment_x(job, row, block.segment + i) + block.begin * job->x_size;
            wn_add_elements(job, x - (const char *)job->problem->x, block.n);
        }
    }
}

static void part_moments(const wn_job *job, size_t unit, size_t part, void *scratch, wn_unit_state *to) {
    size_t first, rows = unit_rows(job, unit, &first);
    for (size_t k = 0; k < rows; k++) {
        wn_state state;
        if (job->adds) add_part(job, first + k, part);
        scaled_part_moments(job, first + k, part, 1.0, scratch, &state);
        put(to, k, &state, 1.0);
    }
}

static void merge(const wn_job *job, size_t unit, wn_unit_state *a, const wn_unit_state *b) {
    size_t first, rows = unit_rows(job, unit, &first);
    double count = *a->count;
    for (size_t k = 0; k < rows; k++) {
        *a->count = count;
        wn_state merged = wn_get_state(a, k), other = wn_get_state(b, k);
        if (job->problem->exact)
            wn_merge_exact(&merged, &other);
        else
            wn_merge(&merged, &other);
        put(a, k, &merged, 1.0);
    }
}

static double row_max_magnitude(const wn_job *job, size_t row, run_scratch *scratch) {
    double most = 0.0;
    for (size_t index = 0; index < job->blocks; index++) {
        run_block block = block_at(job, index);
        size_t n, runs = load_block(job, row, &block, 1.0, scratch, &n);
        for (size_t i = 0; i < runs; i++) {
            double magnitude = wn_max_magnitude(scratch->runs[i], n);
            if (!(magnitude <= most)) most = magnitude;
            if (magnitude != magnitude) return magnitude;
        }
    }
    return most;
}

static void settle(const wn_job *job, size_t unit, void *scratch, wn_unit_state *to) {
    size_t first, rows = unit_rows(job, unit, &first);
    for (size_t k = 0; k < rows; k++) {
        wn_state state = wn_get_state(to, k);
        if (!wn_needs_scale(job, &state)) continue;
        double scale = wn_scale_for(row_max_magnitude(job, first + k, scratch), job->problem->eps);
        if (scale == 1.0) continue;
        state = (wn_state){0};
        for (size_t part = 0; part < job->parts; part++) {
            wn_state of_part;
            scaled_part_moments(job, first + k, part, scale, scratch, &of_part);
            wn_merge(&state, &of_part);
        }
        put(to, k, &state, scale);
    }
}

static void finish(const wn_job *job, size_t unit, void *memory, const wn_unit_state *from) {
    run_scratch *scratch = memory;
    size_t first, rows = unit_rows(job, unit, &first);
    for (size_t k = 0; k < rows; k++) {
        wn_state state = wn_get_state(from, k);
        double scale = from->scale[k], eps = job->problem->eps * scale * scale;
        scratch->norm[k] = wn_finish(&state, eps);
        scratch->norm[k].scale = scale;
        scratch->wide[k] = scale != 1.0 || wn_is_wide(job, &scratch->norm[k], state.m2, eps);
    }
}

/* Applies norm k to elements [begin, begin + n) of the segment that lies `at` in x, into `to`. */
static void apply(const wn_job *job, run_scratch *scratch, size_t k, wn_offset at, size_t begin, size_t n,
                  void *to) {
    const char *x = (const char *)job->problem->x + at.x;
    const void *from = x + begin * job->x_size;
    wn_affine affine = wn_affine_at(job, at.affine + (job->inner_affine ? (ptrdiff_t)begin : 0));
    if (!job->direct_x) {
        wn_gather(job, x, begin, n, 1.0, scratch->x);
        from = scratch->x;
    }
    if (scratch->wide[k])
        wn_wide_apply(job, from, to, n, &scratch->norm[k], &affine);
    else
        job->kernels->apply_run(from, to, n, &scratch->norm[k], &affine);
}

static wn_offset locate_segment(const wn_job *job, size_t row, size_t segment) {
    const wn_problem *p = job->problem;
    wn_offset at = wn_locate(&p->outer, row), within = wn_locate(&p->reduced, segment);
    return (wn_offset){at.x + within.x, at.y + within.y, at.affine + within.affine, at.mask + within.mask};
}

static void row_part_apply(const wn_job *job, size_t row, size_t k, size_t part, run_scratch *scratch) {
    const wn_problem *p = job->problem;
    size_t end = wn_min(job->blocks, (part + 1) * job->part_blocks);
    for (size_t index = part * job->part_blocks; index < end; index++) {
        run_block block = block_at(job, index);
        for (size_t i = 0; i < block.run_count; i++) {
            wn_offset at = locate_segment(job, row, block.segment + i);
            char *y = (char *)p->y + at.y;
            void *to = job->direct_y ? (void *)(y + block.begin * job->y_size) : (void *)scratch->y;
            apply(job, scratch, k, at, block.begin, block.n, to);
            if (p->mask)
                wn_zero_masked(job, p->mask + at.mask, block.begin, block.n, to,
                               job->direct_y ? job->y_size : job->compute_size);
            if (!job->direct_y) wn_scatter(job, scratch->y, y, block.begin, block.n);
        }
    }
}

static void part_apply(const wn_job *job, size_t unit, size_t part, void *scratch) {
    size_t first, rows = unit_rows(job, unit, &first);
    for (size_t k = 0; k < rows; k++) row_part_apply(job, first + k, k, part, scratch);
}

/* Applies a block of each of the unit's rows, and sums one of each of the next unit's. */
static void weave_block(const wn_job *job, size_t unit, const run_block *summed, const run_block *block,
                        const run_scratch *scratch, wn_state *of_block) {
    const wn_problem *p = job->problem;
    size_t row, rows = unit_rows(job, unit, &row);
    wn_offset at = locate_segment(job, row, block->segment);
    wn_affine affine = wn_affine_at(job, at.affine + (job->inner_affine ? (ptrdiff_t)block->begin : 0));
    const char *x = (const char *)p->x + at.x + block->begin * job->x_size;
    char *y = (char *)p->y + at.y + block->begin * job->y_size;
    const char *next = segment_x(job, row + rows, summed->segment) + summed->begin * job->x_size;
    if (have_parameters(job)) {
        const wn_axis axis = wn_last_axis(&p->outer);
        const wn_runs runs = {rows, block->n, x, y, rows > 1 ? axis.x_stride : next - x, axis.y_stride, 0};
        job->kernels->norm_rows_and_moments(&runs, p->centred, scratch->norm, &affine, of_block);
    } else {
        const wn_axis axis = wn_last_axis(&p->reduced); /* the only one */
        const wn_runs runs = {block->run_count, block->n,          x, y, axis.x_stride,
                              axis.y_stride,    axis.affine_stride};
        job->kernels->norm_and_moments(next, &runs, p->centred, scratch->norm, &affine, of_block);
    }
}

static bool weave(const wn_job *job, size_t unit, size_t part, void *memory, wn_unit_state *to) {
    const run_scratch *scratch = memory;
    wn_state states[WN_TEAM], of_block[WN_TEAM];
    size_t next, rows = unit_rows(job, unit + 1, &next);
    if (rows < job->unit_columns) return false;
    for (size_t k = 0; k < rows; k++)
        if (scratch->wide[k]) return false;
    for (size_t k = 0; k < rows && job->adds; k++) add_part(job, next + k, part);
    size_t first = part * job->part_blocks, end = wn_min(job->blocks, first + job->part_blocks);
    for (size_t index = first; index < end; index++) {
        /* of a long run the last block first, which L1 has yet, where it is as long as the one summed */
        run_block summed = block_at(job, index), block = block_at(job, first + end - 1 - index);
        if (job->stream || rows > 1 || summed.run_count > 1 || block.run_count > 1 || block.n != summed.n)
            block = summed;
        weave_block(job, unit, &summed, &block, scratch, index == first ? states : of_block);
        for (size_t k = 0; k < rows && index > first; k++) wn_merge(&states[k], &of_block[k]);
    }
    for (size_t k = 0; k < rows; k++) put(to, k, &states[k], 1.0);
    return true;
}

/* NaN if there is one. */
static double largest_result(const wn_job *job, size_t unit, run_scratch *scratch) {
    double most = 0.0;
    for (size_t index = 0; index < job->blocks; index++) {
        run_block block = block_at(job, index);
        for (size_t i = 0; i < block.run_count; i++) {
            apply(job, scratch, 0, locate_segment(job, unit, block.segment + i), block.begin, block.n,
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
            if (!is_there) apply(job, scratch, 0, at, block.begin, block.n, scratch->y);
            job->kernels->quantize(scratch->y, (int8_t *)p->y + at.y + block.begin, block.n, *scale);
        }
    }
}

void wn_run_one_row(const wn_job *whole, size_t row) {
    run_scratch scratch;
    double count, mean, mean_lo, m2, m2_lo, scale;
    wn_unit_state state = {&count, {&mean, &mean_lo, &m2, &m2_lo}, &scale};
    wn_job job = *whole;
    job.adds = false; /* it is done */
    cut(&job, 1);
    part_moments(&job, row, 0, &scratch, &state);
    settle(&job, row, &scratch, &state);
    finish(&job, row, &scratch, &state);
    part_apply(&job, row, 0, &scratch);
}

static size_t first_statistic(const wn_job *job, size_t unit, size_t *count) {
    size_t first;
    *count = unit_rows(job, unit, &first);
    return first;
}

const wn_pattern_ops wn_run_ops = {sizeof(run_scratch), cut,   part_moments,   merge, settle, finish,
                                   part_apply,          weave, first_statistic};
