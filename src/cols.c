/* The pattern cols: a statistic per column, down the rows. A unit is a strip of columns. */
#include "job.h"
#include "pack.h"
#include "wide.h"

typedef struct {
    double x[WN_ROWS * WN_TILE], y[WN_ROWS * WN_TILE]; /* room for a packed tile of any dtype */
    const void *x_rows[WN_ROWS];
    void *y_rows[WN_ROWS];
    wn_norm norm[WN_STRIP];
    bool wide[WN_STRIP];
    /* of the compute type, per column and, for affine by row, per row */
    double mean_hi[WN_STRIP], rstd[WN_STRIP], offset[WN_STRIP];
    double weight[WN_STRIP], bias[WN_STRIP];
} cols_scratch;

/* A unit's columns [first, first + columns) of the outer index; a part's rows [row, row + row_count). */
typedef struct {
    size_t outer, first, columns;
} strip;

static strip strip_at(const wn_job *job, size_t unit) {
    size_t first = unit % job->strips * job->unit_columns;
    return (strip){unit / job->strips, first,
                   wn_min(job->unit_columns, (size_t)job->problem->inner.count - first)};
}

static void cut(wn_job *job, size_t threads) {
    size_t outer = (size_t)job->problem->outer.count, columns = (size_t)job->problem->inner.count;
    job->blocks = wn_ceil_div((size_t)job->problem->reduced.count, WN_ROWS);
    job->part_blocks = wn_ceil_div(job->blocks, WN_MAX_COLUMN_PARTS);
    if (job->part_blocks < WN_PART_BLOCKS) job->part_blocks = WN_PART_BLOCKS;
    job->parts = wn_ceil_div(job->blocks, job->part_blocks);
    /* Columns are independent of each other, so how many make a strip may depend on the threads. */
    size_t width = job->direct_x && job->direct_y ? WN_STRIP : WN_TILE;
    while (job->parts == 1 && width > WN_TILE && outer * wn_ceil_div(columns, width) < 4 * threads)
        width /= 2;
    job->unit_columns = wn_min(width, columns);
    job->strips = wn_ceil_div(columns, job->unit_columns);
    job->units = outer * job->strips;
}

/* Makes x_rows in scratch point at columns [first, first + columns) of rows [row, row + count). */
static void load_rows(const wn_job *job, const strip *s, size_t row, size_t count, double scale,
                      cols_scratch *scratch) {
    const wn_problem *p = job->problem;
    const char *base = (const char *)p->x + wn_locate(&p->outer, s->outer).x;
    bool direct = job->direct_x && scale == 1.0;
    for (size_t r = 0; r < count; r++) {
        const char *x = base + wn_locate(&p->reduced, row + r).x;
        char *packed = (char *)scratch->x + r * s->columns * job->x_size;
        if (!direct) wn_gather(job, x, s->first, s->columns, scale, packed);
        scratch->x_rows[r] = direct ? x + s->first * job->x_size : packed;
    }
}

static wn_states states_from(const wn_states *states, size_t column) {
    return (wn_states){states->mean + column, states->mean_lo + column, states->m2 + column};
}

static size_t row_end(const wn_job *job, size_t part) {
    return wn_min((size_t)job->problem->reduced.count, (part + 1) * job->part_blocks * WN_ROWS);
}

static void strip_part_moments(const wn_job *job, const strip *s, size_t part, double scale,
                               cols_scratch *scratch, wn_states states, double *total) {
    double mean[WN_STRIP], mean_lo[WN_STRIP], m2[WN_STRIP];
    wn_states of_block = {mean, mean_lo, m2};
    size_t end = row_end(job, part), count;
    *total = 0.0;
    for (size_t row = part * job->part_blocks * WN_ROWS; row < end; row += count) {
        count = wn_min(WN_ROWS, end - row);
        load_rows(job, s, row, count, scale, scratch);
        if (*total == 0.0) {
            job->kernels->moments_cols(scratch->x_rows, count, s->columns, &states);
        } else {
            job->kernels->moments_cols(scratch->x_rows, count, s->columns, &of_block);
            job->kernels->merge_cols(&states, *total, &of_block, (double)count, s->columns);
        }
        *total += (double)count;
    }
}

static void part_moments(const wn_job *job, size_t unit, size_t part, void *scratch, wn_unit_state *state) {
    strip s = strip_at(job, unit);
    strip_part_moments(job, &s, part, 1.0, scratch, state->states, state->count);
    for (size_t c = 0; c < s.columns; c++) state->scale[c] = 1.0;
}

static void merge(const wn_job *job, size_t unit, wn_unit_state *a, const wn_unit_state *b) {
    strip s = strip_at(job, unit);
    job->kernels->merge_cols(&a->states, *a->count, &b->states, *b->count, s.columns);
    *a->count += *b->count;
}

static double column_max_magnitude(const wn_job *job, const strip *column, cols_scratch *scratch) {
    const wn_problem *p = job->problem;
    const char *base = (const char *)p->x + wn_locate(&p->outer, column->outer).x;
    double most = 0.0;
    for (size_t row = 0; row < (size_t)p->reduced.count; row++) {
        wn_gather(job, base + wn_locate(&p->reduced, row).x, column->first, 1, 1.0, scratch->x);
        double magnitude = wn_max_magnitude(scratch->x, 1);
        if (!(magnitude <= most)) most = magnitude;
        if (magnitude != magnitude) return magnitude;
    }
    return most;
}

static wn_state state_of(const wn_unit_state *from, size_t c) {
    return (wn_state){*from->count, from->states.mean[c], from->states.mean_lo[c], from->states.m2[c]};
}

/* A column at a time: its neighbours stay on the fast path, with the bits they have without it. */
static void rescale(const wn_job *job, size_t unit, void *scratch, wn_unit_state *to) {
    strip s = strip_at(job, unit);
    for (size_t c = 0; c < s.columns; c++) {
        wn_state state = state_of(to, c);
        if (!wn_needs_scale(job, &state)) continue;
        strip column = {s.outer, s.first + c, 1};
        double scale = wn_scale_for(column_max_magnitude(job, &column, scratch), job->problem->eps);
        if (scale == 1.0) continue;
        wn_states at = states_from(&to->states, c);
        double total = 0.0, part_total;
        for (size_t part = 0; part < job->parts; part++) {
            double mean, mean_lo, m2;
            wn_states of_part = {&mean, &mean_lo, &m2};
            strip_part_moments(job, &column, part, scale, scratch, part ? of_part : at, &part_total);
            if (part) job->kernels->merge_cols(&at, total, &of_part, part_total, 1);
            total += part_total;
        }
        to->scale[c] = scale;
    }
}

/* n affine parameters of the compute type, or `missing` where the problem has none. */
static void load_parameters(const wn_job *job, const void *source, ptrdiff_t from, size_t n, double missing,
                            void *parameters) {
    if (source)
        memcpy(parameters, (const char *)source + from * (ptrdiff_t)job->compute_size, n * job->compute_size);
    else if (job->compute_f64)
        for (size_t i = 0; i < n; i++) ((double *)parameters)[i] = missing;
    else
        for (size_t i = 0; i < n; i++) ((float *)parameters)[i] = (float)missing;
}

static void finish(const wn_job *job, size_t unit, void *memory, const wn_unit_state *from) {
    cols_scratch *scratch = memory;
    const wn_problem *p = job->problem;
    strip s = strip_at(job, unit);
    for (size_t c = 0; c < s.columns; c++) {
        wn_state state = state_of(from, c);
        double scale = from->scale[c], eps = p->eps * scale * scale;
        wn_norm norm = wn_finish(&state, eps);
        norm.scale = scale;
        scratch->wide[c] = scale != 1.0 || wn_is_wide(job, &norm, state.m2, eps);
        scratch->norm[c] = norm;
        if (job->compute_f64) {
            scratch->mean_hi[c] = norm.mean;
            scratch->rstd[c] = norm.rstd;
            scratch->offset[c] = -norm.mean_lo * norm.rstd;
        } else {
            float mean_hi = (float)norm.mean, rstd = (float)norm.rstd;
            float mean_lo = (float)((norm.mean - (double)mean_hi) + norm.mean_lo);
            ((float *)scratch->mean_hi)[c] = mean_hi;
            ((float *)scratch->rstd)[c] = rstd;
            ((float *)scratch->offset)[c] = -mean_lo * rstd;
        }
    }
    if (job->inner_affine) {
        ptrdiff_t affine = wn_locate(&p->outer, s.outer).affine + (ptrdiff_t)s.first;
        load_parameters(job, p->weight, affine, s.columns, 1.0, scratch->weight);
        load_parameters(job, p->bias, affine, s.columns, 0.0, scratch->bias);
    }
}

/* Columns [c, c + columns) of the rows that scratch points at, all fast or all wide. */
static void apply_range(const wn_job *job, cols_scratch *scratch, size_t row_count, size_t c,
                        size_t columns) {
    size_t size = job->compute_size;
    bool by_row = !job->inner_affine;
    const char *weight = (char *)scratch->weight + (by_row ? 0 : c * size);
    const char *bias = (char *)scratch->bias + (by_row ? 0 : c * size);
    const void *x_rows[WN_ROWS];
    void *y_rows[WN_ROWS];
    size_t y_size = job->direct_y ? job->y_size : size;
    for (size_t r = 0; r < row_count; r++) {
        x_rows[r] = (const char *)scratch->x_rows[r] + c * job->x_size;
        y_rows[r] = (char *)scratch->y_rows[r] + c * y_size;
    }
    if (!scratch->wide[c]) {
        wn_cols_norm norm = {(char *)scratch->mean_hi + c * size, (char *)scratch->rstd + c * size,
                             (char *)scratch->offset + c * size};
        job->kernels->apply_cols(x_rows, y_rows, row_count, columns, &norm, weight, bias, by_row);
        return;
    }
    for (size_t r = 0; r < row_count; r++)
        wn_wide_apply(job, x_rows[r], y_rows[r], 1, &scratch->norm[c], weight + (by_row ? r * size : 0),
                      bias + (by_row ? r * size : 0), 0);
}

static void part_apply(const wn_job *job, size_t unit, size_t part, void *memory) {
    cols_scratch *scratch = memory;
    const wn_problem *p = job->problem;
    strip s = strip_at(job, unit);
    wn_offset outer = wn_locate(&p->outer, s.outer);
    size_t end = row_end(job, part), count;
    for (size_t row = part * job->part_blocks * WN_ROWS; row < end; row += count) {
        count = wn_min(WN_ROWS, end - row);
        load_rows(job, &s, row, count, 1.0, scratch);
        for (size_t r = 0; r < count; r++) {
            wn_offset at = wn_locate(&p->reduced, row + r);
            char *y = (char *)p->y + outer.y + at.y + s.first * job->y_size;
            scratch->y_rows[r] = job->direct_y ? y : (char *)scratch->y + r * s.columns * job->compute_size;
            if (!job->inner_affine) {
                ptrdiff_t affine = outer.affine + at.affine;
                load_parameters(job, p->weight, affine, 1, 1.0,
                                (char *)scratch->weight + r * job->compute_size);
                load_parameters(job, p->bias, affine, 1, 0.0, (char *)scratch->bias + r * job->compute_size);
            }
        }
        for (size_t c = 0, next; c < s.columns; c = next) {
            for (next = c + 1; next < s.columns && !scratch->wide[c] && !scratch->wide[next]; next++) {
            }
            apply_range(job, scratch, count, c, next - c);
        }
        for (size_t r = 0; r < count && !job->direct_y; r++)
            wn_scatter(job, scratch->y_rows[r], (char *)p->y + outer.y + wn_locate(&p->reduced, row + r).y,
                       s.first, s.columns);
    }
}

static size_t first_statistic(const wn_job *job, size_t unit, size_t *count) {
    strip s = strip_at(job, unit);
    *count = s.columns;
    return s.outer * (size_t)job->problem->inner.count + s.first;
}

const wn_pattern_ops wn_cols_ops = {
    sizeof(cols_scratch), cut, part_moments, merge, rescale, finish, part_apply, first_statistic};
