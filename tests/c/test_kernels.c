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
#include "dispatch.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SHORT = 4 * 16 + 3, MOST = WN_ROWS * WN_STRIP }; /* SHORT: four of the widest vectors and three */

static size_t next_length(size_t n) { return n < SHORT ? n + 1 : n < WN_BLOCK - 1 ? WN_BLOCK - 1 : n + 1; }
static size_t next_columns(size_t n) { return n < 70 ? n + 1 : n < WN_STRIP - 1 ? WN_STRIP - 1 : n + 1; }
static size_t next_rows(size_t n) { return n < 20 ? n + 1 : n < WN_ROWS ? WN_ROWS : n + 1; }
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

static size_t size_of(wn_dtype dtype) { return dtype == WN_f64 ? sizeof(double) : sizeof(float); }
static double epsilon_of(wn_dtype dtype) { return dtype == WN_f64 ? DBL_EPSILON : (double)FLT_EPSILON; }

static double get(const void *p, size_t i, wn_dtype dtype) {
    double wide;
    float narrow;
    memcpy(dtype == WN_f64 ? (void *)&wide : &narrow, (const char *)p + i * size_of(dtype), size_of(dtype));
    return dtype == WN_f64 ? wide : (double)narrow;
}

static void set(void *p, size_t i, wn_dtype dtype, double wide) {
    float narrow = (float)wide;
    memcpy((char *)p + i * size_of(dtype), dtype == WN_f64 ? (void *)&wide : &narrow, size_of(dtype));
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

/* y apart from x or, in place, the same. */
static void place_x_and_y(trial *t, const void *data, size_t bytes, const void **x, void **y) {
    *x = input(t, data, bytes);
    *y = t->place == IN_PLACE ? writable(*x) : output(t, bytes);
    if (t->place == IN_PLACE) *x = *y;
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
static const double constants[] = {[WN_f32] = (float)(1e6 / 3), [WN_f64] = 1e6 / 3}; /* all digits in use */

/* Between -1 and 1: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators"). */
static double noise(size_t i, uint64_t seed) {
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15 + seed * 0xd1b54a32d192ed03;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return (double)((z ^ (z >> 31)) >> 11) * 0x1p-52 - 1.0;
}

static void fill(void *to, wn_dtype dtype, size_t n, kind k, uint64_t seed) {
    const double most = dtype == WN_f64 ? 1e300 : 3e38, least = dtype == WN_f64 ? 1e-310 : 1e-40;
    for (size_t i = 0; i < n; i++) {
        double value = noise(i, seed);
        if (k == FAR_FROM_0) value += 1e6;
        if (k == CONSTANT) value = constants[dtype];
        if (k == OUTLIER) value = i ? value * 1e-3 + 1e5 : -3e5;
        if (k == LARGE || k == TINY) value *= k == LARGE ? most : least;
        if (is_poisoned(k) && i == n / 2) value = k == WITH_INF ? (double)INFINITY : (double)NAN;
        set(to, i, dtype, value);
    }
}

enum { HAS_WEIGHT = 1, HAS_BIAS = 2, IS_SCALAR = 4, AFFINE_COUNT = 8 };

static const void *parameters_for(trial *t, int affine, int which, size_t n) {
    size_t bytes = (affine & IS_SCALAR ? 1 : n) * size_of(t->dtype);
    return affine & which ? input(t, which == HAS_WEIGHT ? weights : biases, bytes) : NULL;
}

/* After the trials: result i is xhat * weight + bias, rounded as sums are that had terms like xhat and
 * `lost`. */
static void compare_element(wn_dtype dtype, size_t i, size_t a, double xhat, double lost, int affine) {
    double weight = affine & HAS_WEIGHT ? get(weights, affine & IS_SCALAR ? 0 : a, dtype) : 1.0;
    double bias = affine & HAS_BIAS ? get(biases, affine & IS_SCALAR ? 0 : a, dtype) : 0.0;
    double error = fabs(expected[0][i] - (xhat * weight + bias));
    sizes[i] = lost > 0.0 ? (fabs(xhat) + lost) * fabs(weight) + fabs(bias) : 0.0;
    EXPECT(fabs(xhat) <= DBL_MAX ? error <= 4 * epsilon_of(dtype) * sizes[i] : !(error <= DBL_MAX));
}

/* After the trials: each column's n deviations add up to nothing, and their squares to M2. Means are the same
 * with FMA, as plain sums know none; squares of float32 data may lose 20 bits before deviations are taken. */
static void compare_states(wn_dtype dtype, size_t columns, size_t n, kind k) {
    for (size_t c = 0; c < columns; c++) {
        double mean = expected[0][c], mean_lo = expected[0][columns + c], m2 = expected[0][2 * columns + c];
        double sum = 0.0, size = 0.0, square = 0.0;
        for (size_t i = c; i < n * columns; i += columns) {
            double d = (get(source, i, dtype) - mean) - mean_lo;
            sum += d, size += fabs(d), square += d * d;
        }
        if (is_poisoned(k) && c == n * columns / 2 % columns)
            EXPECT(m2 != m2 && (k == WITH_INF ? mean > DBL_MAX : mean != mean));
        else if (k != LARGE && k != TINY)
            EXPECT(fabs(sum) <= 0x1p-28 * size && fabs(m2 - square) <= 0x1p-28 * square);
        sizes[c] = sizes[columns + c] = 0.0;
        sizes[2 * columns + c] = m2;
    }
    compare_with_portable(dtype == WN_f64 ? 8 * DBL_EPSILON : 0x1p-30);
}

/* ---- one test a kernel -------------------------------------------------------------------------------- */

static void test_moments_run(wn_dtype dtype) {
    static const size_t run_counts[] = {1, 2, 3, 5, 31, WN_BLOCK_RUNS};
    EACH_KIND(k) for (int i = 0; i < 6; i++) EACH_LENGTH(n, WN_BLOCK / run_counts[i]) {
        size_t run_count = run_counts[i], bytes = n * size_of(dtype);
        fill(source, dtype, run_count * n, k, n);
        EACH_TRIAL(t, dtype) {
            const void *runs[WN_BLOCK_RUNS];
            wn_state state;
            for (size_t r = 0; r < run_count; r++) runs[r] = input(&t, source + r * bytes, bytes);
            t.kernels->moments_run(runs, run_count, n, &state);
            see(&state.mean, 3, WN_f64); /* and mean_lo and m2 */
            EXPECT(state.count == (double)(run_count * n));
        }
        compare_states(dtype, 1, run_count * n, k);
    }
}

static void test_apply_run(wn_dtype dtype) {
    for (int affine = 0; affine < AFFINE_COUNT; affine++) EACH_KIND(k) EACH_LENGTH(n, WN_BLOCK + 1) {
            double mean = k == CONSTANT ? constants[dtype] : k == FAR_FROM_0 ? 1e6 + 0.1 : 0.1;
            double mean_lo = k == CONSTANT ? 0.0 : mean * 1e-17, rstd = k == LARGE ? 1e-30 : 1.7;
            wn_norm norm = {mean, mean_lo, rstd, 1.0};
            size_t bytes = n * size_of(dtype);
            fill(source, dtype, n, k, n);
            EACH_TRIAL(t, dtype) {
                const void *x, *weight = parameters_for(&t, affine, HAS_WEIGHT, n);
                const void *bias = parameters_for(&t, affine, HAS_BIAS, n);
                void *y;
                place_x_and_y(&t, source, bytes, &x, &y);
                t.kernels->apply_run(x, y, n, &norm, weight, bias, !(affine & IS_SCALAR));
                see(y, n, dtype);
            }
            for (size_t i = 0; i < n; i++) {
                double xhat = (get(source, i, dtype) - mean - mean_lo) * rstd;
                compare_element(dtype, i, i, xhat, k == CONSTANT ? 0.0 : mean * rstd * epsilon_of(dtype),
                                affine);
            }
            compare_with_portable(2 * epsilon_of(dtype));
        }
}

/* Rows so many bytes apart: none (x's alone), more than a row has, or backwards. Each of the rows before the
 * first that is for the wide path becomes what moments_run and apply_run make of it alone. */
static void try_norm_run(wn_dtype dtype, size_t row_count, size_t n, ptrdiff_t stride, int affine) {
    static char image[CHUNK], alone[WN_BLOCK * sizeof(double)];
    size_t bytes = n * size_of(dtype), reach = bytes + (row_count - 1) * (size_t)labs(stride), r;
    char *rows = image + (stride < 0 ? reach - bytes : 0);
    for (r = 0; r < row_count; r++) memcpy(rows + (ptrdiff_t)r * stride, source + r * bytes, bytes);
    EACH_TRIAL(t, dtype) {
        const void *weight = parameters_for(&t, affine, HAS_WEIGHT, n);
        const void *bias = parameters_for(&t, affine, HAS_BIAS, n);
        const char *x = (const char *)input(&t, image, reach) + (rows - image);
        char *y = (char *)output(&t, stride ? reach : row_count * bytes) + (rows - image);
        ptrdiff_t y_stride = stride ? stride : (ptrdiff_t)bytes;
        if (t.place == IN_PLACE && stride) x = y = writable(x);
        size_t done = t.kernels->norm_run(x, stride, y, y_stride, row_count, n, weight, bias, 1e-5);
        for (r = 0; r < row_count; r++, y += y_stride) {
            const void *row = rows + (ptrdiff_t)r * stride;
            wn_state s;
            t.kernels->moments_run(&row, 1, n, &s);
            wn_norm norm = wn_finish(&s, 1e-5);
            if ((dtype == WN_f64 ? wn_is_wide_f64 : wn_is_wide_f32)(&norm, s.m2, 1e-5)) break;
            t.kernels->apply_run(row, alone, n, &norm, weight, bias, 1);
            see(y, n, dtype);
            see(alone, n, dtype);
            EXPECT(!memcmp(results + 2 * r * n, results + (2 * r + 1) * n, n * sizeof *results));
        }
        EXPECT(done == r && (r == row_count || t.place == IN_PLACE || y[bytes - 1] == (char)0xa5));
    }
    for (size_t i = 0; i < expected_count[0]; i++)
        sizes[i] = fabs(expected[0][i]) + 2.0; /* parameters are below 1 */
    compare_with_portable(4 * epsilon_of(dtype));
}

static void test_norm_run(wn_dtype dtype) {
    EACH_KIND(k) EACH_LENGTH(n, WN_BLOCK) for (size_t rows = 1; rows <= (n <= SHORT ? 5 : 2); rows++) {
        ptrdiff_t bytes = (ptrdiff_t)(n * size_of(dtype)), strides[] = {bytes, bytes + 13, -bytes - 1, 0};
        for (size_t r = 0; r < rows; r++) /* one in the middle is of the kind */
            fill(source + (ptrdiff_t)r * bytes, dtype, n, r == rows / 2 ? k : NEAR_0, r);
        for (int i = 0; i < 4; i++) try_norm_run(dtype, rows, n, strides[i], (int)(n + rows) % 4);
    }
}

static void test_moments_cols(wn_dtype dtype) {
    EACH_KIND(k) EACH_HEIGHT(rows) EACH_WIDTH(columns) {
        size_t bytes = columns * size_of(dtype);
        fill(source, dtype, rows * columns, k, rows);
        EACH_TRIAL(t, dtype) {
            const void *x_rows[WN_ROWS];
            for (size_t r = 0; r < rows; r++) x_rows[r] = input(&t, source + r * bytes, bytes);
            double *p = states_for(&t, 3 * columns);
            t.kernels->moments_cols(x_rows, rows, columns, &(wn_states){p, p + columns, p + 2 * columns});
            see(p, 3 * columns, WN_f64);
        }
        compare_states(dtype, columns, rows, k);
    }
}

static void test_merge_cols(wn_dtype dtype) {
    EACH_KIND(k) EACH_WIDTH(columns) {
        size_t bytes = 3 * columns * sizeof(double);
        fill(source, WN_f64, 6 * columns, k, columns); /* mean, mean_lo and m2 of a, and of b */
        EACH_TRIAL(t, dtype) {
            double *p = memcpy(states_for(&t, 3 * columns), source, bytes);
            double *q = memcpy(states_for(&t, 3 * columns), source + bytes, bytes);
            wn_states a = {p, p + columns, p + 2 * columns}, b = {q, q + columns, q + 2 * columns};
            t.kernels->merge_cols(&a, 128.0, &b, 3.0, columns);
            see(p, 3 * columns, WN_f64);
            EXPECT(!memcmp(q, source + bytes, bytes));
        }
        compare_with_portable(0.0);
    }
}

static void test_apply_cols(wn_dtype dtype) {
    static char mean_hi[WN_STRIP * sizeof(double)], rstd[sizeof mean_hi], offset[sizeof mean_hi];
    EACH_KIND(k) EACH_HEIGHT(rows) EACH_WIDTH(columns) {
        size_t bytes = columns * size_of(dtype);
        int by_row = (int)(rows + columns) % 2, affine = HAS_WEIGHT | HAS_BIAS;
        fill(source, dtype, rows * columns, k, rows);
        fill(mean_hi, dtype, columns, k < LARGE ? k : NEAR_0, 0);
        for (size_t c = 0; c < columns; c++) {
            set(rstd, c, dtype, k == LARGE ? 1e-30 : 1.5 + noise(c, 3));
            set(offset, c, dtype, k == CONSTANT ? 0.0 : 0.01 * noise(c, 4));
        }
        EACH_TRIAL(t, dtype) {
            const void *x_rows[WN_ROWS];
            void *y_rows[WN_ROWS];
            wn_cols_norm norm = {input(&t, mean_hi, bytes), input(&t, rstd, bytes), input(&t, offset, bytes)};
            const void *weight = parameters_for(&t, affine, HAS_WEIGHT, by_row ? rows : columns);
            const void *bias = parameters_for(&t, affine, HAS_BIAS, by_row ? rows : columns);
            for (size_t r = 0; r < rows; r++)
                place_x_and_y(&t, source + r * bytes, bytes, &x_rows[r], &y_rows[r]);
            t.kernels->apply_cols(x_rows, y_rows, rows, columns, &norm, weight, bias, by_row);
            for (size_t r = 0; r < rows; r++) see(y_rows[r], columns, dtype);
        }
        for (size_t i = 0; i < rows * columns; i++) {
            size_t c = i % columns;
            double xhat = (get(source, i, dtype) - get(mean_hi, c, dtype)) * get(rstd, c, dtype) +
                          get(offset, c, dtype);
            compare_element(dtype, i, by_row ? i / columns : c, xhat, k == CONSTANT ? 0.0 : 0.01, affine);
        }
        compare_with_portable(2 * epsilon_of(dtype));
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
        fill(weights, (wn_dtype)dtype, WN_BLOCK + 1, NEAR_0, 1);
        fill(biases, (wn_dtype)dtype, WN_BLOCK + 1, NEAR_0, 2);
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
