/* Every kernel of kernels.def, for every dtype, on every instruction set that this CPU can run (Linux).
 *
 * Each call is made by each table, with its arguments at each kind of place. Where they lie must not change a
 * bit of the result, nor must the instruction set among those with FMA; the portable table, which has none,
 * may differ from these by a few units in the last place. A kernel's hash is of all that it gave with FMA:
 * the same on every machine, from every compiler.
 *
 * A row of kernels.def needs a function test_<name> here: without one this file does not build. */
#define _GNU_SOURCE /* memfd_create */
#include "check.h"
#include "convert.h"
#include "dispatch.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SHORT = 4 * 16 + 3, MOST = WN_ROWS * WN_STRIP }; /* SHORT: four of the widest vectors and three */

#ifdef SLOW_HERE /* where all lengths would take a quarter of an hour */
enum { STEP = 7 };
#else
enum { STEP = 1 };
#endif

static size_t next_length(size_t n) { return n < SHORT ? n + STEP : n < WN_BLOCK - 1 ? WN_BLOCK - 1 : n + 1; }
static size_t next_columns(size_t n) { return n < 70 ? n + STEP : n < WN_STRIP - 1 ? WN_STRIP - 1 : n + 1; }
static size_t next_rows(size_t n) { return n < 20 ? n + STEP : n < WN_ROWS ? WN_ROWS : n + 1; }
/* As many as a block may have of so few columns. */
#define EACH_LENGTH(n, most) for (size_t n = 1; n <= (most); n = next_length(n))
#define EACH_WIDTH(columns) for (size_t columns = 1; columns <= WN_STRIP; columns = next_columns(columns))
#define EACH_HEIGHT(rows) for (size_t rows = 1; rows <= WN_ROWS; rows = next_rows(rows))

/* ---- memory: chunks with stretches between them that fault -------------------------------------------- */

/* Mapped twice: inputs are written by way of one mapping and read by way of the other, which is read-only. */
enum { CHUNK = 1 << 17, CHUNKS = 2 * WN_ROWS + 8 };
static char *readable_memory, *writable_memory;

static char *chunk_at(char *memory, int index) { return memory + (2 * (size_t)index + 1) * CHUNK; }
static void *writable(const void *p) { return writable_memory + ((const char *)p - readable_memory); }

static char *map_chunks(int file, int access) {
    const int reserve = MAP_PRIVATE | MAP_ANONYMOUS, share = MAP_SHARED | MAP_FIXED;
    char *memory = mmap(NULL, (2 * CHUNKS + 1) * (size_t)CHUNK, PROT_NONE, reserve, -1, 0);
    for (int i = 0; i < CHUNKS; i++)
        if (mmap(chunk_at(memory, i), CHUNK, access, share, file, (off_t)i * CHUNK) == MAP_FAILED) abort();
    return memory;
}

/* ---- trials: one call by one table with its arguments at one kind of place ---------------------------- */

typedef enum { ALIGNED, AT_ODD_ADDRESSES, AFTER_A_GUARD, BEFORE_A_GUARD, IN_PLACE, PLACE_COUNT } place;

typedef struct {
    const struct wn_dtype_kernels *kernels;
    wn_dtype dtype;
    place place;
    int table, chunks;
} trial;

static const wn_kernels *tables[8];
static uint64_t hash;

/* What the trial under way gave; and what the first ones did: [0] without FMA, [1] with it. */
static double results[2 * MOST], expected[2][2 * MOST], sizes[2 * MOST];

static size_t result_count, expected_count[2];
static int failures; /* of this kernel; after the fifth the others go unsaid */
#define EXPECT(condition) ((condition) || failures++ < 5 ? CHECK(condition) : (void)0)

typedef enum { TO_STORAGE, TO_COMPUTE } result_type;

static int is_16bit(wn_dtype dtype) { return dtype == WN_f16 || dtype == WN_bf16; }
static wn_dtype compute_of(wn_dtype dtype) { return dtype == WN_f64 ? WN_f64 : WN_f32; }
static wn_dtype result_of(wn_dtype dtype, result_type type) {
    return type == TO_COMPUTE ? compute_of(dtype) : dtype;
}

static size_t size_of(wn_dtype dtype) {
    return dtype == WN_f64 ? sizeof(double) : dtype == WN_f32 ? sizeof(float) : sizeof(uint16_t);
}

/* Of the dtype, and of the arithmetic that makes it. */
static double storage_epsilon(wn_dtype dtype) {
    static const double epsilons[] = {
        [WN_f32] = (double)FLT_EPSILON, [WN_f64] = DBL_EPSILON, [WN_f16] = 0x1p-10, [WN_bf16] = 0x1p-7};
    return epsilons[dtype];
}
static double epsilon_of(wn_dtype dtype) { return storage_epsilon(compute_of(dtype)); }
static double least_of(wn_dtype dtype) { /* the last place of subnormal numbers */
    static const double least[] = {
        [WN_f32] = 0x1p-149, [WN_f64] = 0x1p-1074, [WN_f16] = 0x1p-24, [WN_bf16] = 0x1p-133};
    return least[dtype];
}

static double get(const void *p, size_t i, wn_dtype dtype) {
    const char *at = (const char *)p + i * size_of(dtype);
    double wide;
    float narrow;
    uint16_t half;
    if (dtype == WN_f64) return memcpy(&wide, at, sizeof wide), wide;
    if (dtype == WN_f32) return memcpy(&narrow, at, sizeof narrow), (double)narrow;
    memcpy(&half, at, sizeof half);
    return (double)(dtype == WN_f16 ? wn_f16_to_f32(half) : wn_bf16_to_f32(half));
}

static void set(void *p, size_t i, wn_dtype dtype, double wide) {
    char *at = (char *)p + i * size_of(dtype);
    float narrow = (float)wide;
    uint16_t half = dtype == WN_f16 ? wn_f32_to_f16(narrow) : wn_f32_to_bf16(narrow);
    memcpy(at, dtype == WN_f64 ? (void *)&wide : dtype == WN_f32 ? (void *)&narrow : &half, size_of(dtype));
}

/* Room for the next argument of a kernel, in the read-only mapping. */
static const void *place_for(trial *t, size_t bytes) {
    size_t odd = (2 * (size_t)t->chunks + 1) % 64, offsets[] = {64, odd, 0, CHUNK - bytes, 64};
    return chunk_at(readable_memory, t->chunks++) + offsets[t->place];
}

static const void *input(trial *t, const void *data, size_t bytes) {
    const void *p = place_for(t, bytes);
    memcpy(writable(p), data, bytes);
    return p;
}

static void *output(trial *t, size_t bytes) { return memset(writable(place_for(t, bytes)), 0xa5, bytes); }

/* States are C's doubles, and so aligned. */
static double *states_for(trial *t, size_t n) { return (double *)((uintptr_t)output(t, 8 * n) / 8 * 8); }

/* y apart from x or, in place, the same; but if its elements are larger it cannot be. */
static void place_x_and_y(trial *t, const void *data, size_t x_bytes, size_t y_bytes, const void **x,
                          void **y) {
    int is_same = t->place == IN_PLACE && x_bytes == y_bytes;
    *x = input(t, data, x_bytes);
    *y = is_same ? writable(*x) : output(t, y_bytes);
    if (is_same) *x = *y;
}

/* Adds n elements to the trial's results. NaNs are all one: their bits depend on the CPU. */
static void see(const void *p, size_t n, wn_dtype dtype) {
    for (size_t i = 0; i < n; i++) {
        double value = get(p, i, dtype);
        results[result_count++] = value == value ? value : (double)NAN;
    }
}

static trial first_trial(wn_dtype dtype) {
    result_count = expected_count[0] = expected_count[1] = 0;
    return (trial){&tables[0]->dtype[dtype], dtype, ALIGNED, 0, 0};
}

static void next_trial(trial *t) {
    int has_fma = tables[t->table + 1] != NULL; /* the portable table is the last */
    size_t bytes = result_count * sizeof *results;
    if (!expected_count[has_fma]) memcpy(expected[has_fma], results, bytes);
    if (!expected_count[has_fma]) expected_count[has_fma] = result_count;
    int is_same = result_count == expected_count[has_fma] && !memcmp(results, expected[has_fma], bytes);
    if (!is_same && failures < 5) fprintf(stderr, "on %s, place %d:\n", tables[t->table]->isa, (int)t->place);
    EXPECT(is_same);
    result_count = 0, t->chunks = 0;
    t->place = (place)((t->place + 1) % PLACE_COUNT);
    if (t->place == ALIGNED) t->table++;
    t->kernels = tables[t->table] ? &tables[t->table]->dtype[t->dtype] : NULL;
}
#define EACH_TRIAL(t, dtype) for (trial t = first_trial(dtype); t.kernels; next_trial(&t))

/* After the trials: each result with FMA is within `tolerance` times `sizes` of the portable one. */
static void compare_with_portable(double tolerance) {
    int is_near = 1;
    for (size_t i = 0; i < expected_count[1]; i++) {
        double a = expected[1][i], b = expected[0][i], error = fabs(a - b);
        is_near &= a == b || (a != a && b != b) || (error <= tolerance * sizes[i] && error <= DBL_MAX);
        uint64_t bits;
        memcpy(&bits, &a, sizeof bits);
        hash = (hash ^ bits ^ bits >> 32) * 0x100000001b3; /* in the manner of FNV-1a */
    }
    EXPECT(is_near);
}

/* ---- data --------------------------------------------------------------------------------------------- */

typedef enum { NEAR_0, FAR_FROM_0, CONSTANT, OUTLIER, LARGE, TINY, WITH_INF, WITH_NAN, KIND_COUNT } kind;
#define EACH_KIND(k) for (kind k = NEAR_0; k < KIND_COUNT; k++)
static int is_poisoned(kind k) { return k == WITH_INF || k == WITH_NAN; }

static char source[MOST * sizeof(double)], weights[2 * WN_BLOCK * sizeof(double)], biases[sizeof weights];

/* All digits in use; as far from 0 as leaves noise some digits; an outlier among what is 0 but for noise. */
static const double constants[] = {
    [WN_f32] = (float)(1e6 / 3), [WN_f64] = 1e6 / 3, [WN_f16] = 0x1.554p9, [WN_bf16] = 0x1.46p18};
static const double offsets[] = {[WN_f32] = 1e6, [WN_f64] = 1e6, [WN_f16] = 100, [WN_bf16] = 10};
static const double outliers[] = {[WN_f32] = -3e5, [WN_f64] = -3e5, [WN_f16] = -3e4, [WN_bf16] = -3e5};
static const double large[] = {[WN_f32] = 3e38, [WN_f64] = 1e300, [WN_f16] = 6e4, [WN_bf16] = 3e38};
static const double tiny[] = {[WN_f32] = 1e-40, [WN_f64] = 1e-310, [WN_f16] = 1e-6, [WN_bf16] = 1e-39};

/* Between -1 and 1: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators"). */
static double noise(size_t i, uint64_t seed) {
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15 + seed * 0xd1b54a32d192ed03;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-52 - 1.0;
}

static void fill(void *to, wn_dtype dtype, size_t n, kind k, uint64_t seed) {
    for (size_t i = 0; i < n; i++) {
        double value = noise(i, seed);
        if (k == FAR_FROM_0) value += offsets[dtype];
        if (k == CONSTANT) value = constants[dtype];
        if (k == OUTLIER) value = i ? value * 1e-3 - outliers[dtype] / 3 : outliers[dtype];
        if (k == LARGE || k == TINY) value *= k == LARGE ? large[dtype] : tiny[dtype];
        if (is_poisoned(k) && i == n / 2) value = k == WITH_INF ? (double)INFINITY : (double)NAN;
        set(to, i, dtype, value);
    }
}

enum { HAS_WEIGHT = 1, HAS_BIAS = 2, IS_SCALAR = 4, AFFINE_COUNT = 8, ACTIVATION_COUNT = WN_GELU_TANH + 1 };

static const void *parameters_for(trial *t, int affine, int which, size_t n) {
    size_t bytes = (affine & IS_SCALAR ? 1 : n) * size_of(compute_of(t->dtype));
    return affine & which ? input(t, which == HAS_WEIGHT ? weights : biases, bytes) : NULL;
}

/* Streamed, and fetched ahead, in every other trial, which changes no bit. */
static wn_affine affine_for(trial *t, int affine, size_t n, wn_activation activation, result_type type) {
    int past_cache = (int)(((size_t)t->place + (size_t)t->table + n) % 2);
    const void *weight = parameters_for(t, affine, HAS_WEIGHT, n);
    return (wn_affine){.weight = weight,
                       .bias = parameters_for(t, affine, HAS_BIAS, n),
                       .advance = !(affine & IS_SCALAR),
                       .activation = activation,
                       .to_compute = type == TO_COMPUTE,
                       .stream = past_cache && type == TO_STORAGE && !activation};
}

static double activated(double v, wn_activation activation) {
    double t = v;
    switch (activation) {
    case WN_NO_ACTIVATION:
        return v;
    case WN_RELU:
        return v < 0.0 ? 0.0 : v;
    case WN_GELU:
        return v * 0.5 * erfc(-v * sqrt(0.5));
    case WN_GELU_TANH:
        t = 2.0 * sqrt(2.0 / acos(-1.0)) * (v + 0.044715 * v * v * v);
        break;
    case WN_SILU:
        break;
    }
    return v * (t < 0.0 ? exp(t) / (1.0 + exp(t)) : 1.0 / (1.0 + exp(-t)));
}

/* Whether a value that should be `exact` but for `error`, rounded to the dtype, may be this. */
static int may_be(double value, double exact, double error, wn_dtype dtype) {
    double rounding = dtype == compute_of(dtype) ? 0.0 : 0.5 * storage_epsilon(dtype) * fabs(exact);
    if (dtype == WN_f16 && fabs(value) > DBL_MAX)
        return fabs(exact) + error >= 65520.0 && exact * value > 0.0;
    return fabs(value - exact) <= error + rounding + (is_16bit(dtype) ? 0.5 * least_of(dtype) : 0.0);
}

/* After the trials: result i is activation(xhat * weight + bias), rounded as sums are that had terms like
 * xhat and `lost`; the slope of an activation is at most 1.13. What `sizes` must hold for
 * compare_with_portable is in units of the compute type's last place. */
static void compare_element(wn_dtype dtype, size_t i, size_t a, double xhat, double lost,
                            const wn_affine *affine, int is_scalar) {
    wn_dtype compute = compute_of(dtype), result = affine->to_compute ? compute : dtype;
    double weight = affine->weight ? get(weights, is_scalar ? 0 : a, compute) : 1.0;
    double bias = affine->bias ? get(biases, is_scalar ? 0 : a, compute) : 0.0;
    double value = activated(xhat * weight + bias, affine->activation);
    sizes[i] = (fabs(xhat) + lost) * fabs(weight) + fabs(bias);
    if (lost == 0.0 && !affine->activation) sizes[i] = 0.0;
    double error = (affine->activation ? 6 : 4) * epsilon_of(dtype) * sizes[i];
    if (fabs(xhat) <= DBL_MAX)
        EXPECT(may_be(expected[0][i], value, error, result));
    else
        EXPECT(!(fabs(expected[0][i]) <= DBL_MAX) || affine->activation);
    if (is_16bit(result)) /* rounded to either side */
        sizes[i] += (storage_epsilon(result) * fabs(value) + least_of(result)) / epsilon_of(dtype);
}

/* After the trials: each column's n deviations add up to nothing, and their squares to M2. Means are the same
 * with FMA, as plain sums know none; squares of float32 data may lose 20 bits before deviations are taken. */
static void compare_states(wn_dtype dtype, size_t columns, size_t n, kind k, int centred) {
    for (size_t c = 0; c < columns; c++) {
        double mean = expected[0][c], mean_lo = expected[0][columns + c], m2 = expected[0][2 * columns + c];
        double sum = 0.0, size = 0.0, square = 0.0;
        for (size_t i = c; i < n * columns; i += columns) {
            double d = (get(source, i, dtype) - mean) - mean_lo;
            sum += d, size += fabs(d), square += d * d;
        }
        if (!centred) EXPECT(mean == 0.0 && mean_lo == 0.0 && !signbit(mean) && !signbit(mean_lo));
        if (is_poisoned(k) && c == n * columns / 2 % columns)
            EXPECT(centred         ? m2 != m2 && (k == WITH_INF ? mean > DBL_MAX : mean != mean)
                   : k == WITH_INF ? m2 > DBL_MAX
                                   : m2 != m2);
        else if (dtype != WN_f64 || (k != LARGE && k != TINY))
            EXPECT((!centred || fabs(sum) <= 0x1p-28 * size) && fabs(m2 - square) <= 0x1p-28 * square);
        EXPECT(expected[0][3 * columns + c] == 0.0 && expected[1][3 * columns + c] == 0.0); /* m2_lo */
        sizes[c] = sizes[columns + c] = sizes[3 * columns + c] = 0.0;
        sizes[2 * columns + c] = m2;
    }
    compare_with_portable(dtype == WN_f64 ? 8 * DBL_EPSILON : 0x1p-30);
}

/* ---- exact statistics --------------------------------------------------------------------------------- */

typedef __int128 wide_int; /* 126 bits of it */

/* Integers times 2^q, of up to 40 bits beside an offset, so that sums of their squares fit. Returns q. */
static int fill_integers(void *to, wn_dtype dtype, size_t n, kind k, uint64_t seed) {
    static const int large_at[] = {[WN_f32] = 106, [WN_f64] = 400, [WN_f16] = 6, [WN_bf16] = 118};
    static const int tiny_at[] = {[WN_f32] = -149, [WN_f64] = -400, [WN_f16] = -24, [WN_bf16] = -133};
    int bits = dtype == WN_f64 ? (k == OUTLIER ? 24 : 40) : dtype == WN_f32 ? 20 : 9;
    for (size_t i = 0; i < n; i++) {
        double value = rint(ldexp(noise(i, seed), bits));
        if (k == FAR_FROM_0 || k == OUTLIER) {
            double far = k == FAR_FROM_0 ? offsets[dtype] : i ? 1e3 : outliers[dtype];
            value += ldexp(rint(far), bits);
        }
        if (k == CONSTANT) value = ldexp(rint(constants[dtype]), bits);
        if (k == LARGE) value = ldexp(value, large_at[dtype] + bits);
        if (k == TINY) value = ldexp(value, tiny_at[dtype] + bits);
        value = ldexp(value, -bits);
        if (is_poisoned(k) && i == n / 2) value = k == WITH_INF ? (double)INFINITY : (double)NAN;
        set(to, i, dtype, value);
    }
    return k == LARGE ? large_at[dtype] : k == TINY ? tiny_at[dtype] : -bits;
}

/* value * 2^shift, cut to an integer. */
static wide_int to_integer(double value, int shift) {
    int exponent;
    wide_int fraction = (wide_int)ldexp(frexp(value, &exponent), 53);
    shift += exponent - 53;
    if (fraction == 0) return 0;
    if (shift > 72) shift = 72; /* too large in any case */
    if (shift >= 0) return fraction * ((wide_int)1 << shift);
    return shift > -63 ? fraction / ((wide_int)1 << -shift) : 0;
}

/* |high + low - numerator / denominator| * 2^-q, as a share of that and of `least`, besides. */
static double error_of_pair(double high, double low, int q, wide_int numerator, size_t denominator,
                            double least) {
    int shift = 0;
    wide_int most = numerator < 0 ? -numerator : numerator;
    while (shift < 120 && most < (wide_int)1 << 122) most *= 2, shift++;
    wide_int exact = numerator * ((wide_int)1 << shift) / (wide_int)denominator;
    wide_int error = to_integer(high, shift - q) + to_integer(low, shift - q) - exact;
    double size = fabs((double)numerator / (double)denominator);
    if (error < 0) error = -error;
    /* three integers were cut */
    return error <= 3 ? 0.0 : ldexp((double)error, -shift) / (size > least ? size : least);
}

/* One column's state, of n integers `step` apart from `first` on, times 2^q. */
static void compare_exactly(wn_dtype dtype, size_t first, size_t n, size_t step, int q, const double *state,
                            size_t stride) {
    double mean = state[0], mean_lo = state[stride], m2 = state[2 * stride], m2_lo = state[3 * stride];
    wide_int base = (wide_int)ldexp(get(source, first, dtype), -q), sum = 0, square = 0;
    for (size_t i = 0; i < n; i++) {
        double element = ldexp(get(source, first + i * step, dtype), -q);
        wide_int d = (wide_int)element - base;
        if (element != rint(element)) abort();
        sum += d, square += d * d;
    }
    wide_int total = sum + base * (wide_int)n, scatter = (wide_int)n * square - sum * sum;
    double rms = sqrt((double)scatter) / (double)n;
    EXPECT(mean + mean_lo == mean && m2 + m2_lo == m2); /* the second parts are beyond the first's digits */
    if (scatter == 0) EXPECT(m2 == 0.0 && m2_lo == 0.0 && mean_lo == 0.0);
    double of_mean = error_of_pair(mean, mean_lo, q, total, n, rms);
    double of_m2 = error_of_pair(m2, m2_lo, 2 * q, scatter, n, 0.0);
    EXPECT(of_mean <= 0x1p-97 && of_m2 <= 0x1p-93);
}

/* After the trials: states of `columns` columns as they were seen (mean, mean_lo, m2, m2_lo) are exact. */
static void compare_exact_states(wn_dtype dtype, size_t columns, size_t n, kind k, int q) {
    for (size_t c = 0; c < columns; c++) {
        int poisoned = is_poisoned(k) && c == n * columns / 2 % columns;
        for (int has_fma = 0; has_fma < 2 && expected_count[has_fma]; has_fma++) {
            const double *state = expected[has_fma] + c;
            if (poisoned)
                EXPECT(!(fabs(state[0]) <= DBL_MAX) && !(fabs(state[2 * columns]) <= DBL_MAX));
            else
                compare_exactly(dtype, c, n, columns, q, state, columns);
        }
        for (size_t part = 0; part < 4;
             part++) /* beyond compare_exactly: the last place of the first parts */
            sizes[part * columns + c] = fabs(expected[0][part / 2 * 2 * columns + c]);
        for (size_t part = 0; part < 2; part++)
            sizes[part * columns + c] += sqrt(expected[0][2 * columns + c] / (double)n);
    }
    compare_with_portable(2 * DBL_EPSILON);
}

/* ---- one test a kernel -------------------------------------------------------------------------------- */

static void test_moments_run(wn_dtype dtype) {
    static const size_t run_counts[] = {1, 2, 3, 5, 31, WN_BLOCK_RUNS};
    for (int centred = 0; centred < 2; centred++)
        EACH_KIND(k) for (int i = 0; i < 6; i++) EACH_LENGTH(n, WN_BLOCK / run_counts[i]) {
            size_t run_count = run_counts[i], bytes = n * size_of(dtype);
            fill(source, dtype, run_count * n, k, n);
            EACH_TRIAL(t, dtype) {
                const void *runs[WN_BLOCK_RUNS];
                wn_state state;
                for (size_t r = 0; r < run_count; r++) runs[r] = input(&t, source + r * bytes, bytes);
                t.kernels->moments_run(runs, run_count, n, centred, &state);
                see(&state.mean, 4, WN_f64); /* and mean_lo, m2 and m2_lo */
                EXPECT(state.count == (double)(run_count * n));
            }
            compare_states(dtype, 1, run_count * n, k, centred);
        }
}

static void test_exact_run(wn_dtype dtype) {
    static const size_t run_counts[] = {1, 2, 3, 31, WN_BLOCK_RUNS};
    EACH_KIND(k) for (int i = 0; i < 5; i++) EACH_LENGTH(n, WN_BLOCK / run_counts[i]) {
        size_t run_count = run_counts[i], bytes = n * size_of(dtype);
        int q = fill_integers(source, dtype, run_count * n, k, n);
        EACH_TRIAL(t, dtype) {
            const void *runs[WN_BLOCK_RUNS];
            wn_state state;
            for (size_t r = 0; r < run_count; r++) runs[r] = input(&t, source + r * bytes, bytes);
            t.kernels->exact_run(runs, run_count, n, &state);
            see(&state.mean, 4, WN_f64);
            EXPECT(state.count == (double)(run_count * n));
        }
        compare_exact_states(dtype, 1, run_count * n, k, q);
    }
    EACH_LENGTH(n, WN_BLOCK) { /* squares that leave the range: not finite, and known by it */
        fill(source, dtype, n, LARGE, n);
        EACH_TRIAL(t, dtype) {
            const void *run = input(&t, source, n * size_of(dtype));
            wn_state state;
            t.kernels->exact_run(&run, 1, n, &state);
            EXPECT(n == 1 || dtype != WN_f64 ? state.m2 <= DBL_MAX : !(state.m2 <= DBL_MAX));
        }
    }
}

/* The kernel with the activation is the one without it, to the compute type, then `activate`, then rounded to
 * the dtype: the same numbers, but for the sign of zero. */
static void compare_in_steps(const trial *t, const void *x, const void *y, size_t n, const wn_norm *norm,
                             const wn_affine *affine) {
    static char plain[(WN_BLOCK + 1) * sizeof(double)], stored[sizeof plain];
    wn_dtype compute = compute_of(t->dtype), result = affine->to_compute ? compute : t->dtype;
    wn_affine without = *affine;
    without.activation = WN_NO_ACTIVATION, without.to_compute = 1;
    t->kernels->apply_run(x, plain, n, norm, &without);
    if (affine->activation) t->kernels->activate(plain, n, affine->activation);
    int is_same = 1;
    for (size_t i = 0; i < n; i++) {
        set(stored, i, result, get(plain, i, compute));
        double a = get(stored, i, result), b = get(y, i, result);
        is_same &= a == b || (a != a && b != b);
    }
    EXPECT(is_same);
}

static void test_apply_run(wn_dtype dtype) {
    for (int affine = 0; affine < AFFINE_COUNT; affine++) EACH_KIND(k) EACH_LENGTH(n, WN_BLOCK + 1) {
            for (int variant = 0; variant < 4; variant++) {
                wn_activation activation =
                    (wn_activation)(variant & 1 ? 1 + ((size_t)affine + k + n) % 4 : 0);
                result_type type = (result_type)(variant >> 1);
                double mean = k == CONSTANT ? constants[dtype] : k == FAR_FROM_0 ? offsets[dtype] + 0.1 : 0.1;
                double mean_lo = k == CONSTANT ? 0.0 : mean * 1e-17;
                double rstd = k == LARGE && dtype != WN_f16 ? 1e-30 : 1.7;
                wn_norm norm = {mean, mean_lo, rstd, 1.0};
                wn_affine given = {0};
                size_t bytes = n * size_of(dtype), y_bytes = n * size_of(result_of(dtype, type));
                fill(source, dtype, n, k, n);
                EACH_TRIAL(t, dtype) {
                    const void *x;
                    void *y;
                    given = affine_for(&t, affine, n, activation, type);
                    place_x_and_y(&t, source, bytes, y_bytes, &x, &y);
                    t.kernels->apply_run(x, y, n, &norm, &given);
                    t.kernels->stream_end();
                    see(y, n, result_of(dtype, type));
                    if (variant && t.place == (place)(n % PLACE_COUNT))
                        compare_in_steps(&t, source, y, n, &norm, &given);
                }
                for (size_t i = 0; i < n; i++) {
                    double xhat = (get(source, i, dtype) - mean - mean_lo) * rstd;
                    double lost = k == CONSTANT ? 0.0 : mean * rstd * epsilon_of(dtype);
                    compare_element(dtype, i, i, xhat, lost, &given, affine & IS_SCALAR);
                }
                compare_with_portable((activation ? 8 : 2) * epsilon_of(dtype));
            }
        }
}

typedef struct {
    size_t rows, n;
    ptrdiff_t stride;
    int affine, centred;
    ptrdiff_t affine_step; /* elements */
    wn_activation activation;
    result_type type;
} row_call;

/* Rows so many bytes apart: none (x's alone), more than a row has, or backwards. Each of the rows before the
 * first that is for the wide path becomes what moments_run and apply_run make of it alone. */
static void try_norm_run(wn_dtype dtype, const row_call *call) {
    static char image[CHUNK], alone[WN_BLOCK * sizeof(double)];
    wn_dtype result = result_of(dtype, call->type);
    size_t n = call->n, ratio = size_of(result) / size_of(dtype), bytes = n * size_of(dtype), r;
    size_t reach = bytes + (call->rows - 1) * (size_t)labs(call->stride);
    char *rows = image + (call->stride < 0 ? reach - bytes : 0);
    for (r = 0; r < call->rows; r++) memcpy(rows + (ptrdiff_t)r * call->stride, source + r * bytes, bytes);
    EACH_TRIAL(t, dtype) {
        size_t parameters = (call->affine & IS_SCALAR ? 1 : n) + (size_t)call->affine_step * (call->rows - 1),
               kept;
        wn_affine affine =
            affine_for(&t, call->affine & ~IS_SCALAR, parameters, call->activation, call->type);
        affine.advance = !(call->affine & IS_SCALAR);
        const char *x = (const char *)input(&t, image, reach) + (rows - image);
        char *y = (char *)output(&t, ratio * (call->stride ? reach : call->rows * bytes)) +
                  (ptrdiff_t)ratio * (rows - image);
        ptrdiff_t y_stride = (ptrdiff_t)ratio * (call->stride ? call->stride : (ptrdiff_t)bytes);
        if (t.place == IN_PLACE && call->stride && ratio == 1) x = y = writable(x);
        size_t done = t.kernels->norm_run(x, call->stride, y, y_stride, call->rows, n, &affine,
                                          call->affine_step, 1e-5, call->centred);
        t.kernels->stream_end();
        for (r = 0; r < call->rows; r++, y += y_stride) {
            const void *row = rows + (ptrdiff_t)r * call->stride;
            size_t step = r * (size_t)call->affine_step * size_of(compute_of(dtype));
            wn_affine of_row = affine;
            if (affine.weight) of_row.weight = (const char *)affine.weight + step;
            if (affine.bias) of_row.bias = (const char *)affine.bias + step;
            wn_state s;
            t.kernels->moments_run(&row, 1, n, call->centred, &s);
            wn_norm norm = wn_finish(&s, 1e-5);
            if ((dtype == WN_f64 ? wn_is_wide_f64 : wn_is_wide_f32)(&norm, s.m2, 1e-5)) break;
            t.kernels->apply_run(row, alone, n, &norm, &of_row);
            see(y, n, result);
            kept = result_count;
            see(alone, n, result);
            result_count = kept;
            EXPECT(!memcmp(results + kept - n, results + kept, n * sizeof *results));
        }
        EXPECT(done == r && (r == call->rows || t.place == IN_PLACE ||
                             y[(ptrdiff_t)ratio * (ptrdiff_t)bytes - 1] == (char)0xa5));
    }
    for (size_t i = 0; i < expected_count[0]; i++) { /* parameters are below 1 */
        double least = is_16bit(result) ? storage_epsilon(result) / epsilon_of(dtype) : 0.0;
        sizes[i] = fabs(expected[0][i]) * (1.0 + least) + 2.0 + least * least_of(result);
    }
    compare_with_portable((call->activation ? 8 : 4) * epsilon_of(dtype));
}

static void test_norm_run(wn_dtype dtype) {
    int turn = 0;
    EACH_KIND(k) EACH_LENGTH(n, WN_BLOCK) for (size_t rows = 1; rows <= (n <= SHORT ? 5 : 2); rows++) {
        ptrdiff_t bytes = (ptrdiff_t)(n * size_of(dtype)), strides[] = {bytes, bytes + 13, -bytes - 1, 0};
        for (size_t r = 0; r < rows; r++) /* one in the middle is of the kind */
            fill(source + (ptrdiff_t)r * bytes, dtype, n, r == rows / 2 ? k : NEAR_0, r);
        for (int i = 0; i < 4; i++, turn++) {
            row_call call = {rows, n, strides[i], (int)(n + rows) % 4, 1, 0, WN_NO_ACTIVATION, TO_STORAGE};
            try_norm_run(dtype, &call);
            /* RMS norm; parameters by row, or of all rows; an activation, results of the compute type */
            call.centred = turn / 2 % 2;
            call.affine = turn / 3 % 8;
            call.affine_step = turn % 3 == 0 ? (call.affine & IS_SCALAR ? 1 : (ptrdiff_t)n) : turn % 3 - 1;
            call.activation = (wn_activation)(turn % ACTIVATION_COUNT);
            call.type = (result_type)(turn / ACTIVATION_COUNT % 2);
            try_norm_run(dtype, &call);
        }
    }
}

static wn_states states_at(double *p, size_t columns) {
    return (wn_states){p, p + columns, p + 2 * columns, p + 3 * columns};
}

static void test_moments_cols(wn_dtype dtype) {
    for (int centred = 0; centred < 2; centred++) EACH_KIND(k) EACH_HEIGHT(rows) EACH_WIDTH(columns) {
            if (!centred && (rows + columns) % 3) continue;
            size_t bytes = columns * size_of(dtype);
            fill(source, dtype, rows * columns, k, rows);
            EACH_TRIAL(t, dtype) {
                const void *x_rows[WN_ROWS];
                for (size_t r = 0; r < rows; r++) x_rows[r] = input(&t, source + r * bytes, bytes);
                double *p = states_for(&t, 4 * columns);
                const wn_states states = states_at(p, columns);
                t.kernels->moments_cols(x_rows, rows, columns, centred, &states);
                see(p, 4 * columns, WN_f64);
            }
            compare_states(dtype, columns, rows, k, centred);
        }
}

/* In two calls: the second adds to the sums of the first, by shifts of the first. */
static void test_exact_cols(wn_dtype dtype) {
    static double state[4 * WN_STRIP];
    EACH_KIND(k) EACH_HEIGHT(rows) EACH_WIDTH(columns) {
        size_t bytes = columns * size_of(dtype), of_first = rows - rows / 3;
        if (rows > 8 && rows < WN_ROWS && columns % 8 != 3) continue;
        int q = fill_integers(source, dtype, rows * columns, k, rows);
        EACH_TRIAL(t, dtype) {
            const void *x_rows[WN_ROWS];
            for (size_t r = 0; r < rows; r++) x_rows[r] = input(&t, source + r * bytes, bytes);
            double *shift = states_for(&t, columns), *sums = states_for(&t, 4 * WN_STRIP);
            t.kernels->exact_cols(x_rows, of_first, columns, 1, shift, sums);
            t.kernels->exact_cols(x_rows + of_first, rows - of_first, columns, 0, shift, sums);
            for (size_t c = 0; c < columns; c++) {
                wn_sums of_column = {{sums[c], sums[WN_STRIP + c]},
                                     {sums[2 * WN_STRIP + c], sums[3 * WN_STRIP + c]}};
                wn_state s = wn_exact_state((double)rows, shift[c], of_column);
                state[c] = s.mean, state[columns + c] = s.mean_lo;
                state[2 * columns + c] = s.m2, state[3 * columns + c] = s.m2_lo;
                double first = get(source, c, dtype);
                EXPECT(shift[c] == (fabs(first) <= DBL_MAX ? first : 0.0));
            }
            see(state, 4 * columns, WN_f64);
        }
        compare_exact_states(dtype, columns, rows, k, q);
    }
}

static void test_merge_cols(wn_dtype dtype) {
    EACH_KIND(k) EACH_WIDTH(columns) {
        size_t bytes = 4 * columns * sizeof(double);
        fill(source, WN_f64, 8 * columns, k, columns); /* mean, mean_lo, m2 and m2_lo of a, and of b */
        EACH_TRIAL(t, dtype) {
            double *p = memcpy(states_for(&t, 4 * columns), source, bytes);
            double *q = memcpy(states_for(&t, 4 * columns), source + bytes, bytes);
            const wn_states a = states_at(p, columns), b = states_at(q, columns);
            t.kernels->merge_cols(&a, 128.0, &b, 3.0, columns);
            see(p, 3 * columns, WN_f64); /* m2_lo is none of its business */
            EXPECT(!memcmp(q, source + bytes, bytes));
            for (size_t c = 0; c < columns; c += 13) {
                double own = get(source, c, WN_f64), own_lo = get(source, columns + c, WN_f64);
                double m2 = get(source, 2 * columns + c, WN_f64);
                wn_merge_into(&own, &own_lo, &m2, 128.0, q[c], q[columns + c], q[2 * columns + c], 3.0);
                EXPECT((p[c] == own || own != own) && (p[2 * columns + c] == m2 || m2 != m2));
            }
        }
        compare_with_portable(0.0);
    }
}

static void test_apply_cols(wn_dtype dtype) {
    static char mean_hi[WN_STRIP * sizeof(double)], rstd[sizeof mean_hi], offset[sizeof mean_hi];
    wn_dtype compute = compute_of(dtype);
    EACH_KIND(k) EACH_HEIGHT(rows) EACH_WIDTH(columns) {
        size_t bytes = columns * size_of(dtype), parameter_bytes = columns * size_of(compute);
        int by_row = (int)(rows + columns) % 2;
        /* as often as not nothing but the affine step */
        size_t turn = rows / 2 + columns / 2 + k;
        wn_activation activation = (wn_activation)(turn % 8 < ACTIVATION_COUNT ? turn % 8 : 0);
        result_type type = (result_type)(turn / 2 % 3 == 1);
        wn_affine affine = {0};
        if (rows > 8 && rows < WN_ROWS && columns % 4 != rows % 4) continue;
        fill(source, dtype, rows * columns, k, rows);
        for (size_t c = 0; c < columns; c++) {
            double mean = k == CONSTANT ? constants[dtype] : k == FAR_FROM_0 ? offsets[dtype] : noise(c, 5);
            set(mean_hi, c, compute, mean);
            set(rstd, c, compute, k == LARGE && dtype != WN_f16 ? 1e-30 : 1.5 + noise(c, 3));
            set(offset, c, compute, k == CONSTANT ? 0.0 : 0.01 * noise(c, 4));
        }
        EACH_TRIAL(t, dtype) {
            const void *x_rows[WN_ROWS];
            void *y_rows[WN_ROWS];
            wn_cols_norm norm = {input(&t, mean_hi, parameter_bytes), input(&t, rstd, parameter_bytes),
                                 input(&t, offset, parameter_bytes)};
            affine = affine_for(&t, HAS_WEIGHT | HAS_BIAS, by_row ? rows : columns, activation, type);
            affine.advance = !by_row;
            if (t.place == AT_ODD_ADDRESSES) affine.stream = 0; /* which is for rows that lie alike */
            for (size_t r = 0; r < rows; r++)
                place_x_and_y(&t, source + r * bytes, bytes, columns * size_of(result_of(dtype, type)),
                              &x_rows[r], &y_rows[r]);
            t.kernels->apply_cols(x_rows, y_rows, rows, columns, &norm, &affine);
            t.kernels->stream_end();
            for (size_t r = 0; r < rows; r++) see(y_rows[r], columns, result_of(dtype, type));
        }
        for (size_t i = 0; i < rows * columns; i++) {
            size_t c = i % columns;
            double xhat = (get(source, i, dtype) - get(mean_hi, c, compute)) * get(rstd, c, compute) +
                          get(offset, c, compute);
            compare_element(dtype, i, by_row ? i / columns : c, xhat, k == CONSTANT ? 0.0 : 0.01, &affine, 0);
        }
        compare_with_portable((activation ? 8 : 2) * epsilon_of(dtype));
    }
}

/* ---- activations: against libm, of twice the digits -----------------------------------------------------
 */

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

/* ---- sums, magnitudes, int8 ------------------------------------------------------------------------------
 */

static void test_add(wn_dtype dtype) {
    static char others[(WN_BLOCK + 1) * sizeof(double)];
    wn_dtype compute = compute_of(dtype);
    EACH_KIND(k)
    for (kind other = NEAR_0; other < KIND_COUNT; other = (kind)(other + 1 + (k + other) % 3))
        EACH_LENGTH(n, WN_BLOCK + 1) {
            size_t bytes = n * size_of(dtype);
            fill(source, dtype, n, k, n);
            fill(others, dtype, n, other, n + 1);
            EACH_TRIAL(t, dtype) {
                const void *a = input(&t, source, bytes), *b = input(&t, others, bytes);
                void *sum = t.place != IN_PLACE ? output(&t, bytes) : writable(n % 2 ? a : b);
                if (t.place == IN_PLACE && n % 2) a = sum;
                if (t.place == IN_PLACE && n % 2 == 0) b = sum;
                t.kernels->add(a, b, sum, n);
                see(sum, n, dtype);
            }
            int is_same = 1;
            for (size_t i = 0; i < n; i++) {
                char rounded[sizeof(double)];
                double p = get(source, i, dtype), q = get(others, i, dtype);
                float narrow = (float)p + (float)q;
                set(rounded, 0, dtype, compute == WN_f64 ? p + q : (double)narrow);
                double value = get(rounded, 0, dtype), result = expected[0][i];
                is_same &= value != value ? result != result
                                          : value == result && !signbit(value) == !signbit(result);
                sizes[i] = 0.0;
            }
            EXPECT(is_same);
            compare_with_portable(0.0);
        }
}

static void test_max_magnitude(wn_dtype dtype) {
    wn_dtype compute = compute_of(dtype);
    EACH_KIND(k) EACH_LENGTH(n, WN_BLOCK + 1) for (int variant = 0; variant < 4; variant++) {
        fill(source, compute, n, k, n);
        /* the largest somewhere, of either sign; nothing but zeros of either sign; -inf; NaN of either sign,
         * and inf */
        size_t at = (n * 7 + (size_t)k) % n;
        if (variant == 0) set(source, at, compute, (n % 2 ? -1.5 : 1.5) * fabs(outliers[compute]));
        if (variant == 1)
            for (size_t i = 0; i < n; i++) set(source, i, compute, i % 2 ? -0.0 : 0.0 * (double)i);
        if (variant == 1) set(source, 0, compute, -0.0);
        if (variant >= 2) set(source, at, compute, -(double)INFINITY);
        if (variant == 3) set(source, n - 1 - at, compute, n % 2 ? (double)NAN : -(double)NAN);
        double most = 0.0;
        for (size_t i = 0; i < n; i++) {
            double magnitude = fabs(get(source, i, compute));
            if (magnitude != magnitude || most != most) most = (double)NAN;
            if (magnitude > most) most = magnitude;
        }
        EACH_TRIAL(t, dtype) {
            double result = t.kernels->max_magnitude(input(&t, source, n * size_of(compute)), n);
            see(&result, 1, WN_f64);
            EXPECT(most == most ? result == most && !signbit(result) : result != result);
        }
        sizes[0] = 0.0;
        compare_with_portable(0.0);
    }
}

static int quantized(double value, double scale, wn_dtype compute) {
    double share = compute == WN_f64 ? value / scale : (double)((float)value / (float)scale);
    return share != share ? 0 : (int)rint(fmax(-127.0, fmin(127.0, share)));
}

static void test_quantize(wn_dtype dtype) {
    static int8_t wanted[WN_BLOCK + 1];
    const double scales[] = {0.25, 1.0, 0.037, 1e-38, 3e38, INFINITY, NAN};
    wn_dtype compute = compute_of(dtype);
    EACH_KIND(k) EACH_LENGTH(n, WN_BLOCK + 1) for (int s = 0; s < 7; s++) {
        double scale = (double)(float)scales[s]; /* as wn_problem has them */
        if (s > 2 && n % 4 != (size_t)s % 4) continue;
        fill(source, compute, n, k, n);
        for (size_t i = 0; i < n; i++) {
            double value = k == NEAR_0 ? get(source, i, compute) * 140.0 * scale : get(source, i, compute);
            /* ties, what is just beside them, and the ends */
            double tie = ((double)(int)(i * 37 % 261) - 130.5) * scale;
            if (i % 4 == 1) value = tie;
            if (i % 8 == 2)
                value = compute == WN_f64 ? nextafter(tie, 0.0) : (double)nextafterf((float)tie, 0.0f);
            if (i % 64 == 6) value = i % 128 == 6 ? (double)INFINITY : -(double)INFINITY;
            if (i % 64 == 7) value = (double)NAN;
            set(source, i, compute, value);
            wanted[i] = (int8_t)quantized(get(source, i, compute), scale, compute);
        }
        EACH_TRIAL(t, dtype) {
            const void *y = input(&t, source, n * size_of(compute));
            int8_t *q = output(&t, n);
            t.kernels->quantize(y, q, n, scale);
            for (size_t i = 0; i < n; i++) results[result_count++] = q[i];
            EXPECT(!memcmp(q, wanted, n));
        }
        for (size_t i = 0; i < n; i++) sizes[i] = 0.0;
        compare_with_portable(0.0);
    }
}

static void test_copy(wn_dtype dtype) {
    static const size_t lengths[] = {0, 1, 3, 15, 17, 63, 64, 65, 128, 259, 700};
    fill(source, WN_f64, 1000, NEAR_0, 0);
    for (size_t c = 0; c < 64 * 64 * sizeof lengths / sizeof *lengths; c++) {
        size_t to = c % 64, from = c / 64 % 64, bytes = lengths[c / 64 / 64];
        EACH_TRIAL(t, dtype) {
            const char *x = (const char *)input(&t, source, from + bytes) + from;
            char *y = (char *)output(&t, to + bytes + from) + to;
            t.kernels->copy(y, x, bytes, (int)(c + t.place) % 2);
            EXPECT(!memcmp(y, x, bytes) && (!to || y[-1] == (char)0xa5) && (!from || y[bytes] == (char)0xa5));
        }
    }
}

static void run_test(const char *name, void (*test)(wn_dtype dtype)) {
    static const char *const dtypes[] = {
#define WN_DTYPE(name, type) #name,
#include "dtypes.def"
#undef WN_DTYPE
    };
    for (int dtype = 0; dtype < WN_DTYPE_COUNT; dtype++) {
        failures = 0, hash = 0xcbf29ce484222325;
        fill(weights, compute_of((wn_dtype)dtype), 2 * WN_BLOCK, NEAR_0, 1);
        fill(biases, compute_of((wn_dtype)dtype), 2 * WN_BLOCK, NEAR_0, 2);
        test((wn_dtype)dtype);
        printf("%016" PRIx64 "  %s_%s\n", hash, name, dtypes[dtype]);
    }
}

int main(void) {
    int file = memfd_create("test_kernels", 0);
    if (file < 0 || ftruncate(file, (off_t)CHUNKS * CHUNK) != 0) abort();
    readable_memory = map_chunks(file, PROT_READ);
    writable_memory = map_chunks(file, PROT_READ | PROT_WRITE);
    for (int i = 0; (tables[i] = wn_usable_isa(i)); i++) printf("%s\n", tables[i]->isa);
#define WN_KERNEL(result, name, arguments) run_test(#name, test_##name);
#include "kernels.def"
#undef WN_KERNEL
    return check_result();
}
