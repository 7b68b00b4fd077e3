/* What the drivers should give: the plain formulas, in long double. Part of test_drivers.c, for its length.
 */

typedef struct {
    size_t statistic, x, y, affine; /* x, y: elements */
    int selected;
} element;

static element element_at(const test_case *c, size_t index) {
    int64_t n = (int64_t)index, i = n % c->s->inner, r = n / c->s->inner % c->s->reduced;
    int64_t o = n / c->s->inner / c->s->reduced % c->s->outer,
            sample = n / c->s->inner / c->s->reduced / c->s->outer;
    const wn_axis *axes[] = {&c->outer[0], &c->outer[1], &c->reduced, &c->inner};
    const int64_t at[] = {sample, o, r, i};
    int64_t x = 0, y = 0, affine = 0, mask = 0;
    for (int d = 0; d < 4; d++) {
        x += at[d] * axes[d]->x_stride, y += at[d] * axes[d]->y_stride;
        affine += at[d] * axes[d]->affine_stride, mask += at[d] * axes[d]->mask_stride;
    }
    size_t unit = (size_t)(sample * c->s->outer + o);
    if (c->s->pattern == WN_COLS) unit = unit * (size_t)c->s->inner + (size_t)(i - i % c->s->group);
    return (element){unit, (size_t)x / size_of(c->x_dtype),
                     (size_t)y / (c->v->scale ? 1 : size_of(c->y_dtype)), (size_t)affine,
                     !c->v->mask || c->mask[mask]};
}

typedef struct {
    long double sum, square, mean, var;
    double count;
} plain_state;

static plain_state *plain_states(const test_case *c) {
    plain_state *states = calloc(c->statistics, sizeof *states);
    if (!states) abort();
    for (size_t n = 0; n < c->count; n++) {
        element e = element_at(c, n);
        if (!e.selected) continue;
        states[e.statistic].sum += get(c->x, e.x, c->x_dtype);
        states[e.statistic].count++;
    }
    for (size_t i = 0; i < c->statistics; i++)
        states[i].mean = c->v->rms || states[i].count == 0.0 ? 0.0L : states[i].sum / states[i].count;
    for (size_t n = 0; n < c->count; n++) {
        element e = element_at(c, n);
        long double d = get(c->x, e.x, c->x_dtype) - states[e.statistic].mean;
        if (e.selected) states[e.statistic].square += d * d;
    }
    for (size_t i = 0; i < c->statistics; i++) {
        if (states[i].count > 0.0) states[i].var = states[i].square / states[i].count;
        if (c->v->given) states[i].mean = c->given_mean[i], states[i].var = c->given_var[i];
    }
    return states;
}

static void compare_states(const test_case *c, const plain_state *states, const outcome *o) {
    int64_t group = c->s->group;
    int has_float_squares = c->v->rms && c->s->pattern == WN_RUN && c->x_dtype != WN_f64 && !c->v->exact;
    long double share = c->v->exact ? 0x1p-46L : c->x_dtype == WN_f64 ? 0x1p-42L : 0x1p-28L;
    int is_right = 1;
    for (size_t i = 0; i < c->statistics && !c->v->given; i++) {
        const plain_state *s = &states[i - i % (size_t)group];
        long double mean = (long double)o->states[0][i] + o->states[1][i];
        long double m2 = (long double)o->states[2][i] + o->states[3][i];
        is_right &= o->states[4][i] == s->count && (c->v->exact || s->count == 0.0 || o->states[3][i] == 0.0);
        if (s->count == 0.0) continue;
        is_right &= fabsl(mean - s->mean) <= share * (fabsl(s->mean) + sqrtl(s->var));
        is_right &= s->square > (long double)DBL_MAX
                        ? m2 > (long double)DBL_MAX
                        : fabsl(m2 - s->square) <= (has_float_squares ? (long double)WN_SQUARES_ERROR
                                                    : c->v->exact     ? share
                                                                      : 16.0L * share) *
                                                       s->square;
    }
    CHECK(is_right);
}

/* y in x's place or not: of these digits, those of the compute type and those of y. Int8 and other types have
 * tests of their own, by the bits. */
static void compare_results(const test_case *c, const plain_state *states, const char *y) {
    wn_dtype compute = compute_of(c->x_dtype);
    double unit = storage_epsilon(compute);
    int is_right = 1;
    for (size_t n = 0; n < c->count; n++) {
        element e = element_at(c, n);
        const plain_state *s = &states[e.statistic];
        double value = get(y, e.y, c->y_dtype);
        if (!e.selected) {
            is_right &= value == 0.0 && !signbit(value);
            continue;
        }
        long double rstd = 1.0L / sqrtl(s->var + 1e-5L), x = get(c->x, e.x, c->x_dtype);
        double xhat = (double)((x - s->mean) * rstd), w = get(c->weight, e.affine, compute);
        double b = get(c->bias, e.affine, compute), exact = activated(xhat * w + b, c->v->activation);
        /* the plain mean here has few digits more than float64's; the one to be tested is a pair */
        double lost = fabs((double)(s->mean * rstd)) * fmax(unit * unit, 0x1p-57);
        double size = (fabs(xhat) + lost / unit + 1.0) * fabs(w) + fabs(b);
        double error = 8 * unit * size + storage_epsilon(c->y_dtype) * fabs(exact) + 0x1p-24;
        if (c->y_dtype == WN_f32 || c->y_dtype == WN_f64) error -= 0x1p-24;
        if (c->y_dtype == WN_f16 && fabs(exact) > 65000.0) continue;
        is_right &= fabs(value - exact) <= error;
    }
    CHECK(is_right);
}

/* The same call without sums and to the compute type makes y; another dtype and int8 follow from it. */
static void compare_with_steps(const test_case *c, const outcome *o) {
    wn_dtype compute = compute_of(c->x_dtype);
    variant in_steps = *c->v;
    test_case steps = *c;
    in_steps.adds = in_steps.scale = 0;
    in_steps.gap_y = 0;
    steps.v = &in_steps;
    steps.y_dtype = compute;
    lay_out(&steps);
    outcome of_steps = new_outcome(&steps);
    run(&steps, NULL, c->x, of_steps.y, 0, &of_steps);
    float *scale = reserve(c->statistics * sizeof(float));
    for (size_t i = 0; i < c->statistics; i++) scale[i] = c->v->scale_is_given ? o->scale[i] : 0.0f;
    for (size_t n = 0; n < c->count && c->v->scale && !c->v->scale_is_given; n++) {
        element e = element_at(&steps, n);
        double magnitude = fabs(get(of_steps.y, e.y, compute));
        float share = compute == WN_f64 ? (float)(magnitude / 127.0) : (float)magnitude / 127.0f;
        if (share > scale[e.statistic]) scale[e.statistic] = share;
    }
    int is_same = 1;
    for (size_t i = 0; i < c->statistics && c->v->scale; i++) {
        if (scale[i] == 0.0f) scale[i] = 1.0f;
        is_same &= scale[i] == o->scale[i];
    }
    for (size_t n = 0; n < c->count; n++) {
        element e = element_at(c, n), of = element_at(&steps, n);
        double y = get(of_steps.y, of.y, compute);
        char stored[sizeof(double)];
        if (c->v->scale) {
            float s = scale[e.statistic];
            double share = compute == WN_f64 ? y / (double)s : (double)((float)y / s);
            is_same &= ((const int8_t *)o->y)[e.y] == (int)rint(fmax(-127.0, fmin(127.0, share)));
        } else {
            set(stored, 0, c->y_dtype, y);
            is_same &= get(stored, 0, c->y_dtype) == get(o->y, e.y, c->y_dtype);
        }
    }
    CHECK(is_same);
    free(scale);
    free_outcome(&of_steps);
}
