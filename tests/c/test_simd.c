/* The vector vocabulary of simd/simd.h, against loops over elements (Linux). Compiled once per instruction
 * set, with its flags: SIMD_ISA is its name, SIMD_HEADER its header. */
#define _GNU_SOURCE /* MAP_ANONYMOUS */
#include SIMD_HEADER

#include "check.h"
#include "dispatch.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { CANNOT_RUN = 77 }; /* the exit status that CTest knows as "skipped" */

/* The vocabulary of an element type as functions over memory, so that each test is written once. Types of
 * memory only have no set, stream and fma. */
typedef struct {
    size_t size, lanes;
    double (*get_one)(const void *p);
    void (*put_one)(void *p, double value);
    void (*set)(void *to, double s);
    void (*load_store)(void *to, const void *p);
    void (*load_part)(void *to, const void *p, size_t n);
    void (*store_part)(void *to, const void *p, size_t n);
    void (*store_head)(void *to, const void *p, size_t n);
    void (*stream)(void *to, const void *p);
    void (*fma)(void *to, const void *a, const void *b, const void *c);
    void (*wide)(double *to, const void *p);
    void (*wide_part)(double *to, const void *p, size_t n, double fill);
} vocabulary;

static double get_f32(const void *p) {
    float value;
    memcpy(&value, p, sizeof value);
    return (double)value;
}

static double get_f64(const void *p) {
    double value;
    memcpy(&value, p, sizeof value);
    return value;
}

static void put_f32(void *p, double wide) {
    float value = (float)wide;
    memcpy(p, &value, sizeof value);
}

static void put_f64(void *p, double value) { memcpy(p, &value, sizeof value); }

static void set_f32(void *to, double s) { v_store_f32(to, v_set_f32((float)s)); }
static void set_f64(void *to, double s) { v_store_f64(to, v_set_f64(s)); }
static void load_store_f32(void *to, const void *p) { v_store_f32(to, v_load_f32(p)); }
static void load_store_f64(void *to, const void *p) { v_store_f64(to, v_load_f64(p)); }
static void load_part_f32(void *to, const void *p, size_t n) { v_store_f32(to, v_load_part_f32(p, n)); }
static void load_part_f64(void *to, const void *p, size_t n) { v_store_f64(to, v_load_part_f64(p, n)); }
static void store_part_f32(void *to, const void *p, size_t n) {
    v_store_part_f32(to, v_load_halves_f32(p), n);
}
static void store_part_f64(void *to, const void *p, size_t n) { v_store_part_f64(to, v_load_f64(p), n); }
static void store_head_f32(void *to, const void *p, size_t n) { v_store_head_f32(to, v_load_f32(p), n); }
static void store_head_f64(void *to, const void *p, size_t n) { v_store_head_f64(to, v_load_f64(p), n); }
static void stream_f32(void *to, const void *p) { v_stream_f32(to, v_load_f32(p)); }
static void stream_f64(void *to, const void *p) { v_stream_f64(to, v_load_f64(p)); }
static void wide_f32(double *to, const void *p) { v_store_f64(to, v_wide_f32(p)); }
static void wide_f64(double *to, const void *p) { v_store_f64(to, v_wide_f64(p)); }

static void fma_f32(void *to, const void *a, const void *b, const void *c) {
    v_store_f32(to, v_fma_f32(v_load_f32(a), v_load_f32(b), v_load_f32(c)));
}

static void fma_f64(void *to, const void *a, const void *b, const void *c) {
    v_store_f64(to, v_fma_f64(v_load_f64(a), v_load_f64(b), v_load_f64(c)));
}

static void wide_part_f32(double *to, const void *p, size_t n, double fill) {
    v_store_f64(to, v_wide_part_f32(p, n, fill));
}

static void wide_part_f64(double *to, const void *p, size_t n, double fill) {
    v_store_f64(to, v_wide_part_f64(p, n, fill));
}

/* 16-bit elements: a vector of them is a v_f32. */
#define VOCABULARY_OF_16_BITS(T)                                                                             \
    static double get_##T(const void *p) {                                                                   \
        uint16_t half;                                                                                       \
        memcpy(&half, p, sizeof half);                                                                       \
        return (double)wn_##T##_to_f32(half);                                                                \
    }                                                                                                        \
    static void put_##T(void *p, double wide) {                                                              \
        uint16_t half = wn_f32_to_##T((float)wide);                                                          \
        memcpy(p, &half, sizeof half);                                                                       \
    }                                                                                                        \
    static void load_store_##T(void *to, const void *p) { v_store_##T(to, v_load_##T(p)); }                  \
    static void load_part_##T(void *to, const void *p, size_t n) { v_store_##T(to, v_load_part_##T(p, n)); } \
    static void store_part_##T(void *to, const void *p, size_t n) {                                          \
        v_store_part_##T(to, v_load_##T(p), n);                                                              \
    }                                                                                                        \
    static void store_head_##T(void *to, const void *p, size_t n) {                                          \
        v_store_head_##T(to, v_load_##T(p), n);                                                              \
    }                                                                                                        \
    static void wide_##T(double *to, const void *p) { v_store_f64(to, v_wide_##T(p)); }                      \
    static void wide_part_##T(double *to, const void *p, size_t n, double fill) {                            \
        v_store_f64(to, v_wide_part_##T(p, n, fill));                                                        \
    }
VOCABULARY_OF_16_BITS(f16)
VOCABULARY_OF_16_BITS(bf16)

static const vocabulary f32 = {sizeof(float),  V_F32,         get_f32,        put_f32,        set_f32,
                               load_store_f32, load_part_f32, store_part_f32, store_head_f32, stream_f32,
                               fma_f32,        wide_f32,      wide_part_f32};
static const vocabulary f64 = {sizeof(double), V_F64,         get_f64,        put_f64,        set_f64,
                               load_store_f64, load_part_f64, store_part_f64, store_head_f64, stream_f64,
                               fma_f64,        wide_f64,      wide_part_f64};
static const vocabulary f16 = {
    sizeof(uint16_t), V_F32,          get_f16, put_f16, NULL,     load_store_f16, load_part_f16,
    store_part_f16,   store_head_f16, NULL,    NULL,    wide_f16, wide_part_f16};
static const vocabulary bf16 = {
    sizeof(uint16_t), V_F32,           get_bf16, put_bf16, NULL,      load_store_bf16, load_part_bf16,
    store_part_bf16,  store_head_bf16, NULL,     NULL,     wide_bf16, wide_part_bf16};

/* ---- data, and a page between two that fault ---------------------------------------------------------- */

enum { PAGE = 65536, MOST_LANES = 16, UNTOUCHED = 0xa5 };
static char *page;

static const double specials[] = {0.0,       -0.0, 1.0,   -2.5,  INFINITY,
                                  -INFINITY, NAN,  1e-40, -3e38, 0x1.fffffep-1};
enum { SPECIAL_COUNT = sizeof specials / sizeof *specials };

static double get(const vocabulary *v, const void *p, size_t i) {
    return v->get_one((const char *)p + i * v->size);
}

static void put(const vocabulary *v, void *p, size_t i, double wide) {
    v->put_one((char *)p + i * v->size, wide);
}

static uint64_t random_bits(void) {
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return state;
}

static double random_number(void) {
    uint64_t state = random_bits();
    return ldexp((double)(int64_t)state, (int)(state >> 20 & 15) - 70);
}

/* Elements of any kind, turned by `turn` so that each lane sees them all. */
static void fill(const vocabulary *v, void *p, size_t n, size_t turn) {
    for (size_t i = 0; i < n; i++) {
        size_t kind = (i + turn) % (2 * SPECIAL_COUNT);
        put(v, p, i, kind < SPECIAL_COUNT ? specials[kind] : random_number());
    }
}

/* The same number, with its sign; any NaN is as good as another. */
static int same(double a, double b) { return (a != a && b != b) || (a == b && !signbit(a) == !signbit(b)); }

static int all_are(const char *p, size_t bytes, int value) {
    for (size_t i = 0; i < bytes; i++)
        if (p[i] != (char)value) return 0;
    return 1;
}

/* Where n elements may lie: just behind a guard page, just before one, or at an odd address. */
enum { PLACES = 3 };
static char *place_for(size_t bytes, int place) {
    return place == 0 ? page : place == 1 ? page + PAGE - bytes : page + 64 + 2 * (bytes % 31) + 1;
}

/* ---- tests -------------------------------------------------------------------------------------------- */

static void test_set(const vocabulary *v) {
    char vector[64];
    for (size_t s = 0; s < SPECIAL_COUNT; s++) {
        v->set(vector, specials[s]);
        for (size_t i = 0; i < v->lanes; i++)
            CHECK(same(get(v, vector, i), v == &f32 ? (double)(float)specials[s] : specials[s]));
    }
}

static void test_load_and_store(const vocabulary *v) {
    char data[64], copied[64];
    size_t bytes = v->lanes * v->size;
    for (int place = 0; place < PLACES; place++) {
        for (size_t turn = 0; turn < 100; turn++) {
            char *p = place_for(bytes, place);
            fill(v, data, v->lanes, turn);
            memcpy(p, data, bytes);
            v->load_store(copied, p);
            CHECK(memcmp(copied, data, bytes) == 0);
            memset(p, UNTOUCHED, bytes);
            v->load_store(p, data);
            CHECK(memcmp(p, data, bytes) == 0);
        }
    }
    for (size_t at = 0; v->stream && at + bytes <= 1024; at += bytes) {
        fill(v, data, v->lanes, at);
        v->stream(page + at, data);
        v_stream_end();
        CHECK(memcmp(page + at, data, bytes) == 0);
    }
}

static void test_parts(const vocabulary *v) {
    char data[64], vector[64], *before = page + 1000;
    for (int place = 0; place < PLACES; place++) {
        for (size_t n = 1; n < v->lanes; n++) {
            size_t bytes = n * v->size;
            char *p = place_for(bytes, place);
            for (size_t turn = 0; turn < 100; turn++) {
                fill(v, data, v->lanes, turn);
                memcpy(p, data, bytes);
                v->load_part(vector, p, n);
                CHECK(memcmp(vector, data, bytes) == 0);
                CHECK(all_are(vector + bytes, (v->lanes - n) * v->size, 0));
                for (int is_head = 0; is_head < 2; is_head++) {
                    memset(page, UNTOUCHED, PAGE);
                    (is_head ? v->store_head : v->store_part)(p, data, n);
                    CHECK(memcmp(p, data, bytes) == 0);
                    before = p - page < 64 ? page : p - 64;
                    CHECK(all_are(before, (size_t)(p - before), UNTOUCHED));
                    size_t after = (size_t)(page + PAGE - (p + bytes));
                    CHECK(all_are(p + bytes, after < 64 ? after : 64, UNTOUCHED));
                }
            }
        }
    }
}

static void test_wide(const vocabulary *v) {
    char data[64];
    double wide[MOST_LANES];
    for (int place = 0; place < PLACES; place++) {
        for (size_t turn = 0; turn < 100; turn++) {
            fill(v, data, V_F64, turn);
            char *p = memcpy(place_for(V_F64 * v->size, place), data, V_F64 * v->size);
            v->wide(wide, p);
            for (size_t i = 0; i < V_F64; i++) CHECK(same(wide[i], get(v, data, i)));
            for (size_t n = 1; n <= V_F64; n++) {
                double rest = specials[turn % SPECIAL_COUNT];
                p = memcpy(place_for(n * v->size, place), data, n * v->size);
                v->wide_part(wide, p, n, rest);
                for (size_t i = 0; i < V_F64; i++) CHECK(same(wide[i], i < n ? get(v, data, i) : rest));
            }
        }
    }
}

/* Rounded once where there is FMA, else product and sum each. */
static double sum_of(const vocabulary *v, double a, double b, double c) {
    int has_fma = strcmp(SIMD_ISA, "portable") != 0;
    float product = (float)a * (float)b;
    if (v == &f64) return has_fma ? fma(a, b, c) : a * b + c;
    return has_fma ? (double)fmaf((float)a, (float)b, (float)c) : (double)(product + (float)c);
}

static void test_fma(const vocabulary *v) {
    char a[64], b[64], c[64], sum[64];
    for (size_t turn = 0; turn < 10000; turn++) {
        fill(v, a, v->lanes, turn);
        fill(v, b, v->lanes, turn / 2 / SPECIAL_COUNT);
        fill(v, c, v->lanes, turn / 8 / SPECIAL_COUNT);
        /* sums that cancel, but for what rounding the product alone would lose */
        for (size_t i = 0; i < v->lanes && turn % 2; i++) put(v, c, i, -get(v, a, i) * get(v, b, i));
        v->fma(sum, a, b, c);
        for (size_t i = 0; i < v->lanes; i++)
            CHECK(same(get(v, sum, i), sum_of(v, get(v, a, i), get(v, b, i), get(v, c, i))));
    }
}

#include "half_tests.h"

/* ---- bits --------------------------------------------------------------------------------------------- */

static void test_bits(void) {
    for (size_t turn = 0; turn < 1000; turn++) {
        char a[64], b[64], picked[64], copied[64];
        fill(&f32, a, V_F32, turn), fill(&f32, b, V_F32, turn * 7 / 3);
        v_f32 p = v_load_f32(a), q = v_load_f32(b);
        v_i32 bits = v_bits_f32(p);
        CHECK(sizeof bits == sizeof p && memcmp(&bits, a, sizeof bits) == 0);
        v_store_f32(copied, v_from_bits_f32(bits));
        CHECK(memcmp(copied, a, sizeof p) == 0);
        v_store_f32(picked, v_select_f32(V_WHERE(p < q), p, q));
        for (size_t i = 0; i < V_F32; i++)
            CHECK(memcmp(picked + 4 * i, (get(&f32, a, i) < get(&f32, b, i) ? a : b) + 4 * i, 4) == 0);

        fill(&f64, a, V_F64, turn), fill(&f64, b, V_F64, turn * 7 / 3);
        v_f64 r = v_load_f64(a), s = v_load_f64(b);
        v_i64 wide_bits = v_bits_f64(r);
        CHECK(sizeof wide_bits == sizeof r && memcmp(&wide_bits, a, sizeof wide_bits) == 0);
        v_store_f64(copied, v_from_bits_f64(wide_bits));
        CHECK(memcmp(copied, a, sizeof r) == 0);
        v_store_f64(picked, v_select_f64(V_WHERE(r != s), r, s));
        for (size_t i = 0; i < V_F64; i++)
            CHECK(memcmp(picked + 8 * i, (get(&f64, a, i) != get(&f64, b, i) ? a : b) + 8 * i, 8) == 0);
    }
}

/* a * b - p, of numbers of all digits or few. */
static void test_product_error(const vocabulary *v) {
    for (int turn = 0; turn < 10000; turn++) {
        char a[64], b[64], p[64], error[64];
        int most = v == &f32 ? 30 : 300; /* neither the product nor its error leaves the range */
        for (size_t i = 0; i < v->lanes; i++) {
            put(v, a, i, ldexp((double)(int64_t)random_bits(), turn % most - 63));
            put(v, b, i, ldexp((double)(int64_t)random_bits(), turn / 3 % most - most / 2 - 63));
            if (turn % 3 == 0) put(v, a, i, ldexp((double)(random_bits() >> (turn & 63)), turn % 20 - 40));
            if (turn % 5 == 0) put(v, b, i, get(v, a, i)); /* squares, too */
            double product = get(v, a, i) * get(v, b, i);
            put(v, p, i, product);
        }
        if (v == &f32)
            v_store_f32(error, v_product_error_f32(v_load_f32(a), v_load_f32(b), v_load_f32(p)));
        else
            v_store_f64(error, v_product_error_f64(v_load_f64(a), v_load_f64(b), v_load_f64(p)));
        for (size_t i = 0; i < v->lanes; i++) {
            double x = get(v, a, i), y = get(v, b, i), z = get(v, p, i);
            CHECK(get(v, error, i) ==
                  (v == &f32 ? x * y - z : fma(x, y, -z))); /* float64 holds that of floats */
        }
    }
}

static void test_sum(void) {
    for (int turn = 0; turn < 1000; turn++) {
        double lane[V_F64];
        for (size_t i = 0; i < V_F64; i++) lane[i] = random_number() * (turn % 3 == (int)i % 3 ? 1e16 : 1.0);
        double sum = v_sum_f64(v_load_f64(lane));
        for (size_t half = V_F64 / 2; half > 0; half /= 2)
            for (size_t i = 0; i < half; i++) lane[i] = lane[i] + lane[i + half];
        CHECK(same(sum, lane[0]));
    }
}

/* Halves of float32 vectors wide, and back; square roots; whether any bit is set. */
static void test_narrow_halves_root_any(void) {
    for (size_t turn = 0; turn < 1000; turn++) {
        float narrow[V_F32], back[V_F64];
        double low[V_F64], high[V_F64], wide[V_F64], root[V_F64];
        for (size_t i = 0; i < V_F32; i++) narrow[i] = (float)specials[(turn + i) % SPECIAL_COUNT];
        for (size_t i = 0; i < V_F64; i++)
            wide[i] = specials[(turn * 3 + i) % SPECIAL_COUNT] * (1.0 + 0x1p-30);
        v_store_f64(low, v_low_f32(v_load_f32(narrow)));
        v_store_f64(high, v_high_f32(v_load_f32(narrow)));
        v_f64 ordered = v_load_f64(wide), copied = ordered;
        v_order_f64(&ordered, &copied);
        v_narrow_f32(back, ordered);
        v_store_f64(root, v_sqrt_f64(copied));
        for (size_t i = 0; i < V_F64; i++) {
            CHECK(same(low[i], (double)narrow[i]) && same(high[i], (double)narrow[V_F32 - V_F64 + i]));
            CHECK(same((double)back[i], (double)(float)wide[i]) && same(root[i], sqrt(wide[i])));
        }
        v_narrow_f64(root, v_load_f64(wide));
        CHECK(!memcmp(root, wide, sizeof wide));
        memset(wide, 0, sizeof wide);
        CHECK(!v_any_i64(v_bits_f64(v_load_f64(wide))));
        ((unsigned char *)wide)[turn % sizeof wide] = (unsigned char)(1u << turn % 8);
        CHECK(v_any_i64(v_bits_f64(v_load_f64(wide))));
    }
}

static void test_sizes(void) {
    CHECK(sizeof(v_f32) == V_F32 * sizeof(float) && sizeof(v_f64) == V_F64 * sizeof(double));
    CHECK(V_F32 == 1 ? V_F64 == 1 : V_F32 == 2 * V_F64 && sizeof(v_f32) == WN_VECTOR_BYTES);
    CHECK(V_F32 <= MOST_LANES);
}

/* Apart from main, which runs before it is known whether the CPU has these instructions. */
__attribute__((noinline)) static int run_tests(void) {
    char *memory = mmap(NULL, 3 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page = memory + PAGE;
    if (memory == MAP_FAILED || mprotect(page, PAGE, PROT_READ | PROT_WRITE) != 0) abort();
    const vocabulary *const all[] = {&f32, &f64, &f16, &bf16};
    for (int i = 0; i < 4; i++) {
        if (all[i]->set) test_set(all[i]);
        test_load_and_store(all[i]);
        test_parts(all[i]);
        test_wide(all[i]);
        if (all[i]->fma) test_fma(all[i]);
    }
    const half_type *const halves[] = {&half_f16, &half_bf16};
    for (int i = 0; i < 2; i++) {
        test_every_half(halves[i]);
        test_rounding(halves[i]);
        test_half_parts(halves[i]);
    }
    test_flushing();
    test_bits();
    test_product_error(&f32);
    test_product_error(&f64);
    test_sum();
    test_narrow_halves_root_any();
    test_sizes();
    return check_result();
}

int main(void) {
    for (int i = 0; wn_usable_isa(i); i++)
        if (strcmp(wn_usable_isa(i)->isa, SIMD_ISA) == 0) return run_tests();
    return CANNOT_RUN;
}
