/* The drivers give the same bytes for any number of threads, whatever order the threads run in, and what the
 * plain formulas give in long double. This program has its own wn_threads_for and wn_parallel (so the
 * library's are not linked), which play a team of any size, one member after the other, first to last or last
 * to first; and caches of any size. */
#include "cache.h"
#include "check.h"
#include "elements.h"
#include "threads.h"
#include "welnorm.h"

#include <stdlib.h>
#include <string.h>

static int team = 1;
static int reversed = 0;

int wn_threads_for(size_t bytes, size_t items) {
    (void)bytes;
    return items < (size_t)team ? (int)items : team;
}

void wn_parallel(int n, wn_body body, void *context) {
    for (int i = 0; i < n; i++) body(context, reversed ? n - 1 - i : i, n);
}

static size_t cache_bytes = SIZE_MAX, l1_bytes = 32768;

wn_caches wn_known_caches(void) {
    return (wn_caches){.l1 = l1_bytes, .last = cache_bytes, .share = cache_bytes};
}

static uint64_t random_state = 1;

static double uniform(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) * 0x1p-53;
}

/* ---- cases: a shape and what is asked of it ---------------------------------------------------------------
 */

/* Three groups of at most one axis each, contiguous in that order of `axes`; before them perhaps samples,
 * another axis of the group outer. */
typedef struct {
    const char *name;
    wn_pattern pattern;
    int64_t samples, outer, reduced, inner;
    int outer_place, reduced_place; /* 0: slower in memory; inner is always the fastest */
    char affine; /* 'o', 'r' or 'i': the group that weight and bias vary along; 's': outer and reduced; 'e':
                    outer and inner; 'b': reduced and inner */
    int64_t group;
} shape;

static const shape large_shapes[] = {
    {"rows of one block", WN_RUN, 1, 37, 1, 768, 0, 1, 'i', 1},
    {"one long row", WN_RUN, 1, 1, 1, 150007, 0, 1, 'i', 1},
    {"three long rows", WN_RUN, 1, 3, 1, 40961, 0, 1, 'i', 1},
    {"many long rows", WN_RUN, 1, 42, 1, 4099, 0, 1, 'i', 1},
    {"batch norm, channels first", WN_RUN, 1, 5, 7, 3136, 1, 0, 'o', 1},
    {"batch norm, few channels, many samples", WN_RUN, 1, 2, 700, 49, 1, 0, 'o', 1},
    {"batch norm, short runs", WN_RUN, 1, 3, 5000, 7, 1, 0, 'o', 1},
    {"batch norm, channels last", WN_COLS, 1, 1, 5003, 33, 0, 1, 'i', 1},
    {"batch norm, wide", WN_COLS, 1, 1, 140, 1031, 0, 1, 'i', 1},
    {"layer norm over a middle axis", WN_COLS, 1, 3, 96, 517, 0, 1, 'r', 1},
    {"instance norm, wide", WN_COLS, 1, 4, 33, 1030, 0, 1, 'i', 1},
    {"group norm, wide", WN_COLS, 1, 4, 30, 1088, 0, 1, 'i', 64},
    {"layer norm over a middle axis, wide", WN_COLS, 1, 4, 31, 1101, 0, 1, 'r', 1},
    {"layer norm over a long middle axis", WN_COLS, 1, 2, 1100, 65, 0, 1, 'r', 1},
};

/* More statistics than a thread finishes for itself, if they are given. */
static const shape many_statistics[] = {
    {"many channels", WN_RUN, 1, 9001, 3, 5, 1, 0, 'o', 1},
    {"many columns", WN_COLS, 1, 1, 7, 9001, 0, 1, 'i', 1},
};

static const shape shapes[] = {
    {"rows", WN_RUN, 1, 9, 1, 768, 0, 1, 'i', 1},
    {"rows of any length", WN_RUN, 1, 9, 1, 771, 0, 1, 'i', 1},
    {"long rows", WN_RUN, 1, 2, 1, 37001, 0, 1, 'i', 1},
    {"instance norm", WN_RUN, 3, 5, 1, 700, 0, 1, 'o', 1},
    {"instance norm of large images", WN_RUN, 2, 2, 1, 17000, 0, 1, 'o', 1},
    {"group norm, channels first", WN_RUN, 2, 4, 3, 500, 0, 1, 's', 1},
    {"group norm, channels last", WN_RUN, 2, 3, 900, 40, 1, 0, 'e', 1},
    {"layer norm over two axes", WN_RUN, 1, 5, 20, 40, 0, 1, 'b', 1},
    {"batch norm, channels first", WN_RUN, 1, 3, 6, 3136, 1, 0, 'o', 1},
    {"batch norm, short runs", WN_RUN, 1, 2, 5000, 7, 1, 0, 'o', 1},
    {"batch norm, channels last", WN_COLS, 1, 1, 1500, 33, 0, 1, 'i', 1},
    {"batch norm, rows that end within lines", WN_COLS, 1, 1, 400, 100, 0, 1, 'i', 1},
    {"batch norm, wide", WN_COLS, 1, 1, 40, 1031, 0, 1, 'i', 1},
    {"layer norm over a middle axis", WN_COLS, 2, 3, 96, 70, 0, 1, 'r', 1},
    {"instance norm, wide", WN_COLS, 1, 4, 33, 1030, 0, 1, 'i', 1},
    {"group norm, wide", WN_COLS, 1, 4, 30, 1088, 0, 1, 'i', 64},
    {"layer norm over a middle axis, wide", WN_COLS, 1, 4, 31, 1101, 0, 1, 'r', 1},
    {"layer norm over a long middle axis", WN_COLS, 1, 2, 1100, 21, 0, 1, 'r', 1},
    {"columns and rows with parameters", WN_COLS, 1, 2, 150, 70, 0, 1, 'b', 1},
    {"groups of columns", WN_COLS, 1, 2, 1200, 32, 0, 1, 'i', 8},
    {"many groups of columns", WN_COLS, 1, 2, 70, 195 * 5, 0, 1, 'i', 5},
    {"groups of most columns", WN_COLS, 1, 1, 1100, 192, 0, 1, 'i', 64},
    {"batch norm, blocked", WN_COLS, 1, 7, 1100, 16, 0, 1, 'i', 1},
    {"batch norm, several blocks of a channel", WN_RUN, 1, 7, 6, 9136, 1, 0, 'o', 1},
};

typedef enum { NO_MASK, MASK_INNER, MASK_REDUCED, MASK_BOTH, MASK_OUTER, MASK_ALL } mask_kind;
typedef enum { Y_OF_X, Y_OF_COMPUTE, Y_OF_ANOTHER } y_kind;

typedef struct {
    const char *name;
    int rms; /* not centred */
    wn_activation activation;
    mask_kind mask;
    y_kind y;
    int adds, scale, scale_is_given, exact, given, gap_x, gap_y; /* gaps: every second element */
    int tame;                                                    /* no numbers that need the wide path */
} variant;

static const variant plain = {.name = "plain"};
static const variant given = {.name = "statistics given, no wide path", .given = 1, .tame = 1};
static const variant variants[] = {
    {.name = "plain"},
    {.name = "RMS", .rms = 1},
    {.name = "RMS, tame, silu", .rms = 1, .activation = WN_SILU, .tame = 1},
    {.name = "gelu to the compute type", .activation = WN_GELU, .y = Y_OF_COMPUTE},
    {.name = "relu to another type", .activation = WN_RELU, .y = Y_OF_ANOTHER},
    {.name = "gelu_tanh with gaps", .activation = WN_GELU_TANH, .gap_x = 1, .gap_y = 1},
    {.name = "gaps in x", .gap_x = 1},
    {.name = "gaps in y, of another type", .gap_y = 1, .y = Y_OF_ANOTHER},
    {.name = "mask along inner", .mask = MASK_INNER},
    {.name = "mask along reduced", .mask = MASK_REDUCED},
    {.name = "mask along both", .mask = MASK_BOTH, .activation = WN_SILU, .gap_x = 1},
    {.name = "mask along outer, RMS", .mask = MASK_OUTER, .rms = 1, .y = Y_OF_ANOTHER},
    {.name = "all masked", .mask = MASK_ALL},
    {.name = "sum", .adds = 1},
    {.name = "sum, RMS, masked, gelu", .adds = 1, .rms = 1, .mask = MASK_REDUCED, .activation = WN_GELU},
    {.name = "sum to int8", .adds = 1, .scale = 1},
    {.name = "int8", .scale = 1},
    {.name = "int8 of RMS and silu, with gaps", .scale = 1, .rms = 1, .activation = WN_SILU, .gap_x = 1},
    {.name = "int8, scale given", .scale = 1, .scale_is_given = 1},
    {.name = "exact", .exact = 1, .tame = 1},
    {.name = "exact, masked, with gaps", .exact = 1, .tame = 1, .mask = MASK_REDUCED, .gap_x = 1},
    {.name = "statistics given", .given = 1},
    {.name = "statistics given, gelu_tanh", .given = 1, .activation = WN_GELU_TANH, .y = Y_OF_COMPUTE},
};

typedef struct {
    const shape *s;
    const variant *v;
    wn_dtype x_dtype, y_dtype;
    wn_axis outer[2], reduced, inner;
    size_t count, x_bytes, y_bytes, statistics, parameters;
    char *x, *augend, *addend, *weight, *bias;
    uint8_t *mask;
    double *given_mean, *given_var;
} test_case;

/* What a call gives. Of each its own memory, so that a sanitizer sees its ends. */
typedef struct {
    char *x, *y;
    double *states[5]; /* mean, mean_lo, m2, m2_lo, count */
    float *scale;
} outcome;

static void *reserve(size_t bytes) {
    void *p = malloc(bytes ? bytes : 1);
    if (!p) abort();
    return memset(p, 0xff, bytes);
}

static outcome new_outcome(const test_case *c) {
    outcome o = {reserve(c->x_bytes), reserve(c->y_bytes), {NULL}, reserve(c->statistics * sizeof(float))};
    for (int i = 0; i < 5; i++) o.states[i] = reserve(c->statistics * sizeof(double));
    return o;
}

static void free_outcome(outcome *o) {
    free(o->x), free(o->y), free(o->scale);
    for (int i = 0; i < 5; i++) free(o->states[i]);
}

/* Where the parameters of each axis are, in elements. */
static void lay_out_parameters(test_case *c) {
    const shape *s = c->s;
    int64_t o = 0, r = 0, i = 0;
    switch (s->affine) {
    case 'o':
        o = 1;
        break;
    case 'r':
        r = 1;
        break;
    case 'i':
        i = 1;
        break;
    case 's':
        o = s->reduced, r = 1;
        break;
    case 'e':
        o = s->inner, i = 1;
        break;
    default:
        r = s->inner, i = 1;
        break;
    }
    c->outer[1].affine_stride = o, c->reduced.affine_stride = r, c->inner.affine_stride = i;
    c->parameters = (size_t)(1 + o * (s->outer - 1) + r * (s->reduced - 1) + i * (s->inner - 1));
}

static void lay_out(test_case *c) {
    const shape *s = c->s;
    int64_t middle = s->inner, last = s->outer_place > s->reduced_place ? s->outer : s->reduced;
    int64_t slow = middle * last, outer = s->outer_place > s->reduced_place ? middle : slow;
    int64_t reduced = s->outer_place > s->reduced_place ? slow : middle;
    int64_t all = s->outer * s->reduced * s->inner;
    int64_t x = (int64_t)size_of(c->x_dtype) << c->v->gap_x;
    int64_t y = (c->v->scale ? 1 : (int64_t)size_of(c->y_dtype)) << c->v->gap_y;
    int by_inner = c->v->mask == MASK_INNER || c->v->mask == MASK_BOTH;
    int by_reduced = c->v->mask == MASK_REDUCED || c->v->mask == MASK_BOTH;
    c->count = (size_t)(s->samples * all);
    c->x_bytes = c->count * (size_t)x, c->y_bytes = c->count * (size_t)y;
    c->outer[0] = (wn_axis){s->samples, all * x, all * y, 0, by_inner && by_reduced ? all : 0};
    c->outer[1] = (wn_axis){s->outer, outer * x, outer * y, 0,
                            c->v->mask == MASK_OUTER         ? 1
                            : s->outer_place < 1 && by_inner ? outer
                                                             : 0};
    c->reduced =
        (wn_axis){s->reduced, reduced * x, reduced * y, 0, by_reduced ? (by_inner ? reduced : 1) : 0};
    c->inner = (wn_axis){s->inner, x, y, 0, by_inner};
    c->statistics = (size_t)(s->samples * s->outer * (s->pattern == WN_COLS ? s->inner : 1));
    lay_out_parameters(c);
}

static void fill_x(test_case *c, char *x, double far, double wide) {
    size_t unit = (size_t)(c->s->reduced * (c->s->pattern == WN_RUN ? c->s->inner : 1));
    for (size_t i = 0; i < c->x_bytes / size_of(c->x_dtype); i++) {
        double value = uniform() * 2.0 - 1.0;
        /* somewhere a stretch that takes the wide path, and one far from 0 */
        if (i / (unit + 1) % 3 == 1) value += far;
        if (c->s->outer > 1 && i < unit && !c->v->tame) value *= wide;
        set(x, i, c->x_dtype, value);
    }
}

static void fill(test_case *c) {
    static const double far[] = {[WN_f32] = 1e5, [WN_f64] = 1e5, [WN_f16] = 100, [WN_bf16] = 10};
    static const double wide[] = {[WN_f32] = 1e33, [WN_f64] = 1e200, [WN_f16] = 1e4, [WN_bf16] = 1e33};
    wn_dtype compute = compute_of(c->x_dtype);
    c->x = reserve(c->x_bytes), c->augend = reserve(c->x_bytes), c->addend = reserve(c->x_bytes);
    c->weight = reserve(c->parameters * size_of(compute)),
    c->bias = reserve(c->parameters * size_of(compute));
    c->mask = reserve(c->count);
    c->given_mean = reserve(c->statistics * sizeof(double));
    c->given_var = reserve(c->statistics * sizeof(double));
    fill_x(c, c->x, far[c->x_dtype], wide[c->x_dtype]);
    fill_x(c, c->augend, far[c->x_dtype], wide[c->x_dtype]);
    fill_x(c, c->addend, 0.0, 0.5);
    if (c->v->adds) /* x as it will be */
        for (size_t i = 0; i < c->x_bytes / size_of(c->x_dtype); i++) {
            double a = get(c->augend, i, c->x_dtype), b = get(c->addend, i, c->x_dtype);
            set(c->x, i, c->x_dtype, compute == WN_f64 ? a + b : (double)((float)a + (float)b));
        }
    for (size_t i = 0; i < c->parameters; i++) {
        set(c->weight, i, compute, uniform());
        set(c->bias, i, compute, uniform());
    }
    /* some here and there, and long stretches: rows, segments, blocks, parts without an element */
    size_t stretch = c->v->mask == MASK_REDUCED ? (size_t)c->s->reduced / 5 + 1 : 7001;
    for (size_t i = 0; i < c->count; i++)
        c->mask[i] = c->v->mask != MASK_ALL && i / stretch % 4 != 1 && uniform() < 0.7 ? 255 : 0;
    for (size_t i = 0; i < c->statistics; i++) {
        size_t first = i - i % (size_t)c->s->group; /* in a group they are all the same */
        c->given_mean[i] = first == i ? uniform() : c->given_mean[first];
        c->given_var[i] = first == i ? uniform() + 0.1 : c->given_var[first];
    }
}

static void free_case(test_case *c) {
    free(c->x), free(c->augend), free(c->addend), free(c->weight), free(c->bias), free(c->mask);
    free(c->given_mean), free(c->given_var);
}

/* x is of c, or a copy; with augend of `from`. */
static void run(const test_case *c, const char *augend, const char *x, char *y, int statistics, outcome *to) {
    const variant *v = c->v;
    wn_problem problem = {
        .pattern = c->s->pattern,
        .x_dtype = c->x_dtype,
        .y_dtype = c->y_dtype,
        .outer = wn_axes_of(c->outer, 2),
        .reduced = wn_axes_of(&c->reduced, 1),
        .inner = wn_axes_of(&c->inner, 1),
        .group = c->s->group,
        .centred = !v->rms,
        .x = x,
        .y = v->exact ? NULL : y,
        .weight = c->weight,
        .bias = c->bias,
        .activation = v->activation,
        .eps = 1e-5,
        .mask = v->mask ? c->mask : NULL,
        .augend = augend,
        .addend = augend ? c->addend : NULL,
        .scale = v->scale ? to->scale : NULL,
        .scale_is_given = v->scale_is_given,
        .given_mean = v->given ? c->given_mean : NULL,
        .given_var = v->given ? c->given_var : NULL,
        .given_dtype = WN_f64,
        .exact = v->exact,
    };
    if ((statistics || v->exact) && !v->given) {
        problem.states = (wn_states){to->states[0], to->states[1], to->states[2], to->states[3]};
        problem.count = to->states[4];
    }
    if (v->scale_is_given)
        for (size_t i = 0; i < c->statistics; i++) to->scale[i] = 0.01f * (float)(i % 7 + 1);
    CHECK(wn_run(&problem) == WN_OK);
}

#include "formulas.h"

/* ---- teams
 * -------------------------------------------------------------------------------------------------- */

static void compare_outcomes(const test_case *c, const outcome *a, const outcome *b, int statistics) {
    CHECK(memcmp(a->y, b->y, c->y_bytes) == 0);
    if (c->v->adds) CHECK(memcmp(a->x, b->x, c->x_bytes) == 0);
    if (c->v->scale) CHECK(memcmp(a->scale, b->scale, c->statistics * sizeof(float)) == 0);
    for (int i = 0; i < 5 && statistics && !c->v->given; i++)
        CHECK(memcmp(a->states[i], b->states[i], c->statistics * sizeof(double)) == 0);
}

/* x apart from y; augend apart from x or, every other time, x itself. */
static void run_apart(const test_case *c, int statistics, outcome *o) {
    memset(o->y, 0xff, c->y_bytes);
    if (!c->v->adds) {
        run(c, NULL, c->x, o->y, statistics, o);
        return;
    }
    memset(o->x, 0xff, c->x_bytes);
    if (team % 4 < 2) memcpy(o->x, c->augend, c->x_bytes);
    run(c, team % 4 < 2 ? o->x : c->augend, o->x, o->y, statistics, o);
}

static void same_for_any_team(test_case *c, int all_teams) {
    outcome expected = new_outcome(c), got = new_outcome(c);
    plain_state *states = plain_states(c);
    int y_is_x = !c->v->gap_x == !c->v->gap_y && c->x_dtype == c->y_dtype && !c->v->scale && !c->v->exact;
    int failures = atomic_load(&check_failures);
    team = 1, reversed = 0;
    run_apart(c, 1, &expected);
    compare_states(c, states, &expected);
    if (c->v->adds) CHECK(memcmp(expected.x, c->x, c->x_bytes) == 0);
    if (!c->v->exact && !c->v->scale) compare_results(c, states, expected.y);
    if (!c->v->exact) compare_with_steps(c, &expected);
    for (team = 1; team <= 17; team += all_teams ? 1 : 1 + 3 * team / 2) {
        for (reversed = 0; reversed < 2; reversed++) {
            int statistics = (team + reversed) % 2 || c->v->exact;
            /* past the cache, or not, or much of it, or as large as a unit or several */
            size_t all = c->x_bytes + c->y_bytes, unit = all / (size_t)c->s->outer + 1;
            size_t sizes[] = {0, SIZE_MAX, unit, 5 * unit, 2 * all, 9 * unit, 3 * all};
            static size_t turn;
            l1_bytes = turn % 2 ? 49152 : 32768;
            cache_bytes = sizes[turn++ % (sizeof sizes / sizeof *sizes)];
            run_apart(c, statistics, &got);
            compare_outcomes(c, &got, &expected, statistics);
            if (!y_is_x) continue;
            char *y = memcpy(got.y, c->v->adds ? c->augend : c->x, c->x_bytes);
            run(c, c->v->adds ? y : NULL, y, y, statistics, &got);
            if (!c->v->gap_x) compare_outcomes(c, &got, &expected, statistics);
        }
    }
    if (atomic_load(&check_failures) > failures)
        fprintf(stderr, "%s: %s; %s; dtypes %d and %d\n", wn_selected_isa()->isa, c->s->name, c->v->name,
                (int)c->x_dtype, (int)c->y_dtype);
    free(states);
    free_outcome(&expected);
    free_outcome(&got);
}

static void try_case(const shape *s, const variant *v, wn_dtype dtype, int all_teams) {
    int by_inner = v->mask == MASK_INNER || v->mask == MASK_BOTH;
    if (s->pattern == WN_COLS && (v->scale || by_inner)) return; /* the pattern run has these to itself */
    if (v->exact && s->group > 1) return;
    wn_dtype y_dtype = v->y == Y_OF_X         ? dtype
                       : v->y == Y_OF_COMPUTE ? compute_of(dtype)
                                              : (wn_dtype)((dtype + 1 + (s->inner % 2)) % WN_DTYPE_COUNT);
    test_case c = {.s = s, .v = v, .x_dtype = dtype, .y_dtype = y_dtype};
    lay_out(&c);
    fill(&c);
    same_for_any_team(&c, all_teams);
    free_case(&c);
}

static void test_rows(wn_dtype dtype) {
    const shape s = {"rows", WN_RUN, 1, 23, 1, 300, 0, 1, 'i', 1};
    for (int rms = 0; rms < 2; rms++) {
        const variant v = {.name = "rows", .rms = rms};
        test_case c = {.s = &s, .v = &v, .x_dtype = dtype, .y_dtype = dtype};
        lay_out(&c), fill(&c);
        outcome o = new_outcome(&c);
        char *y = reserve(c.y_bytes);
        team = 1;
        run(&c, NULL, c.x, o.y, 0, &o);
        for (team = 1; team <= 17; team++) {
            CHECK(wn_norm_rows(dtype, NULL, NULL, c.x, y, 23, 300, c.weight, c.bias, 1e-5, !rms,
                               WN_NO_ACTIVATION) == WN_OK);
            CHECK(memcmp(y, o.y, c.y_bytes) == 0);
            memset(y, 0xff, c.y_bytes);
        }
        free(y), free_outcome(&o), free_case(&c);
    }
}

/* ---- channels into blocks and back
 * ---------------------------------------------------------------------------- */

static void test_move_blocked(size_t batch, size_t channels, size_t positions, size_t block, size_t size) {
    size_t blocks = (channels + block - 1) / block;
    size_t plain_bytes = batch * channels * positions * size,
           bytes = batch * blocks * positions * block * size;
    char *x = reserve(plain_bytes), *blocked = reserve(bytes), *back = reserve(plain_bytes),
         *expected = reserve(bytes);
    for (size_t i = 0; i < plain_bytes; i++) x[i] = (char)(1 + (int)(uniform() * 255.0));
    memset(expected, 0, bytes);
    for (size_t b = 0; b < batch; b++)
        for (size_t c = 0; c < channels; c++)
            for (size_t p = 0; p < positions; p++)
                memcpy(expected + (((b * blocks + c / block) * positions + p) * block + c % block) * size,
                       x + ((b * channels + c) * positions + p) * size, size);
    for (team = 1; team <= 17; team++) {
        for (reversed = 0; reversed < 2; reversed++) {
            memset(blocked, 0xff, bytes), memset(back, 0xff, plain_bytes);
            wn_move_blocked(x, blocked, batch, channels, positions, block, size, 1);
            CHECK(memcmp(blocked, expected, bytes) == 0);
            wn_move_blocked(back, blocked, batch, channels, positions, block, size, 0);
            CHECK(memcmp(back, x, plain_bytes) == 0 && memcmp(blocked, expected, bytes) == 0);
        }
    }
    free(x), free(blocked), free(back), free(expected);
}

static void test_moves(void) {
    for (size_t size = 2; size <= 8; size *= 2)
        for (size_t channels = 1; channels <= 33; channels += channels < 9 ? 1 : 8)
            for (size_t block = 1; block <= 16; block *= 2) {
                test_move_blocked(2, channels, 5, block, size);
                test_move_blocked(1, channels, 257 + channels, block, size);
            }
}

/* Under an emulator (a quarter of an hour) or sanitizers: a part of the variants, and of the teams. */
#ifdef SLOW_HERE
enum { ONE_IN = 12, ALL_TEAMS = 0 };
#else
enum { ONE_IN = 1, ALL_TEAMS = 1 };
#endif

int main(void) {
    for (int isa = 0; wn_usable_isa(isa); isa++) {
        wn_select_isa(wn_usable_isa(isa)->isa);
        for (int dtype = 0; dtype < WN_DTYPE_COUNT; dtype++) {
            for (size_t i = 0; i < sizeof large_shapes / sizeof *large_shapes; i++)
                try_case(&large_shapes[i], &plain, (wn_dtype)dtype, ALL_TEAMS && !isa);
            for (size_t i = 0; i < sizeof many_statistics / sizeof *many_statistics; i++)
                try_case(&many_statistics[i], &given, (wn_dtype)dtype, 0);
            for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
                for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
                    if ((i + v + (size_t)dtype) % ONE_IN != 0) continue;
                    if (!isa ||
                        (i + v + (size_t)dtype) % 3 == (size_t)isa % 3) /* all of them on the best one */
                        try_case(&shapes[i], &variants[v], (wn_dtype)dtype, ALL_TEAMS && (i + v) % 8 == 0);
                }
            test_rows((wn_dtype)dtype);
        }
    }
    test_moves();
    return check_result();
}
