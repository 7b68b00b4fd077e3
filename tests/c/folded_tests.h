/* The tests of the kernels whose weight and bias are folded into the norm. Part of test_kernels.c, for its
 * length. */

/* Columns like any others, but for one: for the wide path, with a product of rstd and weight or a bias that
 * is not to be had, far from 0, or poisoned; and one whose weight is 0, which folds. */
typedef enum {
    ORDINARY,
    WIDE,
    PRODUCT_TOO_LARGE,
    PRODUCT_TOO_SMALL,
    BIAS_INF,
    FAR_MEAN,
    MEAN_NAN,
    WEIGHT_0,
    ODD_COUNT
} odd_column;

static int folds_of(wn_dtype compute, odd_column odd) {
    return odd == ORDINARY || odd == WEIGHT_0 || (odd == WIDE && compute == WN_f64);
}

static void test_finish_cols(wn_dtype dtype) {
    static double states[3 * WN_STRIP];
    static char own_weights[WN_STRIP * sizeof(double)], own_biases[sizeof own_weights];
    wn_dtype compute = compute_of(dtype);
    double huge = compute == WN_f64 ? 1e308 : 3e38, small = compute == WN_f64 ? 1e-307 : 2e-38;
    EACH_WIDTH(columns)
    for (int affine = 0; affine < 4; affine++)
        for (odd_column odd = ORDINARY; odd < ODD_COUNT; odd++) {
            size_t bytes = columns * size_of(compute), at = columns * 2 / 3;
            const double count = 7.0, eps = 1e-5;
            int has_parameters = affine == (HAS_WEIGHT | HAS_BIAS);
            if (!has_parameters && odd != ORDINARY && odd != WIDE && odd != FAR_MEAN && odd != MEAN_NAN)
                continue;
            for (size_t c = 0; c < columns; c++) {
                states[c] = noise(c, 1) * 1e3, states[columns + c] = states[c] * 1e-17,
                states[2 * columns + c] = 1.1 + noise(c, 2);
                set(own_weights, c, compute, noise(c, 3)), set(own_biases, c, compute, noise(c, 4));
            }
            if (odd == WIDE) states[2 * columns + at] = 0x1p251;
            if (odd == PRODUCT_TOO_LARGE) states[2 * columns + at] = 0.0, set(own_weights, at, compute, huge);
            if (odd == PRODUCT_TOO_SMALL)
                states[2 * columns + at] = 1e3, set(own_weights, at, compute, small);
            if (odd == BIAS_INF) set(own_biases, at, compute, (double)INFINITY);
            if (odd == FAR_MEAN) states[at] = -0x1p961;
            if (odd == MEAN_NAN) states[at] = (double)NAN;
            if (odd == WEIGHT_0) set(own_weights, at, compute, 0.0);
            int as_expected = 1;
            EACH_TRIAL(t, dtype) {
                double *of = states_for(&t, 3 * columns);
                memcpy(of, states, 3 * columns * sizeof *of);
                const wn_states given = {of, affine ? of + columns : NULL, of + 2 * columns, NULL};
                const void *w = affine & HAS_WEIGHT ? input(&t, own_weights, bytes) : NULL;
                const void *b = affine & HAS_BIAS ? input(&t, own_biases, bytes) : NULL;
                const wn_cols_norm norm = {states_for(&t, columns), states_for(&t, columns),
                                           states_for(&t, columns)};
                int folds = t.kernels->finish_cols(&given, count, eps, w, b, columns, &norm);
                as_expected &= folds == folds_of(compute, odd);
                if (!folds) continue;
                see(norm.mean_hi, columns, compute), see(norm.rstd, columns, compute),
                    see(norm.offset, columns, compute);
                for (size_t c = 0; c < columns; c++) {
                    const wn_state state = {count, states[c], affine ? states[columns + c] : 0.0,
                                            states[2 * columns + c], 0.0};
                    wn_norm of_column = wn_finish(&state, eps);
                    double weight = w ? get(own_weights, c, compute) : 1.0,
                           bias = b ? get(own_biases, c, compute) : -0.0;
                    double parts[3];
                    float narrow[3];
                    if (compute == WN_f64)
                        as_expected &= wn_fold_f64(&of_column, weight, bias, &parts[0], &parts[1], &parts[2]);
                    else
                        as_expected &= wn_fold_f32(&of_column, (float)weight, (float)bias, &narrow[0],
                                                   &narrow[1], &narrow[2]);
                    for (int i = 0; i < 3 && compute == WN_f32; i++) parts[i] = (double)narrow[i];
                    as_expected &= get(norm.mean_hi, c, compute) == parts[0] &&
                                   get(norm.rstd, c, compute) == parts[1] &&
                                   get(norm.offset, c, compute) == parts[2];
                }
            }
            EXPECT(as_expected);
            compare_with_portable(0.0);
        }
}

static void test_apply_runs(wn_dtype dtype) {
    enum { RUNS = 7 };
    static const size_t run_counts[] = {1, 2, RUNS};
    static char parts[3][RUNS * sizeof(double)];
    wn_dtype compute = compute_of(dtype);
    EACH_KIND(k) for (int i = 0; i < 3; i++) EACH_LENGTH(n, WN_BLOCK + 1) {
        size_t run_count = run_counts[i], bytes = n * size_of(dtype), apart = (n + k) % 3 * 13;
        wn_activation activation = (wn_activation)((n + k) % 8 < ACTIVATION_COUNT ? (n + k) % 8 : 0);
        result_type type = (result_type)(n / 2 % 3 == 1);
        size_t y_bytes = n * size_of(result_of(dtype, type)), reach = run_count * (bytes + apart);
        wn_affine affine = {0};
        for (size_t r = 0; r < run_count; r++) {
            fill(source + r * (bytes + apart), dtype, n, k, r);
            set(parts[0], r, compute,
                k == CONSTANT     ? constants[dtype]
                : k == FAR_FROM_0 ? offsets[dtype]
                                  : noise(r, 5));
            set(parts[1], r, compute, k == LARGE && dtype != WN_f16 ? 1e-30 : 1.5 + noise(r, 3));
            set(parts[2], r, compute, k == CONSTANT ? 0.0 : noise(r, 4));
        }
        EACH_TRIAL(t, dtype) {
            const wn_cols_norm norm = {memcpy(states_for(&t, RUNS), parts[0], sizeof parts[0]),
                                       memcpy(states_for(&t, RUNS), parts[1], sizeof parts[1]),
                                       memcpy(states_for(&t, RUNS), parts[2], sizeof parts[2])};
            const char *x = input(&t, source, reach);
            int is_same = t.place == IN_PLACE && y_bytes == bytes;
            char *y = is_same ? writable(x) : output(&t, run_count * (y_bytes + apart));
            affine = affine_for(&t, 0, n, activation, type);
            t.kernels->apply_runs(is_same ? y : x, (ptrdiff_t)(bytes + apart), y,
                                  (ptrdiff_t)(y_bytes + apart), run_count, n, &norm, &affine);
            t.kernels->stream_end();
            for (size_t r = 0; r < run_count; r++) see(y + r * (y_bytes + apart), n, result_of(dtype, type));
        }
        for (size_t e = 0; e < run_count * n; e++) {
            size_t r = e / n;
            double x = get(source + r * (bytes + apart), e % n, dtype), offset = get(parts[2], r, compute);
            double xhat = (x - get(parts[0], r, compute)) * get(parts[1], r, compute) + offset;
            compare_element(dtype, e, 0, xhat, k == CONSTANT ? 0.0 : fabs(offset), &affine, 0);
        }
        compare_with_portable((activation ? 8 : 2) * epsilon_of(dtype));
    }
}
