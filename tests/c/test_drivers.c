/* The drivers give the same bytes for any number of threads, whatever order the threads run in. This program
 * has its own wn_threads_for and wn_parallel (so the library's are not linked), which play a team of any
 * size, one member after the other, first to last or last to first. */
#include "check.h"
#include "dispatch.h"
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

static uint64_t random_state = 1;

static double uniform(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(random_state >> 11) * 0x1p-53;
}

/* A problem of three groups of at most one axis each, contiguous in that order of `axes`. */
typedef struct {
    const char *name;
    wn_pattern pattern;
    int64_t outer, reduced, inner;
    int outer_place, reduced_place; /* 0: slowest in memory; inner is always the fastest */
    char affine;                    /* 'o', 'r' or 'i': the group that weight and bias vary along */
} shape;

static const shape shapes[] = {
    {"rows of one block", WN_RUN, 37, 1, 768, 0, 1, 'i'},
    {"one long row", WN_RUN, 1, 1, 300007, 0, 1, 'i'},
    {"three long rows", WN_RUN, 3, 1, 65537, 0, 1, 'i'},
    {"batch norm, channels first", WN_RUN, 5, 7, 3136, 1, 0, 'o'},
    {"batch norm, few channels, many samples", WN_RUN, 2, 700, 49, 1, 0, 'o'},
    {"batch norm, short runs", WN_RUN, 3, 5000, 7, 1, 0, 'o'},
    {"batch norm, channels last", WN_COLS, 1, 5003, 33, 0, 1, 'i'},
    {"batch norm, wide", WN_COLS, 1, 700, 1031, 0, 1, 'i'},
    {"layer norm over a middle axis", WN_COLS, 3, 96, 517, 0, 1, 'r'},
    {"layer norm over a long middle axis", WN_COLS, 2, 3000, 65, 0, 1, 'r'},
};

typedef struct {
    char *x, *y, *in_place, *weight, *bias;
    double *mean, *mean_lo, *m2;
    size_t bytes, statistics;
} arrays;

static void fill(const shape *s, wn_dtype dtype, arrays *a) {
    size_t size = dtype == WN_f64 ? 8 : 4, count = (size_t)(s->outer * s->reduced * s->inner);
    size_t unit = (size_t)(s->reduced * (s->pattern == WN_RUN ? s->inner : 1));
    for (size_t i = 0; i < count; i++) {
        double value = uniform() * 2.0 - 1.0;
        /* somewhere a stretch that takes the wide path, and one far from 0 */
        if (i / (unit + 1) % 3 == 1) value += 1e5;
        if (s->outer > 1 && i < unit) value *= dtype == WN_f64 ? 1e200 : 1e33;
        if (dtype == WN_f64)
            ((double *)a->x)[i] = value;
        else
            ((float *)a->x)[i] = (float)value;
    }
    for (size_t i = 0; i < (size_t)(s->affine == 'o'   ? s->outer
                                    : s->affine == 'r' ? s->reduced
                                                       : s->inner);
         i++) {
        for (int which = 0; which < 2; which++) {
            char *to = which ? a->weight : a->bias;
            if (dtype == WN_f64)
                ((double *)to)[i] = uniform();
            else
                ((float *)to)[i] = (float)uniform();
        }
    }
    a->bytes = count * size;
}

static wn_status run(const shape *s, wn_dtype dtype, const arrays *a, const char *x, char *y,
                     int statistics) {
    int64_t size = dtype == WN_f64 ? 8 : 4, inner_stride = size;
    int64_t last = s->outer_place > s->reduced_place ? s->outer : s->reduced;
    int64_t middle = s->inner * size, slow = middle * last;
    int64_t outer_stride = s->outer_place > s->reduced_place ? middle : slow;
    int64_t reduced_stride = s->outer_place > s->reduced_place ? slow : middle;
    const wn_axis outer = {s->outer, outer_stride, outer_stride, s->affine == 'o'};
    const wn_axis reduced = {s->reduced, reduced_stride, reduced_stride, s->affine == 'r'};
    const wn_axis inner = {s->inner, inner_stride, inner_stride, s->affine == 'i'};
    wn_problem problem = {
        .pattern = s->pattern,
        .x_dtype = dtype,
        .y_dtype = dtype,
        .outer = wn_axes_of(&outer, 1),
        .reduced = wn_axes_of(&reduced, 1),
        .inner = wn_axes_of(&inner, 1),
        .x = x,
        .y = y,
        .weight = a->weight,
        .bias = a->bias,
        .eps = 1e-5,
        .mean = statistics ? a->mean : NULL,
        .mean_lo = statistics ? a->mean_lo : NULL,
        .m2 = statistics ? a->m2 : NULL,
    };
    return wn_run(&problem);
}

static void same_for_any_team(const shape *s, wn_dtype dtype, arrays *a) {
    fill(s, dtype, a);
    a->statistics = (size_t)(s->outer * (s->pattern == WN_COLS ? s->inner : 1)) * sizeof(double);
    char *expected = malloc(a->bytes), *expected_mean = malloc(a->statistics),
         *expected_m2 = malloc(a->statistics);
    team = 1;
    reversed = 0;
    CHECK(run(s, dtype, a, a->x, expected, 1) == WN_OK);
    memcpy(expected_mean, a->mean, a->statistics);
    memcpy(expected_m2, a->m2, a->statistics);
    for (team = 1; team <= 17; team++) {
        for (reversed = 0; reversed < 2; reversed++) {
            int statistics = team % 2;
            memset(a->y, 0xff, a->bytes);
            CHECK(run(s, dtype, a, a->x, a->y, statistics) == WN_OK);
            CHECK(memcmp(a->y, expected, a->bytes) == 0);
            CHECK(memcmp(a->mean, expected_mean, a->statistics) == 0);
            CHECK(memcmp(a->m2, expected_m2, a->statistics) == 0);
            memcpy(a->in_place, a->x, a->bytes);
            CHECK(run(s, dtype, a, a->in_place, a->in_place, statistics) == WN_OK);
            CHECK(memcmp(a->in_place, expected, a->bytes) == 0);
        }
    }
    free(expected);
    free(expected_mean);
    free(expected_m2);
}

int main(void) {
    const size_t most = (size_t)8 << 20;
    arrays a = {malloc(most),
                malloc(most),
                malloc(most),
                malloc(most),
                malloc(most),
                malloc(most),
                malloc(most),
                malloc(most),
                0,
                0};
    for (int isa = 0; wn_usable_isa(isa); isa++) {
        wn_select_isa(wn_usable_isa(isa)->isa);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            for (int dtype = 0; dtype < WN_DTYPE_COUNT; dtype++)
                same_for_any_team(&shapes[i], (wn_dtype)dtype, &a);
    }
    free(a.x), free(a.y), free(a.in_place), free(a.weight), free(a.bias), free(a.mean), free(a.mean_lo),
        free(a.m2);
    return check_result();
}
