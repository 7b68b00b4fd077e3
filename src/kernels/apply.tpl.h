/* The apply step over contiguous elements. Included once per instruction set and dtype by dtype.tpl.h.
 *
 * y = ((x - mean_hi) * rstd - mean_lo * rstd) * weight + bias, each product fused with its sum. The mean
 * as a pair of compute-type values is what keeps float32 right at any offset: x - mean_hi is exact or
 * nearly so, and what mean_hi lacks comes back in the constant. Weight and bias that do not vary along the
 * row are folded into the first step, which then is the only one. */

typedef struct {
    C mean_hi, rstd, offset;
} FN(norm_c);

typedef struct {
    V mean_hi, rstd, offset;
} FN(norm_v);

static ALWAYS_INLINE FN(norm_c) FN(narrow)(const wn_norm *norm) {
    C mean_hi = (C)norm->mean;
    C mean_lo = (C)((norm->mean - (double)mean_hi) + norm->mean_lo);
    C rstd = (C)norm->rstd;
    return (FN(norm_c)){mean_hi, rstd, -mean_lo * rstd};
}

static ALWAYS_INLINE FN(norm_v) FN(spread)(const FN(norm_c) * norm) {
    return (FN(norm_v)){V_SET(norm->mean_hi), V_SET(norm->rstd), V_SET(norm->offset)};
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

/* The norm with weight and bias folded in: element `at` of each, or what changes nothing. Returns whether
 * that can be had (wn_fold). */
static ALWAYS_INLINE int FN(fold)(const wn_norm *norm, const wn_affine *affine, ptrdiff_t at,
                                  FN(norm_c) * folded) {
    C weight = affine->weight ? FN(parameter)((const C *)affine->weight + at) : 1;
    C bias = affine->bias ? FN(parameter)((const C *)affine->bias + at)
                          : (C)-0.0; /* adds nothing to either zero */
    return FOLD(norm, weight, bias, &folded->mean_hi, &folded->rstd, &folded->offset);
}

/* Rows on their way through the apply step side by side, where they share the loads of weight and bias: all
 * are done up to element i. Their norms, with the parameters folded in if those do not vary along a row. */
typedef struct {
    const T *x[WN_TEAM];
    T *y[WN_TEAM];
    FN(norm_v) norm[WN_TEAM];
    const C *weight, *bias;
    size_t i, n, streamed;    /* up to where whole lines go past the cache, of rows that do */
    ptrdiff_t ahead;          /* bytes from what is summed meanwhile to what is fetched into L1 */
    const T *augend, *addend; /* of the row that is summed meanwhile, if it is yet to be written, */
    T *sum, *kept;            /* here, and kept where it is soon read if it is written past the cache, */
    int past;                 /* how: STAYS, ... */
} FN(team);

/* How a sum goes past the cache: not at all if it is where an addend was read, or its elements are not
 * aligned; a vector at a time, if those are whole lines (of 16 bits no others come: can_stream_sums); else
 * from what is kept, when the row is through. */
enum { FN(STAYS), FN(BY_VECTORS), FN(FROM_KEPT) };

/* What is known of a team when its loop is compiled: how many rows; whether statistics are centred; whether
 * parameters vary along a row (then there is a weight and, if centred, a bias; if not centred they do);
 * where the data are; whether the rows that are summed are yet to be written. Without rows there
 * are sums alone. */
typedef struct {
    size_t rows;
    int centred, vary, reach, adds;
} FN(form);

/* The next vector of every row, or its first `part` elements. */
static ALWAYS_INLINE void FN(apply_team)(FN(team) * team, size_t part, FN(form) form) {
    size_t i = team->i;
    V w, b;
    if (form.vary) w = part ? V_LOAD_PART_C(team->weight + i, part) : V_LOAD_C(team->weight + i);
    if (form.vary && form.centred) b = part ? V_LOAD_PART_C(team->bias + i, part) : V_LOAD_C(team->bias + i);
    UNROLL for (size_t r = 0; r < form.rows; r++) {
        const T *x = team->x[r] + i;
        T *y = team->y[r] + i;
        V v = part ? V_LOAD_PART(x, part) : V_LOAD(x);
        v = form.centred ? FN(normalize)(v, &team->norm[r]) : v * team->norm[r].rstd;
        if (form.vary) v = form.centred ? V_FMA(v, w, b) : v * w;
        if (part && form.reach == EDGE)
            V_STORE_HEAD(y, v, part);
        else if (part)
            V_STORE_PART(y, v, part);
        else if (form.reach == PAST)
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
    if (step == 0 || (form.reach == PAST && team->i + unit > team->streamed)) return;
    /* a result's line comes from as far as x does before it is written */
    for (size_t byte = 0; form.reach == FAR && byte < unit * sizeof(T); byte += 64)
        PREFETCH_L2((const char *)(team->y[0] + i) + PAGE_AHEAD + byte);
    UNROLL for (size_t done = 0; done + step <= unit; done += step) FN(apply_team)(team, 0, form);
    if (step > unit && (i & LANES)) FN(apply_team)(team, 0, form); /* every other time */
}

/* Elements of a line; those of a row before its first whole line, all if it has none; and where its last
 * whole line ends, if `head` are before the first. */
enum { FN(LINE) = 64 / sizeof(T) };

static inline size_t FN(line_head)(const T *y, size_t n) {
    size_t head = (size_t)(-(uintptr_t)y % 64) / sizeof(T);
    return head < n ? head : n;
}

static inline size_t FN(lines_end)(size_t head, size_t n) { return head + (n - head) / FN(LINE) * FN(LINE); }

/* Of rows that stream, `stride` bytes apart, fetches the line where a later one begins, if it begins within
 * one: that line is stored, and stores that miss wait one after the other. */
static inline void FN(fetch_end)(const void *y, ptrdiff_t stride, size_t n) {
    enum { A_WHILE = 1024 }; /* elements */
    uintptr_t later = (uintptr_t)y + (uintptr_t)((ptrdiff_t)(1 + A_WHILE / n) * stride);
    if (later % 64 != 0) PREFETCH((const void *)later);
}

/* A row that streams goes line by line; what it has of its first and its last one is stored. No store may lie
 * across a line that goes past the cache, not even by masked elements: it would be fetched from memory. */
static ALWAYS_INLINE void FN(start_team)(FN(team) * team, FN(form) form) {
    if (form.reach != PAST) return;
    size_t head = FN(line_head)(team->y[0], team->n), part = head % V_N;
    team->streamed = FN(lines_end)(head, team->n);
    form.reach = EDGE;
    if (part) FN(apply_team)(team, part, form);
    team->i = part;
    UNROLL_NONE while (V_N < FN(LINE) && team->i < head) FN(apply_team)(team, 0, form);
}

/* What the sums have left of it. */
static ALWAYS_INLINE void FN(finish_team)(FN(team) * team, FN(form) form) {
    if (form.reach == PAST && V_N < FN(LINE)) {
        UNROLL_NONE while (team->i < team->streamed) FN(apply_team)(team, 0, form);
        form.reach = NEAR;
    }
    while (team->i + V_N <= team->n) FN(apply_team)(team, 0, form);
    if (team->i < team->n) FN(apply_team)(team, team->n - team->i, form);
}

/* What becomes of the vector at element i, or of its first `part` elements. */
static ALWAYS_INLINE V FN(result)(const T *x, size_t i, size_t part, const FN(norm_v) * norm,
                                  const wn_affine *affine, int has_weight, int has_bias) {
    const C *weight = affine->weight, *bias = affine->bias;
    V v = FN(normalize)(part ? V_LOAD_PART(x + i, part) : V_LOAD(x + i), norm), w, b;
    if (has_weight) w = part ? V_LOAD_PART_C(weight + i, part) : V_LOAD_C(weight + i);
    if (has_bias) b = part ? V_LOAD_PART_C(bias + i, part) : V_LOAD_C(bias + i);
    if (has_bias) return has_weight ? V_FMA(v, w, b) : v + b;
    return has_weight ? v * w : v;
}

/* One combination of weight and bias, varying along the row or not there: the flags are constants at each
 * call, so each becomes a loop of its own. */
static ALWAYS_INLINE void FN(apply_with)(const T *x, T *y, size_t n, FN(norm_v) nv, const wn_affine *affine,
                                         int has_weight, int has_bias) {
    const wn_affine of_row = *affine; /* which nothing that is written can change */
    size_t i = 0;
#define RESULT(part) FN(result)(x, i, part, &nv, &of_row, has_weight, has_bias)
    if (affine->stream && (uintptr_t)y % sizeof(T) == 0) { /* line by line, as teams do */
        size_t head = FN(line_head)(y, n), end = FN(lines_end)(head, n);
        i = head % V_N;
        if (i) V_STORE_HEAD(y, FN(result)(x, 0, i, &nv, &of_row, has_weight, has_bias), i);
        UNROLL_NONE for (; i < head; i += V_N) V_STORE(y + i, RESULT(0));
        UNROLL_LITTLE for (; i < end; i += V_N) V_STREAM(y + i, RESULT(0));
    }
    if (i == 0 && affine->l1 >= WN_MORE_L1 && V_N == FN(LINE) && n > 2 * V_N) {
        /* Stores of vectors as long as lines are to lie in one each. */
        i = FN(line_head)(y, n) % V_N;
        if (i) V_STORE_HEAD(y, FN(result)(x, 0, i, &nv, &of_row, has_weight, has_bias), i);
    }
    UNROLL_APPLY for (; i + V_N <= n; i += V_N) V_STORE(y + i, RESULT(0));
    if (i < n) V_STORE_PART(y + i, RESULT(n - i), n - i);
#undef RESULT
}

/* Any combination, an activation and another type of result too. */
static WN_ONE_COPY void FN(apply_any)(const T *x, void *y, size_t n, const FN(norm_c) * norm,
                                      const wn_affine *affine) {
    const C *weight = affine->weight, *bias = affine->bias;
    int vary = affine->advance;
    FN(norm_v) nv = FN(spread)(norm);
    V w = V_SET(!vary && weight ? FN(parameter)(weight) : 1);
    V b = V_SET(!vary && bias ? FN(parameter)(bias) : (C)-0.0); /* adds nothing to either zero */
    for (size_t i = 0; i < n; i += V_N) {
        size_t part = n - i < V_N ? n - i : 0;
        if (vary && weight) w = part ? V_LOAD_PART_C(weight + i, part) : V_LOAD_C(weight + i);
        if (vary && bias) b = part ? V_LOAD_PART_C(bias + i, part) : V_LOAD_C(bias + i);
        V v = FN(normalize)(part ? V_LOAD_PART(x + i, part) : V_LOAD(x + i), &nv);
        v = V_FMA(v, w, b);
        if (affine->activation) v = ACTIVATE(v, affine->activation);
        if (affine->to_compute && part)
            V_STORE_PART_C((C *)y + i, v, part);
        else if (affine->to_compute)
            V_STORE_C((C *)y + i, v);
        else if (part)
            V_STORE_PART((T *)y + i, v, part);
        else
            V_STORE((T *)y + i, v);
    }
}

/* Whether there is nothing but the affine step, and the result is of x's dtype. */
static ALWAYS_INLINE int FN(is_plain)(const wn_affine *affine) {
    return !affine->activation && !(IS_16BIT && affine->to_compute);
}

static WN_NOINLINE void FN(apply_folded)(const void *x, void *y, size_t n, const FN(norm_c) * norm,
                                         const wn_affine *affine) {
    if (FN(is_plain)(affine))
        FN(apply_with)(x, y, n, FN(spread)(norm), affine, 0, 0);
    else
        FN(apply_any)(x, y, n, norm, affine);
}

static void FN(apply_runs)(const void *x, ptrdiff_t x_stride, void *y, ptrdiff_t y_stride, size_t run_count,
                           size_t n, const wn_cols_norm *norm, const wn_affine *affine) {
    const C *mean_hi = norm->mean_hi, *rstd = norm->rstd, *offset = norm->offset;
    for (size_t r = 0; r < run_count; r++) {
        const FN(norm_c) of_run = {mean_hi[r], rstd[r], offset[r]};
        if (affine->stream) FN(fetch_end)((char *)y + (ptrdiff_t)r * y_stride, y_stride, n);
        FN(apply_folded)((const char *)x + (ptrdiff_t)r * x_stride, (char *)y + (ptrdiff_t)r * y_stride, n,
                         &of_run, affine);
    }
}

static WN_NOINLINE void FN(apply_run)(const void *x, void *y, size_t n, const wn_norm *norm,
                                      const wn_affine *affine) {
    int vary = affine->advance && (affine->weight || affine->bias);
    FN(norm_c) ready;
    if (!vary && FN(fold)(norm, affine, 0, &ready)) {
        wn_affine rest = *affine;
        rest.weight = rest.bias = NULL;
        FN(apply_folded)(x, y, n, &ready, &rest);
        return;
    }
    ready = FN(narrow)(norm);
    if (!FN(is_plain)(affine) || !vary)
        FN(apply_any)(x, y, n, &ready, affine);
    else if (affine->weight && affine->bias)
        FN(apply_with)(x, y, n, FN(spread)(&ready), affine, 1, 1);
    else if (affine->weight)
        FN(apply_with)(x, y, n, FN(spread)(&ready), affine, 1, 0);
    else
        FN(apply_with)(x, y, n, FN(spread)(&ready), affine, 0, 1);
}

/* Copies a row past the cache, line by line. */
static WN_NOINLINE void FN(stream_row)(const T *from, T *to, ptrdiff_t stride, size_t n) {
    size_t head = FN(line_head)(to, n), end = FN(lines_end)(head, n), i = head % V_N;
    FN(fetch_end)(to, stride, n);
    if (i) V_STORE_HEAD(to, V_LOAD_PART(from, i), i);
    UNROLL_NONE for (; i < head; i += V_N) V_STORE(to + i, V_LOAD(from + i));
    UNROLL_LITTLE for (; i < end; i += V_N) V_STREAM(to + i, V_LOAD(from + i));
    UNROLL_NONE for (; i + V_N <= n; i += V_N) V_STORE(to + i, V_LOAD(from + i));
    if (i < n) V_STORE_PART(to + i, V_LOAD_PART(from + i, n - i), n - i);
}

/* What was streamed is there for others. */
static void FN(stream_end)(void) { v_stream_end(); }

static void FN(add)(const void *a, const void *b, void *sum, size_t n) {
    const T *p = a, *q = b;
    T *to = sum;
    size_t i = 0;
    UNROLL_APPLY for (; i + V_N <= n; i += V_N) V_STORE(to + i, V_LOAD(p + i) + V_LOAD(q + i));
    if (i < n) V_STORE_PART(to + i, V_LOAD_PART(p + i, n - i) + V_LOAD_PART(q + i, n - i), n - i);
}
