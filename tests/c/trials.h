/* Calls of a kernel with its arguments at each kind of place, and their data. Part of test_kernels.c, for its
 * length. */

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
enum { CHUNK = 1 << 19, CHUNKS = 2 * WN_ROWS + 8 };
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
static wn_dtype result_of(wn_dtype dtype, result_type type) {
    return type == TO_COMPUTE ? compute_of(dtype) : dtype;
}

/* Of the arithmetic that makes the dtype. */
static double epsilon_of(wn_dtype dtype) { return storage_epsilon(compute_of(dtype)); }
static double least_of(wn_dtype dtype) { /* the last place of subnormal numbers */
    static const double least[] = {
        [WN_f32] = 0x1p-149, [WN_f64] = 0x1p-1074, [WN_f16] = 0x1p-24, [WN_bf16] = 0x1p-133};
    return least[dtype];
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

/* Streamed in every other trial, and of the others every other one far; with a larger L1 in four out of
 * eight, which changes no bit. */
static wn_affine affine_for(trial *t, int affine, size_t n, wn_activation activation, result_type type) {
    size_t turn = (size_t)t->place + (size_t)t->table + n;
    int stream = turn % 2 && type == TO_STORAGE && !activation;
    const void *weight = parameters_for(t, affine, HAS_WEIGHT, n);
    return (wn_affine){.weight = weight,
                       .bias = parameters_for(t, affine, HAS_BIAS, n),
                       .advance = !(affine & IS_SCALAR),
                       .activation = activation,
                       .to_compute = type == TO_COMPUTE,
                       .stream = stream,
                       .far = !stream && turn / 2 % 2,
                       .l1 = turn / 4 % 2 ? 49152 : 0};
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

/* Squares of float32 data may lose 20 bits before deviations are taken. */
#define EXACT_DIGITS 0x1p-28

/* After the trials: each column's n deviations add up to nothing, and their squares to M2. Means are the same
 * with FMA, as plain sums know none; M2 may be off by `share` of itself. */
static void compare_states(wn_dtype dtype, size_t columns, size_t n, kind k, int centred, double share) {
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
            EXPECT((!centred || fabs(sum) <= 0x1p-28 * size) && fabs(m2 - square) <= share * square);
        EXPECT(expected[0][3 * columns + c] == 0.0 && expected[1][3 * columns + c] == 0.0); /* m2_lo */
        sizes[c] = sizes[columns + c] = sizes[3 * columns + c] = 0.0;
        sizes[2 * columns + c] = m2;
    }
    compare_with_portable(dtype == WN_f64 ? 8 * DBL_EPSILON : share > EXACT_DIGITS ? share : 0x1p-30);
}
