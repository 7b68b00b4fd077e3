/* What the kernels take alone, on one thread: of rows statistics, apply step, both woven into each other (the
 * norm), and copies; of columns, down the rows, the first two, without the merges of blocks; nanoseconds for
 * 16 elements, the best of many rounds in turn.
 *
 * Usage: bench_kernels [instruction set] (README.md says how to build it) */
#include "cache.h"
#include "clock.h"
#include "convert.h"
#include "dispatch.h"

#include <stdio.h>
#include <stdlib.h>

enum { MOST = 1 << 22, ROUNDS = 100 };

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

/* Points at a block of rows from row `first` on. Returns how many. */
static size_t point(const problem *p, size_t first, const void **x_rows, void **y_rows) {
    size_t count = p->rows - first < WN_ROWS ? p->rows - first : WN_ROWS;
    for (size_t r = 0; r < count; r++) {
        x_rows[r] = p->x + (first + r) * p->row_bytes;
        y_rows[r] = p->y + (first + r) * p->row_bytes;
    }
    return count;
}

static void column_statistics(const problem *p) {
    static double memory[4][WN_STRIP];
    const wn_states states = {memory[0], memory[1], memory[2], memory[3]};
    const void *x_rows[WN_ROWS];
    void *y_rows[WN_ROWS];
    for (size_t row = 0, count; row < p->rows; row += count) {
        count = point(p, row, x_rows, y_rows);
        p->kernels->moments_cols(x_rows, count, p->n, 1, &states);
    }
}

static void column_apply(const problem *p) {
    const void *parameters = p->affine->weight, *x_rows[WN_ROWS];
    const wn_cols_norm norm = {parameters, parameters, parameters};
    const wn_affine folded = {.advance = 1, .l1 = p->affine->l1}; /* weight and bias are in the norm */
    void *y_rows[WN_ROWS];
    for (size_t row = 0, count; row < p->rows; row += count) {
        count = point(p, row, x_rows, y_rows);
        p->kernels->apply_cols(x_rows, y_rows, count, p->n, &norm, &folded);
    }
}

static const struct {
    const char *name;
    void (*run)(const problem *p);
    size_t most; /* elements of a row */
} kinds[] = {
    {"statistics", statistics, WN_BLOCK},
    {"apply", apply, WN_BLOCK},
    {"norm", norm, WN_BLOCK},
    {"col. stat.", column_statistics, WN_STRIP},
    {"col. apply", column_apply, WN_STRIP},
    {"copy", copy, WN_BLOCK},
    {"read_copy", read_copy, WN_BLOCK},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void measure(const char *dtype, const problem *p) {
    size_t elements = p->rows * p->n, times = 1 + 200000 / elements;
    double best[KINDS];
    for (int kind = 0; kind < KINDS; kind++) best[kind] = 1.0;
    for (int round = 0; round < ROUNDS * KINDS; round++) {
        int kind = round % KINDS;
        if (p->n > kinds[kind].most) continue;
        int64_t start = now_ns();
        for (size_t t = 0; t < times; t++) kinds[kind].run(p);
        double taken = 1e-9 * (double)(now_ns() - start) / (double)times;
        if (taken < best[kind]) best[kind] = taken;
    }
    printf("%-8s %6zu %7zu", dtype, p->n, elements * p->row_bytes / p->n >> 10);
    for (int kind = 0; kind < KINDS; kind++) {
        if (p->n > kinds[kind].most)
            printf(" %10s", "-");
        else
            printf(" %10.2f", best[kind] / (double)elements * 16e9);
    }
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
    static const size_t widths[] = {16, 64, 512, 768, 4096},
                        sizes[] = {1 << 17, 1 << 21}; /* within L2, beyond it */
    enum { PAGE = 4096 };
    static const size_t starts[] = {16, 1536, 2688}; /* on a page: x as NumPy's arrays, y as ours, the rest */
    char *memory[3];
    for (int i = 0; i < 3; i++) {
        memory[i] = aligned_alloc(PAGE, MOST + PAGE);
        if (!memory[i]) return 1;
        memory[i] += starts[i];
        fill(memory[i], WN_f64, MOST / sizeof(double));
    }
    if (!wn_select_isa(argument_count > 1 ? arguments[1] : NULL)) return 1;
    printf("%s\n%-8s %6s %7s", wn_selected_isa()->isa, "dtype", "width", "x, KiB");
    for (int kind = 0; kind < KINDS; kind++) printf(" %10s", kinds[kind].name);
    printf("\n");
    for (int dtype = 0; dtype < WN_DTYPE_COUNT; dtype++) {
        fill(memory[0], (wn_dtype)dtype, MOST / dtypes[dtype].bytes);
        const char *parameters = memory[2]; /* any numbers will do */
        const wn_affine affine = {.weight = parameters,
                                  .bias = parameters + (1 << 16) + 512,
                                  .advance = 1,
                                  .l1 = wn_known_caches().l1};
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
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
    for (int i = 0; i < 3; i++) free(memory[i] - starts[i]);
    return 0;
}
