/* What the loads and stores of a norm take by themselves, on one thread: each row is read, and then read
 * again and written, beside up to two rows of parameters, and next to nothing is computed. In eight orders,
 * the best of which is what a norm of such an order can hope for: one, two or four rows at a time, which
 * share the loads of the parameters; read before they are copied, or while those before them are; one row at
 * a time also copied from its end on, which was read last. Nanoseconds for 16 float32 elements, the best of
 * many rounds in turn.
 *
 * Usage: traffic_avx512 [WIDTH PARAMETERS ROWS], traffic_avx2, ...: a multiple of 16 elements, 0 to 2, a
 * multiple of 8 rows, 4 MiB at most; or some usual ones (README.md says how to build them) */
#include SIMD_HEADER
#include "clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROUNDS = 200,
    MOST = 1 << 22,
    MOST_WIDTH = MOST / 8 / sizeof(float),
    PAGE = 4096,
    VECTORS = 64 / sizeof(v_f32)
};

typedef struct {
    size_t n, rows, parameters; /* 0, 1 (weight) or 2 (weight and bias) */
    const float *x, *weight, *bias;
    float *y;
} problem;

static v_i32 sink[VECTORS];

static inline __attribute__((always_inline)) void read_line(const float *x, v_i32 *bits) {
#pragma GCC unroll 4
    for (size_t v = 0; v < VECTORS; v++) bits[v] |= v_bits_f32(v_load_f32(x + v * V_F32));
}

/* A line of each row of a team: of x, beside the parameters, to y. */
static inline __attribute__((always_inline)) void copy_line(const problem *p, size_t row, size_t i,
                                                            size_t team, size_t parameters) {
#pragma GCC unroll 4
    for (size_t at = i; at < i + VECTORS * V_F32; at += V_F32) {
        v_i32 with = {0};
        if (parameters > 0) with |= v_bits_f32(v_load_f32(p->weight + at));
        if (parameters > 1) with |= v_bits_f32(v_load_f32(p->bias + at));
#pragma GCC unroll 4
        for (size_t r = row; r < row + team; r++) {
            v_i32 x = v_bits_f32(v_load_f32(p->x + r * p->n + at));
            v_store_f32(p->y + r * p->n + at, v_from_bits_f32(x | with));
        }
    }
}

static inline __attribute__((always_inline)) void pass(const problem *of, size_t team, size_t parameters,
                                                       int weaves, int backwards) {
    const problem own = *of, *p = &own; /* which nothing that is written can change */
    enum { LINE = 16 };
    v_i32 bits[VECTORS];
    memset(bits, 0, sizeof bits);
    for (size_t row = 0; row + team <= p->rows; row += team) {
        size_t next = !weaves ? row : row + 2 * team <= p->rows ? row + team : 0;
        const float *reads = p->x + next * p->n;
        for (size_t i = 0; !weaves && i < team * p->n; i += LINE) read_line(reads + i, bits);
        for (size_t i = 0; i < p->n; i += LINE) {
#pragma GCC unroll 4
            for (size_t r = 0; weaves && r < team; r++) read_line(reads + i * team + r * LINE, bits);
            copy_line(p, row, backwards ? p->n - LINE - i : i, team, parameters);
        }
    }
    for (size_t v = 0; v < VECTORS; v++) sink[v] |= bits[v];
}

#define PASS(name, team, weaves, backwards)                                                                  \
    static __attribute__((noinline)) void name(const problem *p) {                                           \
        if (p->parameters == 0) pass(p, team, 0, weaves, backwards);                                         \
        if (p->parameters == 1) pass(p, team, 1, weaves, backwards);                                         \
        if (p->parameters == 2) pass(p, team, 2, weaves, backwards);                                         \
    }
PASS(one, 1, 0, 0)
PASS(two, 2, 0, 0)
PASS(four, 4, 0, 0)
PASS(one_woven, 1, 1, 0)
PASS(two_woven, 2, 1, 0)
PASS(four_woven, 4, 1, 0)
PASS(one_back, 1, 0, 1)
PASS(woven_back, 1, 1, 1)

static __attribute__((noinline)) void copy(const problem *p) {
    const problem own = *p;
    for (size_t i = 0; i < own.rows * own.n; i += 64) {
#pragma GCC unroll 16
        for (size_t at = i; at < i + 64; at += V_F32) v_store_f32(own.y + at, v_load_f32(own.x + at));
    }
}

static const struct {
    const char *name;
    void (*run)(const problem *p);
} kinds[] = {{"copy", copy},
             {"one", one},
             {"two", two},
             {"four", four},
             {"woven", one_woven},
             {"two woven", two_woven},
             {"four woven", four_woven},
             {"one back", one_back},
             {"woven back", woven_back}};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void measure(const problem *p) {
    size_t elements = p->rows * p->n, times = 1 + 200000 / elements;
    double best[KINDS], least = 1.0;
    for (int kind = 0; kind < KINDS; kind++) best[kind] = 1.0;
    for (int round = 0; round < ROUNDS * KINDS; round++) {
        int kind = round % KINDS;
        int64_t start = now_ns();
        for (size_t t = 0; t < times; t++) kinds[kind].run(p);
        double taken = 1e-9 * (double)(now_ns() - start) / (double)times;
        if (taken < best[kind]) best[kind] = taken;
    }
    printf("%6zu %10zu %7zu", p->n, p->parameters, elements * sizeof(float) >> 10);
    for (int kind = 0; kind < KINDS; kind++) {
        printf(" %10.2f", best[kind] * 16e9 / (double)elements);
        if (kind > 0 && best[kind] < least) least = best[kind];
    }
    printf(" %9.2fx\n", best[0] / least);
}

int main(int count, char **arguments) {
    static const size_t starts[] = {0, 1536, 2688}; /* on a page: x, y as welnorm's, the rest */
    static const size_t usual[][2] = {{768, 2}, {1024, 1}, {2048, 1}, {4096, 1}, {4096, 2}, {8192, 0}};
    float *memory[3];
    for (int i = 0; i < 3; i++) {
        char *start = aligned_alloc(PAGE, MOST + 2 * PAGE);
        if (!start) return 1;
        memset(start, 0x3c, MOST + 2 * PAGE);
        memory[i] = (float *)(start + starts[i]);
    }
    problem p = {.x = memory[0], .y = memory[1], .weight = memory[2], .bias = memory[2] + MOST_WIDTH + 128};
    if (count == 4) {
        size_t of_call[3];
        for (int i = 0; i < 3; i++) of_call[i] = strtoul(arguments[i + 1], NULL, 10);
        p.n = of_call[0], p.parameters = of_call[1], p.rows = of_call[2];
        int fits = p.n > 0 && p.n <= MOST_WIDTH && p.rows > 0 && p.rows <= MOST / sizeof(float) / p.n;
        if (!fits || p.n % 16 || p.rows % 8 || p.parameters > 2) return 2;
    }
    printf("%6s %10s %7s", "width", "parameters", "x, KiB");
    for (int kind = 0; kind < KINDS; kind++) printf(" %10s", kinds[kind].name);
    printf(" %10s\n", "copy/best");
    if (count == 4) measure(&p);
    for (size_t c = 0; count != 4 && c < 2 * (sizeof usual / sizeof *usual); c++) {
        p.n = usual[c / 2][0], p.parameters = usual[c / 2][1];
        p.rows = MOST / (c % 2 ? 1 : 16) / (p.n * sizeof(float)) / 8 * 8; /* within L2, beyond it */
        measure(&p);
    }
    for (int i = 0; i < 3; i++) free((char *)memory[i] - starts[i]);
    return sink[0][0] == 0;
}
