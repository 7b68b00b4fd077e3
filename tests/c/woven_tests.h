/* The tests of norm_and_moments and norm_rows_and_moments. Part of test_kernels.c, for its length. */

typedef struct {
    size_t count, n, apart; /* bytes between runs */
    int affine, centred;
    ptrdiff_t affine_step;
} woven_call;

/* Is what moments_run makes of the one block, and apply_run of each run of the other. */
static void try_norm_and_moments(wn_dtype dtype, kind k, const woven_call *call) {
    static char image[CHUNK], next_image[CHUNK], alone[WN_BLOCK * sizeof(double)];
    size_t bytes = call->n * size_of(dtype), stride = bytes + call->apart, reach = call->count * stride;
    size_t sets = 1 + (size_t)call->affine_step * (call->count - 1); /* of parameters that do not advance */
    size_t parameters = call->affine & IS_SCALAR ? sets : sets + call->n - 1;
    const wn_norm norm = {call->centred ? 0.1 : 0.0, call->centred ? 1e-18 : 0.0, 1.7, 1.0};
    for (size_t r = 0; r < call->count; r++) {
        fill(image + r * stride, dtype, call->n, NEAR_0, r);
        fill(next_image + r * stride, dtype, call->n, r == call->count / 2 ? k : NEAR_0, r + 9);
    }
    EACH_TRIAL(t, dtype) {
        wn_affine affine =
            affine_for(&t, call->affine & ~IS_SCALAR, parameters, WN_NO_ACTIVATION, TO_STORAGE);
        affine.advance = !(call->affine & IS_SCALAR);
        const char *next = input(&t, next_image, reach), *x = input(&t, image, reach);
        char *y = t.place == IN_PLACE ? writable(x) : output(&t, reach);
        if (t.place == IN_PLACE) x = y;
        const wn_runs runs = {call->count,       call->n,          x, y, (ptrdiff_t)stride,
                              (ptrdiff_t)stride, call->affine_step};
        const void *next_runs[WN_BLOCK_RUNS];
        wn_state state, expected_state;
        t.kernels->norm_and_moments(next, &runs, call->centred, &norm, &affine, &state);
        t.kernels->stream_end();
        for (size_t r = 0; r < call->count; r++) {
            wn_affine of_run = affine;
            size_t at = r * (size_t)call->affine_step * size_of(compute_of(dtype));
            if (affine.weight) of_run.weight = (const char *)affine.weight + at;
            if (affine.bias) of_run.bias = (const char *)affine.bias + at;
            of_run.stream = 0;
            next_runs[r] = next + r * stride;
            t.kernels->apply_run(image + r * stride, alone, call->n, &norm, &of_run);
            EXPECT(!memcmp(y + r * stride, alone, bytes));
            see(y + r * stride, call->n, dtype);
        }
        t.kernels->moments_run(next_runs, call->count, call->n, call->centred, &expected_state);
        EXPECT(!memcmp(&state, &expected_state, sizeof state) || (is_poisoned(k) && state.m2 != state.m2));
    }
    for (size_t i = 0; i < expected_count[0]; i++) /* parameters are below 1 */
        sizes[i] = 4.0 + 4.0 * (is_16bit(dtype) ? storage_epsilon(dtype) / epsilon_of(dtype) : 0.0);
    compare_with_portable(2 * epsilon_of(dtype));
}

static void test_norm_and_moments(wn_dtype dtype) {
    static const size_t apart[] = {0, 13, 2500};
    size_t turn = 0;
    EACH_KIND(k)
    EACH_LENGTH(n, WN_BLOCK) for (size_t count = 1; count <= (n <= SHORT ? 5 : 1); count++, turn++) {
        int affine = (int)(turn % AFFINE_COUNT);
        ptrdiff_t step = turn / 3 % 2 ? (affine & IS_SCALAR ? 1 : (ptrdiff_t)n) : 0;
        try_norm_and_moments(dtype, k,
                             &(woven_call){count, n, apart[turn / 2 % 3], affine, turn % 7 > 0, step});
    }
}

/* Rows `stride` bytes apart: each is what apply_run makes of it, the blocks what moments_run makes of those
 * that follow. */
static void try_norm_rows(wn_dtype dtype, kind k, const woven_call *call) {
    static char image[CHUNK], alone[WN_BLOCK * sizeof(double)];
    size_t bytes = call->n * size_of(dtype), stride = bytes + call->apart, reach = 2 * call->count * stride;
    wn_norm norms[WN_TEAM];
    for (size_t r = 0; r < call->count; r++)
        norms[r] = (wn_norm){call->centred ? 0.1 + (double)r : 0.0, call->centred ? 1e-18 : 0.0,
                             1.7 / (double)(r + 1), 1.0};
    for (size_t r = 0; r < 2 * call->count; r++)
        fill(image + r * stride, dtype, call->n, r == call->count + call->count / 2 ? k : NEAR_0, r);
    EACH_TRIAL(t, dtype) {
        wn_affine affine = affine_for(&t, call->affine, call->n, WN_NO_ACTIVATION, TO_STORAGE);
        affine.advance = 1;
        const char *x = input(&t, image, reach);
        char *y = t.place == IN_PLACE ? writable(x) : output(&t, reach);
        if (t.place == IN_PLACE) x = y;
        const wn_runs runs = {call->count, call->n, x, y, (ptrdiff_t)stride, (ptrdiff_t)stride, 0};
        wn_state blocks[WN_TEAM], alike;
        t.kernels->norm_rows_and_moments(&runs, call->centred, norms, &affine, blocks);
        t.kernels->stream_end();
        affine.stream = 0;
        for (size_t r = 0; r < call->count; r++) {
            const void *next = image + (call->count + r) * stride;
            t.kernels->apply_run(image + r * stride, alone, call->n, &norms[r], &affine);
            EXPECT(!memcmp(y + r * stride, alone, bytes));
            see(y + r * stride, call->n, dtype);
            t.kernels->moments_run(&next, 1, call->n, call->centred, &alike);
            EXPECT(!memcmp(&blocks[r], &alike, sizeof alike) ||
                   (is_poisoned(k) && blocks[r].m2 != blocks[r].m2));
        }
    }
    for (size_t i = 0; i < expected_count[0]; i++) /* parameters are below 1 */
        sizes[i] = 16.0 + 16.0 * (is_16bit(dtype) ? storage_epsilon(dtype) / epsilon_of(dtype) : 0.0);
    compare_with_portable(2 * epsilon_of(dtype));
}

static void test_norm_rows_and_moments(wn_dtype dtype) {
    static const size_t apart[] = {0, 13, 2500};
    size_t turn = 0;
    EACH_KIND(k)
    EACH_LENGTH(n, WN_BLOCK)
    for (size_t count = 1; count <= WN_TEAM; count += WN_TEAM - 1, turn++)
        try_norm_rows(dtype, k,
                      &(woven_call){count, n, apart[turn / 2 % 3], (int)(turn % AFFINE_COUNT) & ~IS_SCALAR,
                                    turn % 5 > 0, 0});
}
