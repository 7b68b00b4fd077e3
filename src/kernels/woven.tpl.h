/* The statistics of one block and meanwhile the apply step of another of the same shape: rows.tpl.h says why.
 * Included once per instruction set and dtype by dtype.tpl.h. */

static inline const T *FN(run_at)(const void *x, const wn_runs *runs, size_t r) {
    return (const void *)((const char *)x + (ptrdiff_t)r * runs->x_stride);
}

static inline void *FN(result_at)(const wn_runs *runs, size_t r) {
    return (char *)runs->y + (ptrdiff_t)r * runs->y_stride;
}

/* The norm of each run, its parameters folded in; one for all, in element 0, if the parameters are the same,
 * or vary along a run and so are not folded in. */
typedef struct {
    C mean_hi[WN_BLOCK_RUNS], rstd[WN_BLOCK_RUNS], offset[WN_BLOCK_RUNS];
} FN(run_norms);

/* Returns whether they can be folded. */
static WN_NOINLINE int FN(fold_runs)(const wn_runs *runs, const wn_norm *norm, const wn_affine *affine,
                                     FN(run_norms) * folded) {
    const wn_cols_norm to = {folded->mean_hi, folded->rstd, folded->offset};
    v_i64 fails = {0};
    size_t count = runs->affine_step ? runs->count : 1, r = 0;
    for (; runs->affine_step == 1 && r + V_F64 <= count; r += V_F64) {
        v_f64 mean = v_set_f64(norm->mean), mean_lo = v_set_f64(norm->mean_lo), rstd = v_set_f64(norm->rstd);
        v_f64 w = CAT(parameters_at, COMPUTE)(affine->weight, r, 0, 1.0),
              b = CAT(parameters_at, COMPUTE)(affine->bias, r, 0, -0.0);
        fails |= CAT(fold_vector, COMPUTE)(mean, mean_lo, rstd, w, b, r, 0, &to);
    }
    int all = !v_any_i64(fails);
    for (; r < count; r++) {
        FN(norm_c) ready;
        all &= FN(fold)(norm, affine, (ptrdiff_t)r * runs->affine_step, &ready);
        folded->mean_hi[r] = ready.mean_hi, folded->rstd[r] = ready.rstd, folded->offset[r] = ready.offset;
    }
    return all;
}

static ALWAYS_INLINE FN(sums)
    FN(weave_runs)(const void *next, const wn_runs *runs, const FN(run_norms) * norms,
                   const wn_affine *affine, int vary, int reach) {
    enum { UNALIGNED = 48 }; /* bytes from a line on at which a run mostly begins, at most */
    const FN(form) form = {1, 1, vary, reach, 0};
    FN(lanes) lanes;
    /* of short runs that lie apart the next one is fetched, its whole LANES as they are summed and what
     * follows those here: the hardware does not follow, and what lies ahead is others'; past the cache, where
     * memory takes longer than a run, all lines of one that is further */
    ptrdiff_t bytes = (ptrdiff_t)(runs->n * sizeof(T));
    int apart = bytes < PAGE && runs->x_stride > bytes + AHEAD,
        later = reach == PAST && apart && bytes <= AHEAD / 2;
    ptrdiff_t ahead = apart ? runs->x_stride : AHEAD,
              whole = (ptrdiff_t)(runs->n / LANES * LANES * sizeof(T));
    ptrdiff_t there = later ? (1 + AHEAD / bytes) * runs->x_stride : ahead, from = later ? 0 : whole;
    ptrdiff_t end = apart && from < bytes ? bytes + UNALIGNED : from;
    /* of runs that lie together the last one first, which L1 has yet; with AVX2 that took longer */
    int backwards = V_F64 >= 8 && reach != PAST && runs->x_stride == bytes;
    FN(clear)(&lanes);
    for (size_t i = 0; i < runs->count; i++) {
        size_t r = backwards ? runs->count - 1 - i : i;
        ptrdiff_t at = (ptrdiff_t)r * runs->affine_step;
        size_t k = vary || !runs->affine_step ? 0 : r;
        FN(team)
        team = {.x = {FN(run_at)(runs->x, runs, r)},
                .y = {FN(result_at)(runs, r)},
                .norm = {{V_SET(norms->mean_hi[k]), V_SET(norms->rstd[k]), V_SET(norms->offset[k])}},
                .n = runs->n,
                .ahead = ahead};
        if (vary) team.weight = (const C *)affine->weight + at, team.bias = (const C *)affine->bias + at;
        if (reach == PAST) FN(fetch_end)(team.y[0], runs->y_stride, runs->n);
        for (ptrdiff_t byte = from; byte < end; byte += 64)
            PREFETCH((const char *)FN(run_at)(next, runs, i) + there + byte);
        FN(start_team)(&team, form);
        FN(add_run)(FN(run_at)(next, runs, i), runs->n, 0, 0.0, &lanes, &team, form);
        FN(finish_team)(&team, form);
    }
    return FN(sums_of)(&lanes);
}

static void FN(norm_and_moments)(const void *next, const wn_runs *runs, int centred, const wn_norm *norm,
                                 const wn_affine *affine, wn_state *block) {
    const void *next_runs[WN_BLOCK_RUNS];
    double count = (double)runs->count * (double)runs->n;
    int vary = affine->advance && (affine->weight || affine->bias);
    int is_woven = WEAVES && centred && (!affine->stream || FN(can_stream)(runs->y, runs->y_stride)) &&
                   (!vary || (affine->weight && affine->bias));
    FN(run_norms) norms;
    if (is_woven && vary) {
        FN(norm_c) plain = FN(narrow)(norm);
        norms.mean_hi[0] = plain.mean_hi, norms.rstd[0] = plain.rstd, norms.offset[0] = plain.offset;
    } else if (is_woven) {
        is_woven = FN(fold_runs)(runs, norm, affine, &norms);
    }
    for (size_t r = 0; r < runs->count; r++) next_runs[r] = FN(run_at)(next, runs, r);
    if (!is_woven) {
        for (size_t r = 0; r < runs->count; r++) {
            wn_affine of_run = FN(affine_from)(affine, (ptrdiff_t)r * runs->affine_step);
            if (affine->stream) FN(fetch_end)(FN(result_at)(runs, r), runs->y_stride, runs->n);
            FN(apply_run)(FN(run_at)(runs->x, runs, r), FN(result_at)(runs, r), runs->n, norm, &of_run);
        }
        FN(moments_run)(next_runs, runs->count, runs->n, centred, block);
        return;
    }
    FN(sums) sums = {0.0, 0.0};
    if (!vary && affine->stream) {
        sums = FN(weave_runs)(next, runs, &norms, affine, 0, PAST);
    } else if (!vary) {
        sums = FN(weave_runs)(next, runs, &norms, affine, 0, NEAR);
    } else if (affine->stream) {
        sums = FN(weave_runs)(next, runs, &norms, affine, 1, PAST);
    } else {
        sums = FN(weave_runs)(next, runs, &norms, affine, 1, NEAR);
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
