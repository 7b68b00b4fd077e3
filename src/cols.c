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
    bool folded;     /* weight and bias of all columns are in their norms, and none is wide */
    size_t together; /* rows that make one for the apply step */
    double norms[3 * WN_STRIP + 2 * WN_APART / sizeof(double)];
    wn_cols_norm columns; /* in norms */
    /* of the compute type, per column and, for affine by row, per row */
    double weight[WN_STRIP], bias[WN_STRIP];
    double shift[WN_STRIP], sums[4 * WN_STRIP]; /* of exact statistics */
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
    bool are_long = job->l1 >= WN_MORE_L1 && outer * job->parts >= 4 * threads;
    size_t width = !job->direct_x || !job->direct_y ? WN_TILE : are_long ? WN_STRIP : WN_SHORT_STRIP;
    while (job->parts == 1 && width > WN_TILE && outer * wn_ceil_div(columns, width) < 4 * threads)
        width /= 2;
    width -= width % (size_t)job->problem->group; /* a group is at most WN_TILE columns */
    job->unit_columns = wn_min(width, columns);
    job->strips = wn_ceil_div(columns, job->unit_columns);
    job->units = outer * job->strips;
}

static const uint8_t *strip_mask(const wn_job *job, const strip *s) {
    const wn_problem *p = job->problem;
    return p->mask ? p->mask + wn_locate(&p->outer, s->outer).mask : NULL;
}

/* Makes x_rows in scratch point at columns [first, first + columns) of rows [row, row + count), all of them
 * or those that the mask selects. Returns how many. */
static size_t load_rows(const wn_job *job, const strip *s, size_t row, size_t count, bool all, double scale,
                        cols_scratch *scratch) {
    const wn_problem *p = job->problem;
    const char *base = (const char *)p->x + wn_locate(&p->outer, s->outer).x;
    const uint8_t *mask = all ? NULL : strip_mask(job, s);
    bool direct = job->direct_x && scale == 1.0;
    size_t loaded = 0;
    wn_stretch rows;
    for (size_t done = 0; done < count; done += rows.count) {
        rows = wn_stretch_from(job, row + done, count - done);
        const char *x = base + rows.at.x + (direct ? s->first * job->x_size : 0);
        if (direct && !mask) {
            for (size_t i = 0; i < rows.count; i++)
                scratch->x_rows[loaded + i] = x + (ptrdiff_t)i * rows.step.x;
            loaded += rows.count;
            continue;
        }
        for (size_t i = 0; i < rows.count; i++, x += rows.step.x) {
            if (mask && !mask[rows.at.mask + (ptrdiff_t)i * rows.step.mask]) continue;
            char *packed = (char *)scratch->x + loaded * s->columns * job->x_size;
            if (!direct) wn_gather(job, x, s->first, s->columns, scale, packed);
            scratch->x_rows[loaded++] = direct ? x : packed;
        }
    }
    return loaded;
}

static size_t row_end(const wn_job *job, size_t part) {
    return wn_min((size_t)job->problem->reduced.count, (part + 1) * job->part_blocks * WN_ROWS);
}

static void strip_part_moments(const wn_job *job, const strip *s, size_t part, double scale,
                               cols_scratch *scratch, wn_states states, double *total) {
    double mean[WN_STRIP], mean_lo[WN_STRIP], m2[WN_STRIP], m2_lo[WN_STRIP];
    wn_states of_block = {mean, mean_lo, m2, m2_lo};
    size_t end = row_end(job, part), count;
    const wn_state none = {0};
    for (size_t c = 0; c < s->columns; c++) wn_put_state(&states, c, &none);
    *total = 0.0;
    for (size_t row = part * job->part_blocks * WN_ROWS; row < end; row += count) {
        count = wn_min(WN_ROWS, end - row);
        size_t rows = load_rows(job, s, row, count, false, scale, scratch);
        if (rows == 0) continue; /* all of them masked */
        const void *const *x_rows = scratch->x_rows;
        if (job->problem->exact) {
            job->kernels->exact_cols(x_rows, rows, s->columns, *total == 0.0, scratch->shift, scratch->sums);
        } else if (*total == 0.0) {
            job->kernels->moments_cols(x_rows, rows, s->columns, job->problem->centred, &states);
        } else {
            job->kernels->moments_cols(x_rows, rows, s->columns, job->problem->centred, &of_block);
            job->kernels->merge_cols(&states, *total, &of_block, (double)rows, s->columns);
        }
        *total += (double)rows;
    }
    for (size_t c = 0; job->problem->exact && *total > 0.0 && c < s->columns; c++) {
        const double *sums = scratch->sums + c;
        wn_state state =
            wn_exact_state(*total, scratch->shift[c],
                           (wn_sums){{sums[0], sums[WN_STRIP]}, {sums[2 * WN_STRIP], sums[3 * WN_STRIP]}});
        wn_put_state(&states, c, &state);
    }
}

static void add_part(const wn_job *job, const strip *s, size_t part) {
    const wn_problem *p = job->problem;
    ptrdiff_t base = wn_locate(&p->outer, s->outer).x + (ptrdiff_t)(s->first * job->x_size);
    size_t end = row_end(job, part);
    wn_stretch rows;
    for (size_t row = part * job->part_blocks * WN_ROWS; row < end; row += rows.count) {
        rows = wn_stretch_from(job, row, end - row);
        for (size_t i = 0; i < rows.count; i++)
            wn_add_elements(job, base + rows.at.x + (ptrdiff_t)i * rows.step.x, s->columns);
    }
}

static void part_moments(const wn_job *job, size_t unit, size_t part, void *scratch, wn_unit_state *state) {
    strip s = strip_at(job, unit);
    if (job->adds) add_part(job, &s, part);
    strip_part_moments(job, &s, part, 1.0, scratch, state->states, state->count);
    for (size_t c = 0; c < s.columns; c++) state->scale[c] = 1.0;
}

/* b, of b_count elements a column, into a. */
static void merge_states(const wn_job *job, const wn_states *a, double *a_count, const wn_states *b,
                         double b_count, size_t columns) {
    bool exact = job->problem->exact || *a_count == 0.0 || b_count == 0.0;
    if (!exact) job->kernels->merge_cols(a, *a_count, b, b_count, columns);
    const wn_unit_state to = {a_count, *a, NULL}, from = {&b_count, *b, NULL};
    for (size_t c = 0; exact && c < columns; c++) {
        wn_state state = wn_get_state(&to, c), other = wn_get_state(&from, c);
        wn_merge_exact(&state, &other);
        wn_put_state(a, c, &state);
    }
    *a_count += b_count;
}

static void merge(const wn_job *job, size_t unit, wn_unit_state *a, const wn_unit_state *b) {
    merge_states(job, &a->states, a->count, &b->states, *b->count, strip_at(job, unit).columns);
}

static void copy_states(const wn_states *to, size_t to_step, const wn_states *from, size_t from_step,
                        size_t count) {
    for (size_t i = 0; i < count; i++) {
        to->mean[i * to_step] = from->mean[i * from_step];
        to->mean_lo[i * to_step] = from->mean_lo[i * from_step];
        to->m2[i * to_step] = from->m2[i * from_step];
    }
}

/* The statistics of each `group` columns, in turn, become that of all their elements, in each of them; those
 * of all groups at once. Groups are of norms, whose M2 has no low part. */
static void combine(const wn_job *job, const wn_states *columns, double count, size_t column_count) {
    size_t group = (size_t)job->problem->group, groups = column_count / group;
    double memory[6][WN_STRIP / 2];
    const wn_states all = {memory[0], memory[1], memory[2], NULL},
                    other = {memory[3], memory[4], memory[5], NULL};
    if (group == 1 || count == 0.0) return;
    copy_states(&all, 1, columns, group, groups);
    for (size_t c = 1; c < group; c++) {
        const wn_states next = wn_states_from(columns, c);
        copy_states(&other, 1, &next, group, groups);
        job->kernels->merge_cols(&all, (double)c * count, &other, count, groups);
    }
    for (size_t c = 0; c < group; c++) {
        const wn_states own = wn_states_from(columns, c);
        copy_states(&own, group, &all, 1, groups);
    }
}

static double strip_max_magnitude(const wn_job *job, const strip *s, cols_scratch *scratch) {
    size_t end = (size_t)job->problem->reduced.count, count;
    double most = 0.0;
    for (size_t row = 0; row < end; row += count) {
        count = wn_min(WN_ROWS, end - row);
        size_t rows = load_rows(job, s, row, count, false, 1.0, scratch);
        for (size_t r = 0; r < rows; r++) {
            double magnitude = wn_max_magnitude(scratch->x_rows[r], s->columns);
            if (!(magnitude <= most)) most = magnitude;
            if (magnitude != magnitude) return magnitude;
        }
    }
    return most;
}

/* A statistic at a time: its neighbours stay on the fast path, with the bits they have without it. */
static void settle(const wn_job *job, size_t unit, void *scratch, wn_unit_state *to) {
    strip s = strip_at(job, unit);
    size_t group = (size_t)job->problem->group;
    double of_column = *to->count; /* elements of a column, and then of a statistic */
    *to->count *= (double)group;
    combine(job, &to->states, of_column, s.columns);
    for (size_t c = 0; c < s.columns; c += group) {
        wn_states at = wn_states_from(&to->states, c);
        wn_state state = wn_get_state(to, c);
        if (!wn_needs_scale(job, &state)) continue;
        strip columns = {s.outer, s.first + c, group};
        double scale = wn_scale_for(strip_max_magnitude(job, &columns, scratch), job->problem->eps);
        if (scale == 1.0) continue;
        double total = 0.0, part_total;
        for (size_t part = 0; part < job->parts; part++) {
            double memory[4][WN_TILE];
            wn_states of_part = {memory[0], memory[1], memory[2], memory[3]};
            strip_part_moments(job, &columns, part, scale, scratch, of_part, &part_total);
            merge_states(job, &at, &total, &of_part, part_total, group);
        }
        combine(job, &at, of_column, group);
        for (size_t i = 0; i < group; i++) to->scale[c + i] = scale;
    }
}

/* Weight and bias of the strip's columns, in the row. */
static void load_column_parameters(const wn_job *job, const strip *s, size_t row, cols_scratch *scratch) {
    const wn_problem *p = job->problem;
    ptrdiff_t affine = wn_locate(&p->outer, s->outer).affine + wn_locate(&p->reduced, row).affine;
    wn_load_parameters(job, p->weight, affine + (ptrdiff_t)s->first, s->columns, 1.0, scratch->weight);
    wn_load_parameters(job, p->bias, affine + (ptrdiff_t)s->first, s->columns, -0.0, scratch->bias);
}

/* Where not all columns are finished alike: some for the wide path, or with weight and bias left to be
 * applied. */
static void finish_one_by_one(const wn_job *job, const strip *s, const wn_unit_state *from,
                              cols_scratch *scratch) {
    const struct wn_dtype_kernels *kernels = job->kernels;
    bool folds = job->inner_affine && !job->rows_affine;
    for (size_t c = 0; c < s->columns; c++) {
        wn_state state = wn_get_state(from, c);
        const wn_states states = wn_states_from(&from->states, c);
        const wn_cols_norm to = wn_cols_norm_from(job, &scratch->columns, c);
        double scale = from->scale[c], eps = job->problem->eps * scale * scale;
        char *weight = (char *)scratch->weight + c * job->compute_size;
        char *bias = (char *)scratch->bias + c * job->compute_size;
        scratch->norm[c] = wn_finish(&state, eps);
        scratch->norm[c].scale = scale;
        scratch->wide[c] = scale != 1.0 || wn_is_wide(job, &scratch->norm[c], state.m2, eps);
        if (scratch->wide[c]) continue;
        if (folds && kernels->finish_cols(&states, state.count, eps, weight, bias, 1, &to)) {
            wn_load_parameters(job, NULL, 0, 1, 1.0, weight); /* nothing is left of them */
            wn_load_parameters(job, NULL, 0, 1, -0.0, bias);
        } else {
            kernels->finish_cols(&states, state.count, eps, NULL, NULL, 1, &to);
        }
    }
}

static void finish(const wn_job *job, size_t unit, void *memory, const wn_unit_state *from) {
    cols_scratch *scratch = memory;
    strip s = strip_at(job, unit);
    const double *at =
        wn_beside(scratch->norms, (char *)job->problem->y + wn_locate(&job->problem->outer, s.outer).y +
                                      s.first * job->y_size);
    _Static_assert(WN_STRIP * sizeof(double) % (2 * WN_APART) == 0, "all parts of norms begin beside y");
    scratch->columns = (wn_cols_norm){at, at + WN_STRIP, at + 2 * WN_STRIP};
    bool folds = job->inner_affine && !job->rows_affine, alike = true;
    if (folds) load_column_parameters(job, &s, 0, scratch);
    for (size_t c = 0; c < s.columns; c++) alike &= from->scale[c] == 1.0;
    alike = alike && job->kernels->finish_cols(&from->states, *from->count, job->problem->eps,
                                               folds ? scratch->weight : NULL, folds ? scratch->bias : NULL,
                                               s.columns, &scratch->columns);
    scratch->folded = folds && alike;
    scratch->together = 1;
    if (scratch->folded && s.columns == (size_t)job->problem->inner.count)
        scratch->together = wn_rows_together(job, WN_TOGETHER);
    wn_repeat(job, &scratch->columns, s.columns, scratch->together);
    memset(scratch->wide, 0, s.columns * sizeof *scratch->wide);
    if (!alike) finish_one_by_one(job, &s, from, scratch);
}

/* Columns [c, c + columns) of the rows that scratch points at, all fast or all wide. */
static void apply_range(const wn_job *job, cols_scratch *scratch, size_t row_count, size_t c,
                        size_t columns) {
    size_t size = job->compute_size, y_size = job->direct_y ? job->y_size : size;
    size_t first = job->inner_affine ? c * size : 0;
    wn_affine affine = {scratch->folded ? NULL : (char *)scratch->weight + first,
                        scratch->folded ? NULL : (char *)scratch->bias + first,
                        job->inner_affine,
                        job->problem->activation,
                        job->to_compute,
                        job->stream,
                        0,
                        job->l1};
    const void *moved_x[WN_ROWS], **x_rows = scratch->x_rows;
    void *moved_y[WN_ROWS], **y_rows = scratch->y_rows;
    if (c > 0) {
        x_rows = moved_x, y_rows = moved_y;
        for (size_t r = 0; r < row_count; r++) {
            x_rows[r] = (const char *)scratch->x_rows[r] + c * job->x_size;
            y_rows[r] = (char *)scratch->y_rows[r] + c * y_size;
        }
    }
    if (!scratch->wide[c]) {
        const wn_cols_norm norm = wn_cols_norm_from(job, &scratch->columns, c);
        job->kernels->apply_cols(x_rows, y_rows, row_count, columns, &norm, &affine);
        return;
    }
    for (size_t r = 0; r < row_count; r++) {
        wn_wide_apply(job, x_rows[r], y_rows[r], 1, &scratch->norm[c], &affine);
        if (job->inner_affine) continue;
        affine.weight = (const char *)affine.weight + size;
        affine.bias = (const char *)affine.bias + size;
    }
}

/* How many rows from `row` on, at most `most`, have the parameters of the first. */
static size_t alike_rows(const wn_job *job, size_t row, size_t most) {
    if (!job->rows_affine) return most;
    const wn_axes *rows = &job->problem->reduced;
    size_t length = 1;
    for (int d = rows->ndim; d-- > 0 && rows->axis[d].affine_stride == 0;)
        length *= (size_t)rows->axis[d].count;
    return wn_min(most, length - row % length);
}

/* Makes y_rows in scratch point at where rows [row, row + count) go; loads their parameters where those are
 * by row. */
static void place_rows(const wn_job *job, const strip *s, size_t row, size_t count, cols_scratch *scratch) {
    const wn_problem *p = job->problem;
    wn_offset outer = wn_locate(&p->outer, s->outer);
    wn_stretch rows;
    for (size_t done = 0; done < count; done += rows.count) {
        rows = wn_stretch_from(job, row + done, count - done);
        char *y = (char *)p->y + outer.y + rows.at.y + s->first * job->y_size;
        char *packed = (char *)scratch->y + done * s->columns * job->compute_size;
        for (size_t i = 0; i < rows.count; i++)
            scratch->y_rows[done + i] =
                job->direct_y ? y + (ptrdiff_t)i * rows.step.y : packed + i * s->columns * job->compute_size;
        for (size_t i = 0; i < rows.count && !job->inner_affine; i++) {
            ptrdiff_t affine = outer.affine + rows.at.affine + (ptrdiff_t)i * rows.step.affine;
            size_t at = (done + i) * job->compute_size;
            wn_load_parameters(job, p->weight, affine, 1, 1.0, (char *)scratch->weight + at);
            wn_load_parameters(job, p->bias, affine, 1, -0.0, (char *)scratch->bias + at);
        }
    }
}

/* What is left to do with rows that apply has written: zero what is masked, bring the others to y. */
static void deliver_rows(const wn_job *job, const strip *s, size_t row, size_t count, cols_scratch *scratch) {
    const wn_problem *p = job->problem;
    const uint8_t *mask = strip_mask(job, s);
    char *base = (char *)p->y + wn_locate(&p->outer, s->outer).y;
    size_t size = job->direct_y ? job->y_size : job->compute_size;
    wn_stretch rows;
    for (size_t done = 0; done < count && (mask || !job->direct_y); done += rows.count) {
        rows = wn_stretch_from(job, row + done, count - done);
        for (size_t i = 0; i < rows.count; i++) {
            void *y = scratch->y_rows[done + i];
            if (mask && !mask[rows.at.mask + (ptrdiff_t)i * rows.step.mask]) memset(y, 0, s->columns * size);
            if (!job->direct_y)
                wn_scatter(job, y, base + rows.at.y + (ptrdiff_t)i * rows.step.y, s->first, s->columns);
        }
    }
}

/* apply_rows where rows go together. */
static void apply_together(const wn_job *job, const strip *s, size_t row, size_t end, cols_scratch *scratch) {
    const wn_problem *p = job->problem;
    const wn_affine affine = {NULL, NULL, 1, p->activation, job->to_compute, job->stream, 0, job->l1};
    wn_offset outer = wn_locate(&p->outer, s->outer);
    for (size_t count, together; row < end; row += count * together) {
        wn_stretch rows = wn_stretch_from(job, row, end - row);
        together = wn_min(rows.count, scratch->together);
        count = wn_min(WN_ROWS, rows.count / together);
        const char *x = (const char *)p->x + outer.x + rows.at.x;
        char *y = (char *)p->y + outer.y + rows.at.y;
        for (size_t r = 0; r < count; r++) {
            scratch->x_rows[r] = x + (ptrdiff_t)(r * together) * rows.step.x;
            scratch->y_rows[r] = y + (ptrdiff_t)(r * together) * rows.step.y;
        }
        job->kernels->apply_cols(scratch->x_rows, scratch->y_rows, count, s->columns * together,
                                 &scratch->columns, &affine);
    }
}

static void apply_rows(const wn_job *job, const strip *s, size_t row, size_t end, cols_scratch *scratch) {
    for (size_t count; row < end; row += count) {
        count = alike_rows(job, row, end - row);
        load_rows(job, s, row, count, true, 1.0, scratch);
        place_rows(job, s, row, count, scratch);
        if (job->rows_affine) load_column_parameters(job, s, row, scratch);
        for (size_t c = 0, next; c < s->columns; c = next) {
            for (next = c + 1; next < s->columns && !scratch->wide[c] && !scratch->wide[next]; next++) {
            }
            apply_range(job, scratch, count, c, next - c);
        }
        deliver_rows(job, s, row, count, scratch);
    }
}

/* What does not stay in the cache goes forwards, as it is fetched. */
static void part_apply(const wn_job *job, size_t unit, size_t part, void *memory) {
    cols_scratch *scratch = memory;
    bool backwards = job->backwards && !job->stream;
    strip s = strip_at(job, unit);
    size_t first = part * job->part_blocks * WN_ROWS, end = row_end(job, part);
    size_t blocks = wn_ceil_div(end - first, WN_ROWS);
    for (size_t i = 0; i < blocks; i++) {
        size_t row = first + (backwards ? blocks - 1 - i : i) * WN_ROWS;
        if (scratch->together > 1)
            apply_together(job, &s, row, wn_min(end, row + WN_ROWS), scratch);
        else
            apply_rows(job, &s, row, wn_min(end, row + WN_ROWS), scratch);
    }
}

static size_t first_statistic(const wn_job *job, size_t unit, size_t *count) {
    strip s = strip_at(job, unit);
    *count = s.columns;
    return s.outer * (size_t)job->problem->inner.count + s.first;
}

const wn_pattern_ops wn_cols_ops = {sizeof(cols_scratch), cut,  part_moments,   merge, settle, finish,
                                    part_apply,           NULL, first_statistic};
