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
                                             const wn_affine *affine, FN(form) form) {
    FN(norm_c) ready = FN(narrow)(norm);
    FN(lanes) lanes;
    /* of short runs that lie apart the next one is fetched: the hardware does not follow, and what lies ahead
     * is others' */
    ptrdiff_t bytes = (ptrdiff_t)(runs->n * sizeof(T));
    ptrdiff_t ahead = bytes < PAGE && runs->x_stride > bytes + AHEAD ? runs->x_stride : AHEAD;
    /* of runs that lie together the last one first, which L1 has yet; with AVX2 that took longer */
    int backwards = V_F64 >= 8 && form.reach != PAST && runs->x_stride == bytes;
    if (!form.vary) FN(fold)(norm, affine, 0, &ready);
    FN(clear)(&lanes);
    for (size_t i = 0; i < runs->count; i++) {
        size_t r = backwards ? runs->count - 1 - i : i;
        ptrdiff_t at = (ptrdiff_t)r * runs->affine_step;
        if (!form.vary && runs->affine_step) FN(fold)(norm, affine, at, &ready);
        FN(team)
        team = {.x = {FN(run_at)(runs->x, runs, r)},
                .y = {FN(result_at)(runs, r)},
                .norm = {FN(spread)(&ready)},
                .weight = affine->weight,
                .bias = affine->bias,
                .n = runs->n,
                .ahead = ahead};
        if (form.vary) {
            team.weight += at;
            if (form.centred) team.bias += at;
        }
        FN(start_team)(&team, form);
        if (form.centred)
            FN(add_run)(FN(run_at)(next, runs, i), runs->n, 0, 0.0, &lanes, &team, form);
        else
            FN(add_squares)(FN(run_at)(next, runs, i), runs->n, &lanes, &team, form);
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
    wn_affine filled = *affine;
    C filler[WEAVES ? WN_BLOCK : 1];
    if (WEAVES && runs->count == 1) FN(fill_in)(&filled, runs->n, centred, filler);
    affine = &filled;
    int vary = affine->advance && (affine->weight || affine->bias), stream = affine->stream;
    int is_aligned = (uintptr_t)runs->y % sizeof(T) == 0 && (uintptr_t)runs->y_stride % sizeof(T) == 0;
    int is_for_teams = centred
                           ? (vary ? affine->weight && affine->bias : FN(can_fold_runs)(runs, norm, affine))
                           : vary && affine->weight && !affine->bias;
    int is_woven = WEAVES && is_for_teams && (!stream || is_aligned) && !(IS_16BIT && (vary || stream));
    FN(sums) sums = {0.0, 0.0};
    for (size_t r = 0; r < runs->count; r++) next_runs[r] = FN(run_at)(next, runs, r);
#define WEAVE(centred, varies, streams)                                                                      \
    sums = FN(weave_runs)(next, runs, norm, affine, (FN(form)){1, centred, varies, streams ? PAST : NEAR, 0})
    if (!is_woven) {
        for (size_t r = 0; r < runs->count; r++) {
            wn_affine of_run = FN(affine_from)(affine, (ptrdiff_t)r * runs->affine_step);
            FN(apply_run)(FN(run_at)(runs->x, runs, r), FN(result_at)(runs, r), runs->n, norm, &of_run);
        }
        sums = FN(first_sums)(next_runs, runs->count, runs->n, centred);
    } else if (!vary && !stream) {
        WEAVE(1, 0, 0);
#if !IS_16BIT /* not worth the size of their code */
    } else if (!vary) {
        WEAVE(1, 0, 1);
    } else if (centred && stream) {
        WEAVE(1, 1, 1);
    } else if (centred) {
        WEAVE(1, 1, 0);
    } else if (stream) {
        WEAVE(0, 1, 1);
    } else {
        WEAVE(0, 1, 0);
#endif
    }
#undef WEAVE
    *block = FN(block_state)(next_runs, runs->count, runs->n, centred, count, 1.0 / count, sums);
}
