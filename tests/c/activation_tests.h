/* Activations against libm, of twice the digits. Part of test_kernels.c, for its length. */

/* A sweep: [-30, 30] evenly and at random, with the tails of gelu (which end by -40); all magnitudes there
 * are. */
enum { SWEEP = 24000, SWEEP_NEAR = 20000 };

static double sweep_at(size_t i, wn_dtype compute) {
    if (i < SWEEP_NEAR / 2) return -30.0 + 60.0 * (double)i / (SWEEP_NEAR / 2);
    if (i < SWEEP_NEAR) return (i % 2 ? 40.0 : 4.0) * noise(i, 6);
    int most = compute == WN_f64 ? 1023 : 127, exponent = (int)(i * 7919 % (size_t)(2 * most + 20));
    return ldexp(1.0 + fabs(noise(i, 7)), most - exponent) * (i % 2 ? 1.0 : -1.0);
}

/* The exact value to some 60 bits (float64) or 50, its argument t, the exponent there is in it (for gelu, v^2
 * / 2). */
static long double reference(double x, wn_activation activation, wn_dtype compute, long double *argument) {
    const long double pi = 3.14159265358979323846264338327950288L;
    long double v = x, t = v;
    *argument = 0.0L;
    if (activation == WN_RELU) return x < 0.0 ? 0.0L : v;
    if (activation == WN_GELU) {
        *argument = v < 0.0L ? v * v / 2 : 0.0L;
        if (compute == WN_f32) return 0.5 * x * erfc(-x * 0.70710678118654752440);
        /* what rounding the argument lost comes back: erfc' = -2 / sqrt(pi) exp(-z^2) */
        const long double root = 0.70710678118654752440084436210484904L, root_low = 0.5L / root - root;
        long double z = -v * root, lost = fmal(-v, root, -z) - v * root_low / 2;
        if (!(fabsl(z) < 100.0L)) lost = 0.0L;
        return 0.5L * v * (erfcl(z) - 2.0L / sqrtl(pi) * expl(-z * z) * lost);
    }
    if (activation == WN_GELU_TANH) t = 2.0L * sqrtl(2.0L / pi) * (v + 0.044715L * v * v * v);
    *argument = t < 0.0L ? -t : 0.0L;
    if (compute == WN_f32) { /* float64 is enough, and so is its exp */
        double u = (double)t;
        return v * (u < 0.0 ? exp(u) / (1.0 + exp(u)) : 1.0 / (1.0 + exp(-u)));
    }
    return v * (t < 0.0L ? expl(t) / (1.0L + expl(t)) : 1.0L / (1.0L + expl(-t)));
}

/* How far off an activation may be, in its result's last places. To that comes what a subnormal exp loses,
 * which is then multiplied by x. */
static double permitted_error(wn_activation activation) {
    return activation == WN_RELU ? 0.0 : activation == WN_SILU ? 3.0 : 4.0;
}

/* Streamed or not, to an aligned address or not: the same bytes, and no others. */
static void test_stream_end(wn_dtype dtype) {
    wn_norm norm = {0.1, 0.0, 1.7, 1.0};
    EACH_LENGTH(n, WN_BLOCK) {
        size_t bytes = n * size_of(dtype);
        fill(source, dtype, n, NEAR_0, n);
        EACH_TRIAL(t, dtype) for (int affine = 0; affine < 4; affine++) {
            wn_affine given = affine_for(&t, affine, n, WN_NO_ACTIVATION, TO_STORAGE);
            const void *x = input(&t, source, bytes);
            char *y = output(&t, bytes), *streamed = output(&t, bytes);
            given.stream = 0;
            t.kernels->apply_run(x, y, n, &norm, &given);
            given.stream = 1;
            t.kernels->apply_run(x, streamed, n, &norm, &given);
            t.kernels->stream_end();
            EXPECT(!memcmp(y, streamed, bytes));
            see(streamed, n, dtype);
        }
        for (size_t i = 0; i < expected_count[0]; i++)
            sizes[i] = 3.0 + fabs(expected[0][i]) * storage_epsilon(dtype) / epsilon_of(dtype);
        compare_with_portable(2 * epsilon_of(dtype));
    }
}

static void test_activate(wn_dtype dtype) {
    static const char *const names[] = {"none", "relu", "silu", "gelu", "gelu_tanh"};
    static const double specials[] = {NAN, INFINITY, 0.0, -0.0};
    enum { SPECIALS = sizeof specials / sizeof *specials };
    static char data[SWEEP * sizeof(double)];
    wn_dtype compute = compute_of(dtype);
    size_t size = size_of(compute), sweep = is_16bit(dtype) ? 1000 : SWEEP;
    double unit = epsilon_of(dtype), least = least_of(compute);
    for (int a = WN_RELU; a < ACTIVATION_COUNT; a++) {
        wn_activation activation = (wn_activation)a;
        for (size_t i = 0; i < sweep; i++)
            set(data, i, compute,
                i < SPECIALS ? specials[i] : sweep_at(is_16bit(dtype) ? 19 * i : i, compute));
        EACH_TRIAL(t, dtype) {
            const size_t piece = CHUNK / 2 / size - 3;
            for (size_t first = 0; first < sweep; first += piece) {
                size_t n = sweep - first < piece ? sweep - first : piece;
                char *p = memcpy(output(&t, n * size), data + first * size, n * size);
                t.kernels->activate(p, n, activation);
                see(p, n, compute);
            }
        }
        double worst[2][2] = {{0}}; /* without FMA and with it; from -4 on and below */
        for (size_t i = SPECIALS; i < sweep; i++) {
            double x = get(data, i, compute);
            long double argument, exact = reference(x, activation, compute, &argument);
            int exponent;
            frexpl(exact, &exponent);
            double last_place = fmax(ldexp(unit, exponent - 1), least), t = (double)fminl(argument, 2000.0L);
            double lost = (2.0 * fabs(x) + 1.0) * least;
            sizes[i] = fabs((double)exact) * (1.0 + t) + lost / unit;
            for (int has_fma = 0; has_fma < 2 && expected_count[has_fma]; has_fma++) {
                double y = expected[has_fma][i];
                double error = ((double)fabsl((long double)y - exact) - (exact ? lost : 0.0)) / last_place;
                EXPECT(y == y && fabs(y) <= fabs(x) && (x < 0.0 ? y <= 0.0 : y >= 0.0));
                EXPECT(error <= permitted_error(activation));
                if (error > worst[has_fma][x < -4.0]) worst[has_fma][x < -4.0] = error;
            }
        }
        for (size_t i = 0; i < SPECIALS; i++) {
            double y = expected[0][i];
            EXPECT(i == 0 ? y != y : y == specials[i]);
            sizes[i] = 0.0;
        }
        compare_with_portable(4 * unit);
        if (!is_16bit(dtype))
            printf("%s: at most %.1f, below -4 %.1f ULP; without FMA %.1f and %.1f\n", names[a], worst[1][0],
                   worst[1][1], worst[0][0], worst[0][1]);
        /* few at a time: parts of vectors */
        EACH_LENGTH(n, SHORT) {
            EACH_TRIAL(t, dtype) {
                char *p = memcpy(output(&t, n * size), data, n * size);
                t.kernels->activate(p, n, activation);
                see(p, n, compute);
            }
            for (size_t i = 0; i < n; i++)
                sizes[i] = i < SPECIALS ? 0.0 : fabs(expected[0][i]) * 900.0 + 100.0 * least / unit;
            compare_with_portable(4 * unit);
        }
    }
}
