/* What the arithmetic of layer norm takes by itself, on one thread, for data that is in L1 all the time: the
 * sums of one row (in float64) and the apply step of another (the mean as a pair), and both in one loop,
 * without ends of rows, last steps of sums or square roots; nanoseconds for 16 elements, the best of many
 * rounds in turn.
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

static inline __attribute__((always_inline)) void pass(const row *of_row, type t, int sums, int applies) {
    const row own = *of_row, *r = &own; /* which nothing that is written can change */
    const size_t size = t == F32 ? 4 : 2;
    v_f64 sum[CHAINS], square[CHAINS];
    for (int c = 0; c < CHAINS; c++) sum[c] = square[c] = v_set_f64(0.0);
    for (size_t at = 0; at < PASSES * N; at += LANES) {
        size_t i = at % N;
#pragma GCC unroll 16
        for (size_t c = 0; sums && c < CHAINS; c++) {
            v_f64 d = wide(r->next + (i + c * V_F64) * size, t);
            v_f64 total = t == F32 ? sum[c] + d : v_fma_f64(d, v_set_f64(1.0), sum[c]);
            v_order_f64(&d, &total);
            sum[c] = total;
            square[c] = v_fma_f64(d, d, square[c]);
        }
#pragma GCC unroll 16
        for (size_t v = 0; applies && v < VECTORS; v++) {
            size_t k = i + v * V_F32;
            v_f32 y = v_fma_f32(load(r->x + k * size, t) - r->mean, r->rstd, r->offset);
            y = v_fma_f32(y, v_load_f32(r->weight + k), v_load_f32(r->bias + k));
            store(r->y + k * size, y, t);
        }
    }
    for (int c = 0; c < CHAINS; c++) sink += sum[c] + square[c];
}

#define PASS(name, t, sums, applies)                                                                         \
    static __attribute__((noinline)) void name(const row *r) { pass(r, t, sums, applies); }
#define PASSES_OF(name, t)                                                                                   \
    PASS(name##_sums, t, 1, 0)                                                                               \
    PASS(name##_apply, t, 0, 1)                                                                              \
    PASS(name##_both, t, 1, 1)
PASSES_OF(f32, F32)
PASSES_OF(f16, F16)
PASSES_OF(bf16, BF16)

static const struct {
    const char *dtype;
    void (*run[3])(const row *r);
} kinds[] = {
    {"float32", {f32_sums, f32_apply, f32_both}},
    {"float16", {f16_sums, f16_apply, f16_both}},
    {"bfloat16", {bf16_sums, bf16_apply, bf16_both}},
};
enum { KINDS = sizeof kinds / sizeof *kinds, RUNS = 3 };

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
    printf("%-8s %10s %10s %10s\n", SIMD_ISA, "sums", "apply", "both");
    for (int kind = 0; kind < KINDS; kind++) {
        printf("%-8s", kinds[kind].dtype);
        for (int run = 0; run < RUNS; run++) printf(" %10.2f", best[kind][run] * 16e9 / (PASSES * N));
        printf("\n");
    }
    free(memory);
    return sink[0] != sink[0];
}
