/* The statistics of one block and meanwhile the apply step of another of the same shape: rows.tpl.h says why.
 * Included once per instruction set and dtype by dtype.tpl.h. */

static inline const T *FN(run_at)(const void *x, const wn_runs *runs, size_t r) {
    return (const void *)((const char *)x + (ptrdiff_t)r * runs->x_stride);
}

static inline void *FN(result_at)(const wn_runs *runs, size_t r) {
    return (char *)runs->y + (ptrdiff_t)r * runs->y_stride;
}

/* Parameters that do not vary must fold into the norm (can_fold_runs). */
static ALWAYS_INLINE FN(sums) FN(weave_runs)(const void *next, const wn_runs *runs, const wn_norm *norm,
                                             const wn_affine *affine, int vary, int reach) {
    const FN(form) form = {1, 1, vary, reach, 0};
    FN(norm_c) ready = FN(narrow)(norm);
    FN(lanes) lanes;
    /* of short runs that lie apart the next one is fetched: the hardware does not follow, and what lies ahead
     * is others' */
    ptrdiff_t bytes = (ptrdiff_t)(runs->n * sizeof(T));
    ptrdiff_t ahead = bytes < PAGE && runs->x_stride > bytes + AHEAD ? runs->x_stride : AHEAD;
    /* of runs that lie together the last one first, which L1 has yet; with AVX2 that took longer */
    int backwards = V_F64 >= 8 && reach != PAST && runs->x_stride == bytes;
    FN(clear)(&lanes);
    for (size_t i = 0; i < runs->count; i++) {
        size_t r = backwards ? runs->count - 1 - i : i;
        ptrdiff_t at = (ptrdiff_t)r * runs->affine_step;
        if (!vary && (i == 0 || runs->affine_step)) FN(fold)(norm, affine, at, &ready);
        FN(team)
        team = {.x = {FN(run_at)(runs->x, runs, r)},
                .y = {FN(result_at)(runs, r)},
                .norm = {FN(spread)(&ready)},
                .n = runs->n,
                .ahead = ahead};
        if (vary) team.weight = (const C *)affine->weight + at, team.bias = (const C *)affine->bias + at;
        if (reach == PAST) FN(fetch_end)(team.y[0], runs->y_stride, runs->n);
        FN(start_team)(&team, form);
        FN(add_run)(FN(run_at)(next, runs, i), runs->n, 0, 0.0, &lanes, &team, form);
        FN(finish_team)(&team, form);
    }
    return FN(sums_of)(&lanes);
}

/* Whether the runs' parameters, which do not vary along them, can be folded into the norm. */
static int FN(can_fold_runs)(const wn_runs *runs, const wn_norm *norm, const wn_affine *affine) {
    FN(norm_c) folded;
    int all = 1;
    for (size_t r = 0; r < (runs->affine_step ? runs->count : 1); r++)
        all &= FN(fold)(norm, affine, (ptrdiff_t)r * runs->affine_step, &folded);
    return all;
}

static void FN(norm_and_moments)(const void *next, const wn_runs *runs, int centred, const wn_norm *norm,
                                 const wn_affine *affine, wn_state *block) {
    const void *next_runs[WN_BLOCK_RUNS];
    double count = (double)runs->count * (double)runs->n;
    int vary = affine->advance && (affine->weight || affine->bias);
    int is_for_teams = vary ? affine->weight && affine->bias : FN(can_fold_runs)(runs, norm, affine);
    int is_woven = WEAVES && centred && is_for_teams &&
                   (!affine->stream || FN(can_stream)(runs->y, runs->y_stride)) && !(IS_16BIT && vary);
    for (size_t r = 0; r < runs->count; r++) next_runs[r] = FN(run_at)(next, runs, r);
    if (!is_woven) {
        for (size_t r = 0; r < runs->count; r++) {
            wn_affine of_run = FN(affine_from)(affine, (ptrdiff_t)r * runs->affine_step);
            FN(apply_run)(FN(run_at)(runs->x, runs, r), FN(result_at)(runs, r), runs->n, norm, &of_run);
        }
        FN(moments_run)(next_runs, runs->count, runs->n, centred, block);
        return;
    }
    FN(sums) sums = {0.0, 0.0};
    if (!vary && affine->stream) {
        sums = FN(weave_runs)(next, runs, norm, affine, 0, PAST);
    } else if (!vary) {
        sums = FN(weave_runs)(next, runs, norm, affine, 0, NEAR);
#if !IS_16BIT /* not worth the size of their code */
    } else if (affine->stream) {
        sums = FN(weave_runs)(next, runs, norm, affine, 1, PAST);
    } else {
        sums = FN(weave_runs)(next, runs, norm, affine, 1, NEAR);
#endif
    }
    *block = FN(block_state)(next_runs, runs->count, runs->n, centred, count, 1.0 / count, sums);
}

static void FN(norm_rows_and_moments)(const wn_runs *runs, int centred, const wn_norm *norms,
                                      const wn_affine *affine, wn_state *blocks) {
    size_t count = runs->count, n = runs->n;
    wn_affine filled = *affine;
    C filler[WEAVES ? WN_BLOCK : 1];
    if (WEAVES) FN(fill_in)(&filled, n, centred, filler);
    int is_woven = WEAVES && FN(are_for_teams)(&filled, centred) &&
                   (!affine->stream || FN(can_stream)(runs->y, runs->y_stride));
    for (size_t r = 0; r < count && !is_woven; r++) {
        const void *next = FN(run_at)(runs->x, runs, count + r);
        FN(apply_run)(FN(run_at)(runs->x, runs, r), FN(result_at)(runs, r), n, &norms[r], affine);
        FN(moments_run)(&next, 1, n, centred, &blocks[r]);
    }
    if (!is_woven) return;
    FN(rows)
    rows = {.x = runs->x,
            .y = runs->y,
            .x_stride = runs->x_stride,
            .y_stride = runs->y_stride,
            .row_count = 2 * count,
            .n = n,
            .affine = &filled,
            .centred = centred};
    FN(slots) slots;
    FN(step) step = FN(step_for_blocks)(&rows, count);
    for (size_t r = 0; r < count; r++) {
        FN(norm_c) ready = FN(narrow)(&norms[r]);
        FN(put_norm)(&slots, r, ready);
    }
    for (size_t r = 0; r < count; r += step.rows) step.norm(&rows, r, step.rows, count + r, &slots, r);
    for (size_t r = 0; r < count; r++) {
        const void *next = FN(run_at)(runs->x, runs, count + r);
        FN(sums) sums = {slots.sum[r], slots.square[r]};
        blocks[r] = FN(block_state)(&next, 1, n, centred, (double)n, 1.0 / (double)n, sums);
    }
}
