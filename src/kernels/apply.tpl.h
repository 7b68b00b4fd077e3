/* The apply step over contiguous elements. Included once per instruction set and dtype by dtype.tpl.h.
 *
 * y = ((x - mean_hi) * rstd - mean_lo * rstd) * weight + bias, each product fused with its sum. The mean
 * as a pair of compute-type values is what keeps float32 right at any offset: x - mean_hi is exact or
 * nearly so, and what mean_hi lacks comes back in the constant. */

typedef struct {
    V mean_hi, rstd, offset;
} FN(norm_v);

static inline FN(norm_v) FN(spread)(const wn_norm *norm) {
    C mean_hi = (C)norm->mean;
    C mean_lo = (C)((norm->mean - (double)mean_hi) + norm->mean_lo);
    C rstd = (C)norm->rstd;
    return (FN(norm_v)){V_SET(mean_hi), V_SET(rstd), V_SET(-mean_lo * rstd)};
}

static inline V FN(normalize)(V x, const FN(norm_v) * norm) {
    return V_FMA(x - norm->mean_hi, norm->rstd, norm->offset);
}

/* With the parameters from element `at` on. */
static inline wn_affine FN(affine_from)(const wn_affine *affine, ptrdiff_t at) {
    wn_affine from = *affine;
    if (affine->weight) from.weight = (const C *)affine->weight + at;
    if (affine->bias) from.bias = (const C *)affine->bias + at;
    return from;
}

/* One parameter, from an address that may not be aligned. */
static inline C FN(parameter)(const C *p) {
    C value;
    memcpy(&value, p, sizeof value);
    return value;
}

/* Rows on their way through the apply step side by side, where they share the loads of weight and bias: all
 * are done up to element i. Their norms and, if those do not vary along a row, their parameters. */
enum { FN(MOST_ROWS) = 4 };

typedef struct {
    const T *x[FN(MOST_ROWS)];
    T *y[FN(MOST_ROWS)];
    FN(norm_v) norm[FN(MOST_ROWS)];
    V w[FN(MOST_ROWS)], b[FN(MOST_ROWS)];
    const C *weight, *bias;
    size_t i, n;
    const T *augend, *addend; /* of the row that is summed meanwhile, if it is yet to be written, */
    T *sum, *kept;            /* here, and kept where it is soon read if it is written past the cache, */
    int past;                 /* as far as lines allow */
} FN(team);

/* What is known of a team when its loop is compiled: how many rows; whether parameters vary along a row and,
 * if so, whether there is a bias; whether results are streamed; whether the rows that are summed are yet to
 * be written. */
typedef struct {
    size_t rows;
    int vary, has_bias, stream, adds;
} FN(form);

/* The next vector of every row, or its first `part` elements. */
static ALWAYS_INLINE void FN(apply_team)(FN(team) * team, size_t part, FN(form) form) {
    size_t i = team->i;
    V w, b;
    if (form.vary) w = part ? V_LOAD_PART_C(team->weight + i, part) : V_LOAD_C(team->weight + i);
    if (form.vary && form.has_bias) b = part ? V_LOAD_PART_C(team->bias + i, part) : V_LOAD_C(team->bias + i);
    UNROLL for (size_t r = 0; r < form.rows; r++) {
        const T *x = team->x[r] + i;
        T *y = team->y[r] + i;
        V v = FN(normalize)(part ? V_LOAD_PART(x, part) : V_LOAD(x), &team->norm[r]);
        if (!form.vary)
            v = V_FMA(v, team->w[r], team->b[r]);
        else
            v = form.has_bias ? V_FMA(v, w, b) : v * w;
        if (part)
            V_STORE_PART(y, v, part);
        else if (form.stream)
            V_STREAM(y, v);
        else
            V_STORE(y, v);
    }
    team->i += V_N;
}

/* The share of a team's apply step that goes with the sums of `unit` elements from element i on, so that rows
 * are through when as many are summed; sooner if they did not start at element 0. */
static ALWAYS_INLINE void FN(weave)(FN(team) * team, size_t i, size_t unit, FN(form) form) {
    size_t step = form.rows * V_N;
    if (form.stream && team->i + (unit > step ? unit / form.rows : V_N) > team->n) return;
    UNROLL for (size_t done = 0; done + step <= unit; done += step) FN(apply_team)(team, 0, form);
    if (step > unit && (i & LANES)) FN(apply_team)(team, 0, form); /* every other time */
}

/* Parameters of the team's row k that do not vary along it: element `at`, or what changes nothing. */
static ALWAYS_INLINE void FN(set_scalars)(FN(team) * team, size_t k, ptrdiff_t at) {
    static const C one = 1, zero = (C)-0.0; /* adds nothing to either zero */
    team->w[k] = V_SET(FN(parameter)(team->weight ? team->weight + at : &one));
    team->b[k] = V_SET(FN(parameter)(team->bias ? team->bias + at : &zero));
}

/* A team that streams goes from an aligned address on: its rows lie alike. */
static ALWAYS_INLINE void FN(start_team)(FN(team) * team, FN(form) form) {
    size_t head = (size_t)(-(uintptr_t)team->y[0] % (V_N * sizeof(T))) / sizeof(T);
    if (!form.stream || head == 0) return;
    FN(apply_team)(team, head < team->n ? head : team->n, form);
    team->i = head;
}

/* What the sums have left of it. */
static ALWAYS_INLINE void FN(finish_team)(FN(team) * team, FN(form) form) {
    while (team->i + V_N <= team->n) FN(apply_team)(team, 0, form);
    if (team->i < team->n) FN(apply_team)(team, team->n - team->i, form);
}

/* What becomes of a vector, or of a part of one: `part` elements, 0 for all. */
static ALWAYS_INLINE V FN(result)(const T *x, size_t part, const FN(norm_v) * norm, const wn_affine *affine,
                                  V w, V b, int has_weight, int has_bias, int is_plain) {
    V v = FN(normalize)(part ? V_LOAD_PART(x, part) : V_LOAD(x), norm);
    v = has_bias ? V_FMA(v, w, b) : has_weight ? v * w : v;
    if (!is_plain && affine->activation) v = ACTIVATE(v, affine->activation);
    return v;
}

/* One combination of weight and bias, present or not, per element or not: the flags are constants at each
 * call, so each becomes a loop of its own. Any activation and another type of result are one more. */
static ALWAYS_INLINE void FN(apply_with)(const T *x, void *to, size_t n, const wn_norm *norm,
                                         const wn_affine *affine, int has_weight, int has_bias, int vary,
                                         int is_plain) {
    static const C one = 1, zero = (C)-0.0; /* adds nothing to either zero */
    const C *weight = affine->weight ? affine->weight : &one, *bias = affine->bias ? affine->bias : &zero;
    FN(norm_v) nv = FN(spread)(norm);
    V w = V_SET(has_weight ? FN(parameter)(weight) : 1), b = V_SET(has_bias ? FN(parameter)(bias) : zero);
    size_t i = 0, part;
#define LOAD_PARAMETERS                                                                                      \
    if (has_weight && vary && (is_plain || affine->weight))                                                  \
        w = part ? V_LOAD_PART_C(weight + i, part) : V_LOAD_C(weight + i);                                   \
    if (has_bias && vary && (is_plain || affine->bias))                                                      \
        b = part ? V_LOAD_PART_C(bias + i, part) : V_LOAD_C(bias + i);
    if (is_plain && affine->stream && (uintptr_t)to % sizeof(T) == 0) {
        part = (size_t)(-(uintptr_t)to % (V_N * sizeof(T))) / sizeof(T); /* up to an aligned address */
        if (part > n) part = n;
        if (part) {
            LOAD_PARAMETERS
            V_STORE_PART((T *)to, FN(result)(x, part, &nv, affine, w, b, has_weight, has_bias, 1), part);
        }
        i = part, part = 0;
        UNROLL_LITTLE for (; i + V_N <= n; i += V_N) {
            LOAD_PARAMETERS
            V_STREAM((T *)to + i, FN(result)(x + i, 0, &nv, affine, w, b, has_weight, has_bias, 1));
        }
    }
    part = 0;
    UNROLL_APPLY for (; i + V_N <= n; i += V_N) {
        LOAD_PARAMETERS
        V v = FN(result)(x + i, 0, &nv, affine, w, b, has_weight, has_bias, is_plain);
        if (is_plain || !affine->to_compute)
            V_STORE((T *)to + i, v);
        else
            V_STORE_C((C *)to + i, v);
    }
    if (i < n) {
        part = n - i;
        LOAD_PARAMETERS
        V v = FN(result)(x + i, part, &nv, affine, w, b, has_weight, has_bias, is_plain);
        if (is_plain || !affine->to_compute)
            V_STORE_PART((T *)to + i, v, part);
        else
            V_STORE_PART_C((C *)to + i, v, part);
    }
#undef LOAD_PARAMETERS
}

static WN_NOINLINE void FN(apply_run)(const void *x, void *y, size_t n, const wn_norm *norm,
                                      const wn_affine *affine) {
    if (affine->activation || (IS_16BIT && affine->to_compute)) {
        if (affine->advance)
            FN(apply_with)(x, y, n, norm, affine, 1, 1, 1, 0);
        else
            FN(apply_with)(x, y, n, norm, affine, 1, 1, 0, 0);
    } else if (!affine->weight && !affine->bias)
        FN(apply_with)(x, y, n, norm, affine, 0, 0, 0, 1);
    else if (!affine->advance)
        FN(apply_with)(x, y, n, norm, affine, 1, 1, 0, 1);
    else if (affine->weight && affine->bias)
        FN(apply_with)(x, y, n, norm, affine, 1, 1, 1, 1);
    else if (affine->weight)
        FN(apply_with)(x, y, n, norm, affine, 1, 0, 1, 1);
    else
        FN(apply_with)(x, y, n, norm, affine, 0, 1, 1, 1);
}

/* What was streamed is there for others. */
static void FN(stream_end)(void) { v_stream_end(); }

static void FN(add)(const void *a, const void *b, void *sum, size_t n) {
    const T *p = a, *q = b;
    T *to = sum;
    size_t i = 0;
    UNROLL for (; i + V_N <= n; i += V_N) V_STORE(to + i, V_LOAD(p + i) + V_LOAD(q + i));
    if (i < n) V_STORE_PART(to + i, V_LOAD_PART(p + i, n - i) + V_LOAD_PART(q + i, n - i), n - i);
}
