/* What the arithmetic of layer norm takes by itself, on one thread, for data that is in L1 all the time: the
 * sums of one row (in float64) and the apply step of another (the mean as a pair), and both in one loop,
 * without ends of rows, last steps of sums or square roots; nanoseconds for 16 elements, the best of many
 * rounds in turn; of both together the best of four orders of instructions. `folded` is without weight and
 * bias, as channels have theirs in the norm.
 *
 * Usage: arithmetic_avx512, arithmetic_avx2, ... (README.md says how to build them) */
#include SIMD_HEADER
#include "clock.h"

#include <stdio.h>
#include <stdlib.h>

enum { N = 1024, PASSES = 50, ROUNDS = 2000, LANES = 32, CHAINS = LANES / V_F64, VECTORS = LANES / V_F32 };

typedef enum { F32, F16, BF16 } type;

typedef struct {
    const char *next, *x; /* rows of N elements */
    char *y;
    const float *weight, *bias;
    v_f32 mean, rstd, offset;
} row;

static v_f64 sink;

static inline v_f64 wide(const char *p, type t) {
    return t == F32 ? v_wide_f32(p) : t == F16 ? v_wide_f16(p) : v_wide_bf16(p);
}

static inline v_f32 load(const char *p, type t) {
    return t == F32 ? v_load_f32(p) : t == F16 ? v_load_f16(p) : v_load_bf16(p);
}

static inline void store(char *p, v_f32 v, type t) {
    if (t == F32) v_store_f32(p, v);
    if (t == F16) v_store_f16(p, v);
    if (t == BF16) v_store_bf16(p, v);
}

/* What is in a pass, and how: sums before squares; what is taken off as a product with 1 added to it. */
enum { SUMS = 1, APPLIES = 2, FOLDED = 4, ORDERED = 8, BY_FMA = 16 };

static inline __attribute__((always_inline)) void pass(const row *of_row, type t, int form) {
    const row own = *of_row, *r = &own; /* which nothing that is written can change */
    const size_t size = t == F32 ? 4 : 2, chains = form & SUMS ? CHAINS : 0,
                 vectors = form & APPLIES ? VECTORS : 0;
    v_f64 sum[CHAINS], square[CHAINS];
    for (int c = 0; c < CHAINS; c++) sum[c] = square[c] = v_set_f64(0.0);
    for (size_t at = 0; at < PASSES * N; at += LANES) {
        size_t i = at % N;
#pragma GCC unroll 16
        for (size_t c = 0; c < chains; c++) {
            v_f64 d = wide(r->next + (i + c * V_F64) * size, t);
            v_f64 total = t == F32 ? sum[c] + d : v_fma_f64(d, v_set_f64(1.0), sum[c]);
            if (form & ORDERED) v_order_f64(&d, &total);
            sum[c] = total;
            square[c] = v_fma_f64(d, d, square[c]);
        }
#pragma GCC unroll 16
        for (size_t v = 0; v < vectors; v++) {
            size_t k = i + v * V_F32;
            v_f32 x = load(r->x + k * size, t);
            x = form & BY_FMA ? v_fma_f32(x, v_set_f32(1.0f), -r->mean) : x - r->mean;
            v_f32 y = v_fma_f32(x, r->rstd, r->offset);
            if (!(form & FOLDED)) y = v_fma_f32(y, v_load_f32(r->weight + k), v_load_f32(r->bias + k));
            store(r->y + k * size, y, t);
        }
    }
    for (int c = 0; c < CHAINS; c++) sink += sum[c] + square[c];
}

#define PASS(name, t, form)                                                                                  \
    static __attribute__((noinline)) void name(const row *r) { pass(r, t, form); }
#define PASSES_OF(name, t, form)                                                                             \
    PASS(name##_sums, t, SUMS | ORDERED)                                                                     \
    PASS(name##_apply, t, APPLIES | form)                                                                    \
    PASS(name##_1, t, SUMS | APPLIES | form)                                                                 \
    PASS(name##_2, t, SUMS | APPLIES | ORDERED | form)                                                       \
    PASSES_BY_FMA(name, t, form)
#define PASSES_BY_FMA(name, t, form)                                                                         \
    PASS(name##_3, t, SUMS | APPLIES | BY_FMA | form)                                                        \
    PASS(name##_4, t, SUMS | APPLIES | BY_FMA | ORDERED | form)
PASSES_OF(f32, F32, 0)
PASSES_OF(folded, F32, FOLDED)
PASSES_OF(f16, F16, 0)
PASSES_OF(bf16, BF16, 0)

enum { RUNS = 6, BOTH = 2 };
#define ALL(name) {name##_sums, name##_apply, name##_1, name##_2, name##_3, name##_4}
static const struct {
    const char *name;
    void (*run[RUNS])(const row *r);
} kinds[] = {
    {"float32", ALL(f32)}, {"float32,folded", ALL(folded)}, {"float16", ALL(f16)}, {"bfloat16", ALL(bf16)}};
enum { KINDS = sizeof kinds / sizeof *kinds };

int main(void) {
    /* all that is read is 512 bytes and more ahead of what is written, counted within a page */
    enum { ROW = 4096, STEP = ROW + 512 };
    char *memory = aligned_alloc(64, 5 * STEP + 64 - 5 * STEP % 64);
    if (!memory) return 1;
    row r = {.y = memory, .x = memory + STEP, .next = memory + 2 * STEP};
    r.weight = (void *)(memory + 3 * STEP), r.bias = (void *)(memory + 4 * STEP);
    r.mean = v_set_f32(0.5f), r.rstd = v_set_f32(1.5f), r.offset = v_set_f32(0.01f);
    double best[KINDS][RUNS];
    for (size_t i = 0; i < 5 * STEP / 4; i++)
        ((uint32_t *)memory)[i] = 0x3c003c00; /* 1 as float16, nearly 1/128 */
    for (int i = 0; i < KINDS * RUNS; i++) best[i / RUNS][i % RUNS] = 1.0;
    for (int round = 0; round < ROUNDS * KINDS * RUNS; round++) {
        int kind = round / RUNS % KINDS, run = round % RUNS;
        int64_t start = now_ns();
        kinds[kind].run[run](&r);
        double taken = 1e-9 * (double)(now_ns() - start);
        if (taken < best[kind][run]) best[kind][run] = taken;
    }
    printf("%-14s %10s %10s %10s\n", SIMD_ISA, "sums", "apply", "both");
    for (int kind = 0; kind < KINDS; kind++) {
        printf("%-14s", kinds[kind].name);
        double *of_kind = best[kind];
        for (int run = BOTH + 1; run < RUNS; run++)
            if (of_kind[run] < of_kind[BOTH]) of_kind[BOTH] = of_kind[run];
        for (int run = 0; run <= BOTH; run++) printf(" %10.2f", of_kind[run] * 16e9 / (PASSES * N));
        printf("\n");
    }
    free(memory);
    return sink[0] != sink[0];
}
