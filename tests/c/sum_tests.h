/* norm_run on rows that are still to be written, and on rows in teams and batches. Part of test_kernels.c,
 * for its length. */

/* As the drivers go on after a row for the wide path. Each row is what `add` makes of it, and its norm that
 * of the rows that are there. */
static void try_sums(wn_dtype dtype, const row_call *call) {
    static char sums[CHUNK], alone[CHUNK], addends[CHUNK];
    size_t n = call->n, stride = (size_t)call->stride, reach = call->rows * stride;
    fill(addends, dtype, reach / size_of(dtype) + 1, NEAR_0, 7);
    for (int past = 0; past < 2; past++) EACH_TRIAL(t, dtype) {
            wn_affine affine = affine_for(&t, call->affine, n, WN_NO_ACTIVATION, TO_STORAGE);
            affine.stream = past, affine.far = !past && ((size_t)t.place + n / 8) % 2;
            const char *augend = input(&t, source, reach), *addend = input(&t, addends, reach);
            char *x = t.place == IN_PLACE ? writable(augend) : output(&t, reach), *y = output(&t, reach);
            if (t.place == IN_PLACE) augend = x;
            for (size_t r = 0; r < call->rows; r++)
                t.kernels->add(source + r * stride, addends + r * stride, sums + r * stride, n);
            wn_addends adds = {.done = 0};
            for (size_t r = 0, done; r < call->rows; r += done) {
                size_t at = r * stride, left = call->rows - r;
                adds.augend = augend + at, adds.addend = addend + at;
                done = t.kernels->norm_run(x + at, call->stride, y + at, call->stride, left, n, &affine, 0,
                                           1e-5, call->centred, &adds);
                t.kernels->stream_end();
                size_t same = t.kernels->norm_run(sums + at, call->stride, alone + at, call->stride, left, n,
                                                  &affine, 0, 1e-5, call->centred, NULL);
                EXPECT(done == same && adds.done >= done + (done < left));
                for (size_t i = r; i < r + done; i++) see(y + i * stride, n, dtype);
                size_t seen = result_count;
                for (size_t i = r; i < r + done; i++) see(alone + i * stride, n, dtype);
                result_count = seen;
                EXPECT(!memcmp(results + seen - done * n, results + seen, done * n * sizeof *results));
                done += done < left;
                adds.done -= done;
            }
            for (size_t r = 0; r < call->rows; r++) {
                see(x + r * stride, n, dtype);
                size_t seen = result_count;
                see(sums + r * stride, n, dtype);
                result_count = seen;
                EXPECT(!memcmp(results + seen - n, results + seen, n * sizeof *results));
            }
            result_count = 0;
        }
}

/* Rows in teams and batches, each length with those of its own: enough of them for two of the largest and one
 * row more. One of them, each in turn, may be for the wide path. */
static void test_teams(wn_dtype dtype) {
    static const size_t lengths[] = {40, 128, 300, 450, 520, 1040, 2048, 2064, 2999, 3072, WN_BLOCK};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        EACH_KIND(k) for (int affine = 1; affine < 4; affine += 2) {
            size_t n = lengths[i], most = n <= 520 ? 17 : 9, bytes = n * size_of(dtype);
            size_t rows = k == NEAR_0 || k == LARGE ? most : 2 + i % 2, turns = k == LARGE ? rows : 2;
            for (size_t turn = 0; turn < turns; turn++) {
                ptrdiff_t stride = (ptrdiff_t)(bytes + turn % 2 * 64);
                for (size_t r = 0; r < rows; r++)
                    fill(source + r * bytes, dtype, n, r == turn ? k : NEAR_0, r);
                for (int centred = affine != HAS_WEIGHT; centred < 2; centred++) { /* RMS norm has no bias */
                    row_call call = {rows, n, stride, affine, centred, 0, WN_NO_ACTIVATION, TO_STORAGE};
                    try_norm_run(dtype, &call);
                    try_sums(dtype, &call);
                }
            }
        }
}
