/* Many rows of one block each: statistics and apply. Included once per instruction set and dtype by
 * dtype.tpl.h.
 *
 * Rows are summed, finished and applied. The sums of later rows are woven into the apply step: the one is
 * bound by arithmetic, the other by loads and stores. (Not so float64, whose sums take two passes.) Long rows
 * go side by side in teams, which share the loads of weight and bias: L1 does not hold all that they need.
 * Some rows of float32 are not woven (go_in_batches): a batch is summed, and then applied.
 *
 * Rows are finished a batch at a time. A row's last sums, square root and divisions wait for each other, and
 * as a CPU retires its instructions in order, they would soon hold up all that follows; those of several
 * rows go on at once. A batch of short rows is still in L1 when it is applied. */

/* What a batch holds at most, elements and rows, if that is a team. */
enum { FN(BATCH) = 8192 / sizeof(T), FN(BATCH_ROWS) = 8 };
/* Elements of the rows that are kept, each from a line on: those of a batch, or one row, and one more. */
enum { FN(KEPT) = IS_FLOAT64 ? 1 : 2 * WN_BLOCK };
_Static_assert(IS_FLOAT64 || FN(BATCH) * 3 / 2 + (FN(BATCH_ROWS) + 1) * FN(LINE) <= FN(KEPT),
               "room for them");
_Static_assert(WN_BLOCK % FN(LINE) == 0, "and for two of a block");

/* Rows of n elements: strides are in bytes, affine_step leads to the parameters of the next one. */
typedef struct {
    const char *x;
    char *y;
    ptrdiff_t x_stride, y_stride, affine_step;
    size_t row_count, n;
    const wn_affine *affine;
    double eps;
    int centred, vary;
    double count, inverse_count; /* of a row's elements */
    wn_addends *adds;
    T *kept; /* the last kept_count rows, each at a line, if they are written past the cache; else NULL */
    size_t kept_count, kept_step;
} FN(rows);

/* The rows of a batch: their sums, and then what the apply step needs of them, with the parameters folded in
 * if those do not vary along a row. */
typedef struct {
    double sum[FN(BATCH_ROWS)], square[FN(BATCH_ROWS)];
    C mean_hi[FN(BATCH_ROWS)], rstd[FN(BATCH_ROWS)], offset[FN(BATCH_ROWS)];
} FN(slots);

static ALWAYS_INLINE void FN(put_sums)(FN(slots) * slots, size_t k, FN(sums) sums) {
    slots->sum[k] = sums.sum, slots->square[k] = sums.square;
}

static ALWAYS_INLINE void FN(put_norm)(FN(slots) * slots, size_t k, FN(norm_c) norm) {
    slots->mean_hi[k] = norm.mean_hi, slots->rstd[k] = norm.rstd, slots->offset[k] = norm.offset;
}

static ALWAYS_INLINE FN(norm_v) FN(norm_at)(const FN(slots) * slots, size_t k) {
    return (FN(norm_v)){V_SET(slots->mean_hi[k]), V_SET(slots->rstd[k]), V_SET(slots->offset[k])};
}

static inline void *FN(row_in_memory)(const FN(rows) * rows, size_t r) {
    return (void *)((uintptr_t)rows->x + (uintptr_t)((ptrdiff_t)r * rows->x_stride));
}

static inline void *FN(row_x)(const FN(rows) * rows, size_t r) {
    return rows->kept ? rows->kept + r % rows->kept_count * rows->kept_step : FN(row_in_memory)(rows, r);
}

static inline void *FN(row_y)(const FN(rows) * rows, size_t r) {
    return rows->y + (ptrdiff_t)r * rows->y_stride;
}

static inline const T *FN(addend_at)(const FN(rows) * rows, const void *first, size_t r) {
    return (const void *)((const char *)first + (ptrdiff_t)r * rows->x_stride);
}

/* Writes row r, if that is not done, and keeps what is there if rows are kept. */
static ALWAYS_INLINE void FN(write_row)(const FN(rows) * rows, size_t r) {
    wn_addends *adds = rows->adds;
    T *sum = FN(row_in_memory)(rows, r);
    if (r >= adds->done) {
        FN(add)(FN(addend_at)(rows, adds->augend, r), FN(addend_at)(rows, adds->addend, r), sum, rows->n);
        adds->done = r + 1;
    }
    if (rows->kept) memcpy(FN(row_x)(rows, r), sum, rows->n * sizeof *sum);
}

static WN_NOINLINE void FN(sum_row)(const FN(rows) * rows, size_t r, FN(slots) * slots, size_t k) {
    if (rows->adds) FN(write_row)(rows, r);
    const void *x = FN(row_x)(rows, r);
    FN(put_sums)(slots, k, FN(first_sums)(&x, 1, rows->n, rows->centred));
}

/* The sums of rows [r, r + count), as far as there are any, to slot `at` on. A team goes through the apply
 * step meanwhile. */
static ALWAYS_INLINE void FN(sum_rows)(const FN(rows) * rows, size_t r, size_t count, FN(slots) * slots,
                                       size_t at, FN(team) * team, FN(form) form) {
    for (size_t k = 0; k < count && r + k < rows->row_count; k++) {
        const void *x = FN(row_in_memory)(rows, r + k);
        int in_team = team && !form.adds;
        if (team && form.adds && r + k >= rows->adds->done) {
            in_team = 1;
            x = FN(row_x)(rows, r + k);
            team->augend = FN(addend_at)(rows, rows->adds->augend, r + k);
            team->addend = FN(addend_at)(rows, rows->adds->addend, r + k);
            team->sum = FN(row_in_memory)(rows, r + k), team->kept = FN(row_x)(rows, r + k);
            if (team->augend == team->sum || team->addend == team->sum || (uintptr_t)team->sum % sizeof(T))
                team->past = FN(STAYS);
            else
                team->past = (uintptr_t)team->sum % 64 == 0 ? FN(BY_VECTORS) : FN(FROM_KEPT);
            rows->adds->done = r + k + 1;
        }
        if (in_team && form.centred)
            FN(put_sums)(slots, at + k, FN(add_runs)(&x, 1, rows->n, 0, 0.0, team, form));
        else if (in_team)
            FN(put_sums)(slots, at + k, FN(add_squares_of_runs)(&x, 1, rows->n, team, form));
        else
            FN(sum_row)(rows, r + k, slots, at + k);
        if (!IS_16BIT && in_team && form.adds && form.reach == PAST && team->past == FN(FROM_KEPT))
            FN(stream_row)(team->kept, team->sum, rows->x_stride, rows->n);
    }
}

/* Whether the first sums will do, and nothing comes near what is wide: then a row is finished in few steps.
 * It bounds the mean, too: count * mean^2 is at most MAX_EXCESS * m2. */
#define IS_USUAL(WHERE, rows, excess, m2, var)                                                               \
    ((rows->centred ? WHERE(excess <= MAX_EXCESS * m2) : WHERE(m2 >= LEAST_SQUARE * rows->count)) &          \
     WHERE(var >= 0x1p-160) & WHERE(var <= 0x1p160))

/* Finishes `count` rows from row r on as finish_rows does; false, and it is of no use, if any of them is
 * unusual or its parameters cannot be folded. */
static ALWAYS_INLINE int FN(finish_few)(const FN(rows) * rows, size_t r, size_t count, FN(slots) * slots,
                                        wn_norm *norms) {
    for (size_t k = 0; k < count; k++) {
        double mean = slots->sum[k] * rows->inverse_count, excess = slots->sum[k] * mean;
        double m2 = slots->square[k] - excess, var = m2 / rows->count + rows->eps;
        if (!IS_USUAL(WN_WHERE, rows, excess, m2, var)) return 0;
        norms[k] = (wn_norm){mean + 0.0, 0.0, 1.0 / sqrt(var), 1.0}; /* not -0 */
        FN(norm_c) ready = FN(narrow)(&norms[k]);
        ptrdiff_t at = (ptrdiff_t)(r + k) * rows->affine_step;
        if (!rows->vary && !FN(fold)(&norms[k], rows->affine, at, &ready)) return 0;
        FN(put_norm)(slots, k, ready);
    }
    return 1;
}

/* The same by vectors, without norms. Slots without a row hold the sums of an ordinary one. */
static ALWAYS_INLINE int FN(finish_many)(const FN(rows) * rows, size_t r, size_t count, FN(slots) * slots) {
    const wn_cols_norm to = {slots->mean_hi, slots->rstd, slots->offset};
    const C *weight = NULL, *bias = NULL;
    v_i64 fails = {0};
    if (!rows->vary) {
        wn_affine affine = FN(affine_from)(rows->affine, (ptrdiff_t)r * rows->affine_step);
        weight = affine.weight, bias = affine.bias;
        if ((weight || bias) && rows->affine_step != 1) return 0;
    }
    for (size_t k = 0; k < FN(BATCH_ROWS) && k < count; k += V_F64) {
        size_t part = count - k < V_F64 ? count - k : V_F64;
        v_f64 s = v_load_f64(slots->sum + k), mean = s * rows->inverse_count, excess = s * mean;
        v_f64 m2 = v_load_f64(slots->square + k) - excess, var = m2 / rows->count + rows->eps;
        v_f64 w = CAT(parameters_at, COMPUTE)(weight, k, part, 1.0),
              b = CAT(parameters_at, COMPUTE)(bias, k, part, -0.0);
        v_i64 cannot_fold =
            CAT(fold_vector, COMPUTE)(mean + 0.0, v_set_f64(0.0), 1.0 / v_sqrt_f64(var), w, b, k, 0, &to);
        fails |= ~IS_USUAL(V_WHERE, rows, excess, m2, var);
        if (!rows->vary) fails |= cannot_fold;
    }
    return !v_any_i64(fails);
}
#undef IS_USUAL

/* What the apply step needs of rows [r, r + count), from their sums, as far as there are rows and none is for
 * the wide path. Returns how many; *folds says whether parameters that do not vary could be folded in all of
 * them. Whole batches that go in teams may have no norms. */
static WN_NOINLINE size_t FN(finish_rows)(const FN(rows) * rows, size_t r, size_t count, int in_teams,
                                          FN(slots) * slots, wn_norm *norms, int *folds) {
    int is_whole = rows->row_count - r >= count;
    *folds = 1;
    if (!is_whole) count = rows->row_count - r;
    int are_many = in_teams && is_whole && count > FN(BATCH_ROWS) / 2;
    if (WEAVES && are_many && FN(finish_many)(rows, r, count, slots)) return count;
    if (WEAVES && FN(finish_few)(rows, r, count, slots, norms)) return count;
    size_t k = 0;
    for (; k < count; k++) {
        const void *x = FN(row_x)(rows, r + k);
        FN(sums) sums = {slots->sum[k], slots->square[k]};
        wn_state state =
            FN(block_state)(&x, 1, rows->n, rows->centred, rows->count, rows->inverse_count, sums);
        norms[k] = wn_finish(&state, rows->eps);
        if (IS_WIDE(&norms[k], state.m2, rows->eps)) break;
        FN(norm_c) ready = FN(narrow)(&norms[k]);
        if (!rows->vary)
            *folds &= FN(fold)(&norms[k], rows->affine, (ptrdiff_t)(r + k) * rows->affine_step, &ready);
        FN(put_norm)(slots, k, ready);
    }
    return k;
}

/* The apply step of a team from row r on, whose norms are in slot `at` and after it, and meanwhile the sums
 * of as many rows from `later` on, which go there. */
static ALWAYS_INLINE void FN(norm_team)(const FN(rows) * rows, size_t r, size_t later, FN(slots) * slots,
                                        size_t at, FN(form) form) {
    FN(team)
    team = {.weight = rows->affine->weight, .bias = rows->affine->bias, .n = rows->n, .ahead = AHEAD};
    UNROLL for (size_t k = 0; k < form.rows; k++) {
        team.x[k] = form.adds && form.reach == PAST ? FN(row_x)(rows, r + k) : FN(row_in_memory)(rows, r + k);
        team.y[k] = FN(row_y)(rows, r + k);
        team.norm[k] = FN(norm_at)(slots, at + k);
    }
    if (form.reach == PAST) FN(fetch_end)(team.y[0], rows->y_stride, rows->n);
    FN(start_team)(&team, form);
    FN(sum_rows)(rows, later, form.rows, slots, at, &team, form);
    FN(finish_team)(&team, form);
}

/* The apply step of rows [r, r + count) one by one, and then the sums of as many from `later` on. */
static ALWAYS_INLINE void FN(norm_batch)(const FN(rows) * rows, size_t r, size_t count, size_t later,
                                         FN(slots) * slots, size_t at, int centred, int adds) {
    const FN(form) one = {1, centred, 1, NEAR, adds}, sums_alone = {0, centred, 1, NEAR, adds};
    FN(team)
    team = {.weight = rows->affine->weight, .bias = rows->affine->bias, .n = rows->n, .ahead = AHEAD};
    for (size_t k = 0; k < count; k++) {
        team.x[0] = FN(row_in_memory)(rows, r + k), team.y[0] = FN(row_y)(rows, r + k);
        team.norm[0] = FN(norm_at)(slots, at + k);
        team.i = 0;
        UNROLL while (team.i + V_N <= team.n) FN(apply_team)(&team, 0, one);
        FN(finish_team)(&team, one);
    }
    FN(sum_rows)(rows, later, count, slots, at, &team, sums_alone);
}

/* As norm_team for `count` rows that go past the cache one by one, a tile of each at a time: rows share the
 * loads of weight and bias, and yet there are no more streams to memory. Tiles are counted from a row's first
 * whole line of y, so each but the first begins at one. */
enum { FN(TILE) = 1024, FN(TILED_ROWS) = 4 };

static ALWAYS_INLINE void FN(norm_tiles)(const FN(rows) * rows, size_t r, size_t count, size_t later,
                                         FN(slots) * slots, size_t at) {
    const FN(form) form = {1, 1, 1, PAST, 0};
    size_t n = rows->n, tiles = (n + FN(TILE) - 1) / FN(TILE);
    size_t width = (n / tiles + LANES - 1) / LANES * LANES; /* of tiles but the last, which has the rest */
    FN(lanes) lanes;
    for (size_t i = 0; i < count * tiles; i++) { /* a tile applied, and a tile's length summed */
        size_t k = i % count, tile = i / count, summed = i / tiles, begin = i % tiles * width;
        T *y = FN(row_y)(rows, r + k);
        size_t head = FN(line_head)(y, n), from = tile ? head + tile * width : 0;
        size_t end = tile + 1 < tiles ? head + (tile + 1) * width : n;
        FN(team)
        team = {.x = {(const T *)FN(row_in_memory)(rows, r + k) + from},
                .y = {y + from},
                .norm = {FN(norm_at)(slots, at + k)},
                .weight = (const C *)rows->affine->weight + from,
                .bias = (const C *)rows->affine->bias + from,
                .n = end - from,
                .ahead = AHEAD};
        if (tile == 0) FN(fetch_end)(y, rows->y_stride, n);
        FN(start_team)(&team, form);
        if (later + summed < rows->row_count) {
            const T *x = (const T *)FN(row_in_memory)(rows, later + summed) + begin;
            int is_last = i % tiles == tiles - 1;
            if (begin == 0) FN(clear)(&lanes);
            FN(add_run)(x, is_last ? n - begin : width, 0, 0.0, &lanes, &team, form);
            if (is_last) FN(put_sums)(slots, at + summed, FN(sums_of)(&lanes));
        }
        FN(finish_team)(&team, form);
    }
}

/* The apply step of rows that make no team. */
static WN_NOINLINE void FN(apply_singly)(const FN(rows) * rows, size_t r, size_t count,
                                         const wn_norm *norms) {
    for (size_t k = 0; k < count; k++) {
        wn_affine affine = FN(affine_from)(rows->affine, (ptrdiff_t)(r + k) * rows->affine_step);
        if (affine.stream) FN(fetch_end)(FN(row_y)(rows, r + k), rows->y_stride, rows->n);
        FN(apply_run)(FN(row_x)(rows, r + k), FN(row_y)(rows, r + k), rows->n, &norms[k], &affine);
    }
}

#include "steps.tpl.h"

/* The parameters as teams have them: a weight and, if statistics are centred, a bias that vary, where none is
 * given (of RMS norm a weight, of others a bias beside a weight) as `filler`, of n elements, which changes
 * nothing. */
static void FN(fill_in)(wn_affine *affine, size_t n, int centred, C *filler) {
    int lacks =
        centred ? affine->advance && affine->weight && !affine->bias : !affine->weight && !affine->bias;
    if (!lacks) return;
    for (size_t i = 0; i < n; i++) filler[i] = centred ? (C)-0.0 : 1;
    if (centred)
        affine->bias = filler;
    else
        affine->weight = filler, affine->advance = 1;
}

/* Whether they are such. */
static int FN(are_for_teams)(const wn_affine *affine, int centred) {
    return affine->advance && affine->weight && (centred ? affine->bias != NULL : !affine->bias);
}

/* Parameters that each of many rows reads: at a cache line, as a vector that lies in two takes two loads,
 * beside y. `memory` has room for n elements, HALF_BLOCK at most, and SPARE: longer rows read them from L2,
 * and gain nothing. */
enum { FN(MANY_ROWS) = 8, FN(HALF_BLOCK) = WN_BLOCK / 2, FN(SPARE) = 2 * WN_APART / sizeof(C) };

static const void *FN(line_up)(const void *parameters, size_t n, const void *y, C *memory) {
    enum { LINE = 64 };
    if ((uintptr_t)parameters % LINE == 0) return parameters; /* or there are none */
    return memcpy(wn_beside(memory, y), parameters, n * sizeof(C));
}

/* Whether results so far apart can be stored past the cache. */
static int FN(can_stream)(const void *y, ptrdiff_t y_stride) {
    return (uintptr_t)y % sizeof(T) == 0 && (uintptr_t)y_stride % sizeof(T) == 0;
}

static size_t FN(norm_run)(const void *x, ptrdiff_t x_stride, void *y, ptrdiff_t y_stride, size_t row_count,
                           size_t n, const wn_affine *affine, ptrdiff_t affine_step, double eps, int centred,
                           wn_addends *adds) {
    FN(rows)
    rows = {.x = x,
            .y = y,
            .x_stride = x_stride,
            .y_stride = y_stride,
            .affine_step = affine_step,
            .row_count = row_count,
            .n = n,
            .affine = affine,
            .eps = eps,
            .centred = centred,
            .count = (double)n,
            .inverse_count = 1.0 / (double)n,
            .adds = adds};
    FN(slots) slots;
    wn_norm norms[FN(BATCH_ROWS)];
    wn_affine filled = *affine;
    _Alignas(64) C own[2 * (WEAVES ? FN(HALF_BLOCK) + FN(SPARE) : 1)]; /* weight and bias, or one of them */
    C *own_bias = WEAVES && n <= FN(HALF_BLOCK) ? own + FN(HALF_BLOCK) + FN(SPARE) : own;
    if (WEAVES && FN(is_plain)(affine) && affine_step == 0)
        FN(fill_in)(&filled, n, centred, centred ? own_bias : own);
    rows.affine = affine = &filled;
    int stream = affine->stream && FN(can_stream)(y, y_stride);
    int vary = affine->advance && (affine->weight || affine->bias);
    int is_for_teams = vary ? affine_step == 0 && FN(are_for_teams)(affine, centred) : centred && !adds;
    int in_teams = WEAVES && FN(is_plain)(affine) && is_for_teams && (stream || !affine->stream);
    rows.vary = vary;
    if (adds && !FN(can_stream_sums)(&rows)) stream = 0;
    FN(step) step = {NULL, 1};
    if (in_teams) step = FN(step_for)(&rows, stream);
    if (in_teams && vary && row_count >= FN(MANY_ROWS) && n <= FN(HALF_BLOCK)) {
        filled.weight = FN(line_up)(filled.weight, n, y, own);
        filled.bias = FN(line_up)(filled.bias, n, y, own_bias);
    }
    /* rows that are yet to be written and woven take twice the room in L1: less than half a batch, as two
     * rows that fill it were slower than one */
    size_t most = adds && step.rows && !stream && !IS_16BIT ? FN(BATCH) / 2 - 1 : FN(BATCH);
    if (step.norm && FN(go_by_tiles)(&rows)) most = FN(TILED_ROWS) * n;
    size_t team = step.rows ? step.rows : 1, batch = WEAVES ? most / n / team * team : 1;
    batch = batch < team ? team : batch > FN(BATCH_ROWS) ? FN(BATCH_ROWS) : batch;
    _Alignas(64) T kept[FN(KEPT)];
    rows.kept_count = batch + 1, rows.kept_step = FN(lines_end)(0, n + FN(LINE) - 1);
    if (step.norm && adds && stream) rows.kept = kept;

    for (size_t k = 0; k < FN(BATCH_ROWS); k++) FN(put_sums)(&slots, k, (FN(sums)){0.0, 1.0});
    FN(sum_rows)(&rows, 0, batch, &slots, 0, NULL, FN(no_form));
    for (size_t row = 0;; row += batch) {
        int folds;
        size_t good = FN(finish_rows)(&rows, row, batch, step.norm != NULL, &slots, norms, &folds);
        size_t done = 0;
        size_t at_once = step.rows ? step.rows : good;
        for (; step.norm && folds && done < good && done + at_once <= good; done += at_once)
            step.norm(&rows, row + done, at_once, row + batch + done, &slots, done);
        FN(apply_singly)(&rows, row + done, good - done, norms + done);
        if (good < batch || row + batch >= row_count) return row + good;
        FN(sum_rows)(&rows, row + batch + done, batch - done, &slots, done, NULL, FN(no_form));
    }
}
