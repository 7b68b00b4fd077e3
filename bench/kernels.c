/* What the kernels of rows take alone, on one thread: statistics, apply step, both woven into each other (the
 * norm), and copies; nanoseconds for 16 elements, the best of many rounds in turn.
 *
 * Usage: bench_kernels [instruction set] (README.md says how to build it) */
#include "convert.h"
#include "dispatch.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MOST = 1 << 22, ROUNDS = 200, KINDS = 5 };

typedef struct {
    const struct wn_dtype_kernels *kernels;
    size_t rows, n, row_bytes;
    const wn_affine *affine;
    const char *x;
    char *y;
} problem;

static void statistics(const problem *p) {
    wn_state state;
    for (size_t r = 0; r < p->rows; r++) {
        const void *row = p->x + r * p->row_bytes;
        p->kernels->moments_run(&row, 1, p->n, 1, &state);
    }
}

static void apply(const problem *p) {
    const wn_norm norm = {.mean = 0.5, .rstd = 3.0, .scale = 1.0};
    for (size_t r = 0; r < p->rows; r++)
        p->kernels->apply_run(p->x + r * p->row_bytes, p->y + r * p->row_bytes, p->n, &norm, p->affine);
}

static void norm(const problem *p) {
    ptrdiff_t step = (ptrdiff_t)p->row_bytes;
    p->kernels->norm_run(p->x, step, p->y, step, p->rows, p->n, p->affine, 0, 1e-5, 1, NULL);
}

static void copy(const problem *p) { p->kernels->copy(p->y, p->x, p->rows * p->row_bytes, 0); }

/* Each row is read before it is copied. */
static void read_copy(const problem *p) {
    volatile uint32_t bits = 0;
    for (size_t at = 0; at < p->rows * p->row_bytes; at += p->row_bytes) {
        bits |= p->kernels->read(p->x + at, p->row_bytes / sizeof bits);
        p->kernels->copy(p->y + at, p->x + at, p->row_bytes, 0);
    }
}

static double now(void) {
    struct timespec time;
    timespec_get(&time, TIME_UTC);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void measure(const char *dtype, const problem *p) {
    void (*const kinds[KINDS])(const problem *) = {statistics, apply, norm, copy, read_copy};
    size_t elements = p->rows * p->n, times = 1 + 200000 / elements;
    double best[KINDS] = {1.0, 1.0, 1.0, 1.0, 1.0};
    for (int round = 0; round < ROUNDS * KINDS; round++) {
        double start = now();
        for (size_t t = 0; t < times; t++) kinds[round % KINDS](p);
        double taken = (now() - start) / (double)times;
        if (taken < best[round % KINDS]) best[round % KINDS] = taken;
    }
    printf("%-8s %6zu %9zu", dtype, p->n, elements * p->row_bytes / p->n >> 10);
    for (int kind = 0; kind < KINDS; kind++) printf(" %10.2f", best[kind] / (double)elements * 16e9);
    printf("\n");
}

/* Between 0 and 1. */
static void fill(void *x, wn_dtype dtype, size_t count) {
    for (size_t i = 0; i < count; i++) {
        float value = (float)(i * 2654435761u % 65536u) / 65536.0f;
        if (dtype == WN_f32) ((float *)x)[i] = value;
        if (dtype == WN_f64) ((double *)x)[i] = value;
        if (dtype == WN_f16) ((uint16_t *)x)[i] = wn_f32_to_f16(value);
        if (dtype == WN_bf16) ((uint16_t *)x)[i] = wn_f32_to_bf16(value);
    }
}

int main(int argument_count, char **arguments) {
    static const struct {
        const char *name;
        size_t bytes;
    } dtypes[] = {[WN_f32] = {"float32", 4},
                  [WN_f64] = {"float64", 8},
                  [WN_f16] = {"float16", 2},
                  [WN_bf16] = {"bfloat16", 2}};
    static const size_t widths[] = {64, 768, 4096}, sizes[] = {1 << 17, 1 << 21}; /* within L2, beyond it */
    void *memory[3];
    for (int i = 0; i < 3; i++) {
        memory[i] = aligned_alloc(64, MOST);
        if (!memory[i]) return 1;
        fill(memory[i], WN_f64, MOST / sizeof(double));
    }
    if (!wn_select_isa(argument_count > 1 ? arguments[1] : NULL)) return 1;
    printf("%s\n%-8s %6s %9s %10s %10s %10s %10s %10s\n", wn_selected_isa()->isa, "dtype", "width", "x, KiB",
           "statistics", "apply", "norm", "copy", "read_copy");
    for (int dtype = 0; dtype < WN_DTYPE_COUNT; dtype++) {
        fill(memory[0], (wn_dtype)dtype, MOST / dtypes[dtype].bytes);
        const char *parameters = memory[2]; /* any numbers will do */
        const wn_affine affine = {.weight = parameters, .bias = parameters + (1 << 16), .advance = 1};
        for (int w = 0; w < 3; w++) {
            for (int s = 0; s < 2; s++) {
                size_t row_bytes = widths[w] * dtypes[dtype].bytes;
                const problem p = {&wn_selected_isa()->dtype[dtype],
                                   sizes[s] / row_bytes,
                                   widths[w],
                                   row_bytes,
                                   &affine,
                                   memory[0],
                                   memory[1]};
                measure(dtypes[dtype].name, &p);
            }
        }
    }
    for (int i = 0; i < 3; i++) free(memory[i]);
    return 0;
}
