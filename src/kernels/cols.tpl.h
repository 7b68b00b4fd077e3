/* Statistics and apply down the rows, a column at a time in each vector lane. Included once per
 * instruction set and dtype by dtype.tpl.h. A column's order of summation is its rows' order: it depends
 * neither on the vector width nor on the columns beside it. */

/* Rows that one vector of columns (or WIDE of them side by side, 16 registers of sums where there are 32)
 * takes before the next: all where WIDE hold a row, else few, so that whole cache lines are used before they
 * leave L1. The hardware does not follow as many rows, so the next ones are fetched meanwhile. */
enum {
    FN(WIDE) = V_F64 >= 8 ? 8 : 4,
    FN(SHORT_ROW) = FN(WIDE) * V_F64,
    FN(LEAST_BAND) = 4,
    FN(MOST_BAND) = 32,
    FN(BAND_BYTES) = 12288, /* more, with as many that are fetched, would fill L1 */
    FN(MOST_AHEAD) = 32768
};

typedef struct {
    size_t rows;
    ptrdiff_t ahead; /* bytes */
} FN(band);

static inline FN(band) FN(band_of)(const void *const *rows, size_t row_count, size_t columns) {
    FN(band) band = {row_count, AHEAD};
    if (columns <= FN(SHORT_ROW) || row_count < 2 * FN(LEAST_BAND)) return band;
    ptrdiff_t stride = (const char *)rows[1] - (const char *)rows[0], length = stride < 0 ? -stride : stride;
    band.rows = FN(LEAST_BAND);
    while (band.rows < FN(MOST_BAND) && 2 * band.rows <= row_count &&
           2 * (ptrdiff_t)band.rows * length <= FN(BAND_BYTES))
        band.rows *= 2;
    length *= (ptrdiff_t)band.rows;
    if (length > AHEAD && length <= FN(MOST_AHEAD)) band.ahead = (ptrdiff_t)band.rows * stride;
    return band;
}

static ALWAYS_INLINE void FN(fetch)(const T *x, ptrdiff_t ahead) {
    PREFETCH_L2((const char *)x + FAR_AHEAD);
    PREFETCH((const char *)x + ahead);
}

/* Sums of deviations, of their squares, and what rounding lost of those, per column. */
typedef struct {
    double shift[WN_STRIP], sum[WN_STRIP], square[WN_STRIP], lost[WN_STRIP];
} FN(columns);

/* A vector of parameters or sums; part is the number of columns in one that is not full, else 0. */
static ALWAYS_INLINE v_f64 FN(load_columns)(const double *p, size_t part) {
    return part ? v_load_part_f64(p, part) : v_load_f64(p);
}

static ALWAYS_INLINE void FN(store_columns)(double *p, v_f64 v, size_t part) {
    if (part)
        v_store_part_f64(p, v, part);
    else
        v_store_f64(p, v);
}

/* Adds a band of rows in `vectors` vectors of columns at c; the sums stay in registers. */
static ALWAYS_INLINE void FN(add_rows)(const void *const *rows, FN(band) band, size_t c, size_t vectors,
                                       size_t part, int shifted, FN(columns) * to) {
    v_f64 s[FN(WIDE)], q[FN(WIDE)], lost[FN(WIDE)], shift[FN(WIDE)];
    UNROLL for (size_t v = 0; v < vectors; v++) {
        size_t at = c + v * V_F64;
        s[v] = FN(load_columns)(to->sum + at, part), q[v] = FN(load_columns)(to->square + at, part);
        if (IS_FLOAT64) lost[v] = FN(load_columns)(to->lost + at, part);
        if (shifted) shift[v] = FN(load_columns)(to->shift + at, part);
    }
    for (size_t r = 0; r < band.rows; r++) {
        UNROLL for (size_t v = 0; v < vectors; v++) {
            const T *x = (const T *)rows[r] + c + v * V_F64;
            if (v * V_F64 * sizeof(T) % 64 == 0) FN(fetch)(x, band.ahead); /* once a line */
            v_f64 d;
            if (part)
                d = V_WIDE_PART(x, part, 0.0);
            else
                d = V_WIDE(x);
            if (shifted) d -= shift[v];
            v_f64 sum = FN(sum_with)(d, s[v]);
            v_order_f64(&d, &sum); /* squares first keep pipes waiting */
            s[v] = sum;
            FN(add_square)(d, &q[v], &lost[v]);
        }
    }
    UNROLL for (size_t v = 0; v < vectors; v++) {
        size_t at = c + v * V_F64;
        FN(store_columns)(to->sum + at, s[v], part);
        FN(store_columns)(to->square + at, q[v], part);
        if (IS_FLOAT64) FN(store_columns)(to->lost + at, lost[v], part);
    }
}

static ALWAYS_INLINE void FN(add_block)(const void *const *rows, size_t row_count, size_t columns,
                                        int shifted, FN(columns) * to) {
    FN(band) band = FN(band_of)(rows, row_count, columns);
    size_t most = band.rows;
    memset(to->sum, 0, columns * sizeof *to->sum);
    memset(to->square, 0, columns * sizeof *to->square);
    if (IS_FLOAT64) memset(to->lost, 0, columns * sizeof *to->lost);
    for (size_t row = 0; row < row_count; row += band.rows) {
        if (row_count - row < most) band.rows = row_count - row;
        size_t c = 0;
#define ADD(vectors)                                                                                         \
    for (; c + (vectors) * V_F64 <= columns; c += (vectors) * V_F64)                                         \
    FN(add_rows)(rows + row, band, c, vectors, 0, shifted, to)
        if (!shifted && FN(WIDE) > 4) ADD(FN(WIDE)); /* but for float64, a second sum is rare: less code */
        ADD(4);
        if (!shifted || IS_FLOAT64) ADD(2);
        ADD(1);
#undef ADD
        if (c < columns) FN(add_rows)(rows + row, band, c, 1, columns - c, shifted, to);
    }
    if (IS_FLOAT64)
        for (size_t c = 0; c < columns; c++) to->square[c] += to->lost[c];
}

/* Moves poor shifts to the first element, or from there to the mean, and sums again. The other columns keep
 * their shift and so their bits: a column does not depend on its neighbours. Returns whether there was any.
 */
static int FN(shift_columns)(const void *const *rows, size_t row_count, size_t columns, int to_mean,
                             FN(columns) * to) {
    double inverse_count = 1.0 / (double)row_count;
    int any = 0;
    for (size_t c = 0; c < columns; c++) {
        FN(sums) s = {to->sum[c], to->square[c]};
        if (!IS_FLOAT64 && !FN(is_poor_shift)(s, inverse_count)) continue;
        double shift = to_mean ? to->shift[c] + s.sum * inverse_count : FN(first_of)((const T *)rows[0] + c);
        if (fabs(shift) <= DBL_MAX) to->shift[c] = shift; /* else inf must stay in the sums */
        any = 1;
    }
    if (any) FN(add_block)(rows, row_count, columns, 1, to);
    return any;
}

static ALWAYS_INLINE v_i64 FN(is_finite)(v_f64 v) { return V_WHERE(v <= DBL_MAX) & V_WHERE(v >= -DBL_MAX); }

/* The block's statistics from sums about 0, as the scalar steps of moments_cols make them, if they are good
 * for every column: returns whether they are. */
static int FN(states_about_0)(const FN(columns) * to, size_t row_count, size_t columns,
                              const wn_states *block) {
    double inverse_count = 1.0 / (double)row_count;
    v_i64 any = {0};
    for (size_t c = 0; c < columns; c += V_F64) {
        size_t part = columns - c < V_F64 ? columns - c : 0;
        v_f64 sum = FN(load_columns)(to->sum + c, part), square = FN(load_columns)(to->square + c, part);
        v_f64 mean = sum * inverse_count, excess = sum * mean, m2 = square - excess;
        any |= V_WHERE(excess > MAX_EXCESS * m2);
        FN(store_columns)(block->mean + c, mean + 0.0, part); /* not -0 */
        FN(store_columns)(block->m2 + c, v_select_f64(V_WHERE(m2 < 0.0), v_set_f64(0.0), m2), part);
    }
    for (size_t c = 0; c < columns; c++) block->mean_lo[c] = 0.0;
    return !v_any_i64(any);
}

static void FN(moments_cols)(const void *const *rows, size_t row_count, size_t columns, int centred,
                             const wn_states *block) {
    FN(columns) to;
    double inverse_count = 1.0 / (double)row_count;
    for (size_t c = 0; c < columns; c++) block->m2_lo[c] = 0.0;
    if (!IS_FLOAT64 || !centred) FN(add_block)(rows, row_count, columns, 0, &to);
    if (!IS_FLOAT64 && centred && FN(states_about_0)(&to, row_count, columns, block)) return;
    for (size_t c = 0; c < columns; c++) to.shift[c] = 0.0;
    if (IS_FLOAT64 && centred) memset(to.sum, 0, columns * sizeof *to.sum);
    if (!centred) {
        for (size_t c = 0; c < columns; c++) block->mean[c] = block->mean_lo[c] = 0.0;
        memcpy(block->m2, to.square, columns * sizeof *to.square);
        for (size_t c = 0; c < columns; c++) {
            if (!IS_FLOAT64 || to.square[c] == to.square[c]) continue;
            const void *elements[WN_ROWS];
            for (size_t r = 0; r < row_count; r++) elements[r] = (const T *)rows[r] + c;
            block->m2[c] = FN(plain_squares)(elements, row_count, 1);
        }
        return;
    }
    if (FN(shift_columns)(rows, row_count, columns, 0, &to))
        FN(shift_columns)(rows, row_count, columns, 1, &to);
    for (size_t c = 0; c < columns; c++) {
        double m2 = to.square[c] - FN(excess)((FN(sums)){to.sum[c], to.square[c]}, inverse_count);
        wn_two_sum(to.shift[c], to.sum[c] * inverse_count, &block->mean[c], &block->mean_lo[c]);
        block->m2[c] = m2 < 0.0 ? 0.0 : m2;
    }
}

/* wn_two_sum and wn_merge_into of state.h for vectors: the same operations, so the same bits. */
static ALWAYS_INLINE v_f64 FN(two_sum_of)(v_f64 a, v_f64 b, v_f64 *error) {
    v_f64 sum = a + b, b_part = sum - a, lost = (a - (sum - b_part)) + (b - b_part);
    *error = v_select_f64(FN(is_finite)(sum), lost, v_set_f64(0.0));
    return sum;
}

static void FN(merge_cols)(const wn_states *a, double a_count, const wn_states *b, double b_count,
                           size_t columns) {
    double b_share = b_count / (a_count + b_count), share = a_count * b_share;
    for (size_t c = 0; c < columns; c += V_F64) {
        size_t part = columns - c < V_F64 ? columns - c : 0;
        v_f64 mean = FN(load_columns)(a->mean + c, part), mean_lo = FN(load_columns)(a->mean_lo + c, part);
        v_f64 b_mean = FN(load_columns)(b->mean + c, part), error;
        v_f64 delta = (b_mean - mean) + (FN(load_columns)(b->mean_lo + c, part) - mean_lo);
        v_f64 m2 = FN(load_columns)(a->m2 + c, part) + FN(load_columns)(b->m2 + c, part);
        FN(store_columns)(a->m2 + c, m2 + (delta * delta) * share, part);
        v_f64 sum = FN(two_sum_of)(mean, delta * b_share, &error);
        sum = FN(two_sum_of)(sum, mean_lo + error, &error);
        v_i64 finite = FN(is_finite)(delta);
        FN(store_columns)(a->mean + c, v_select_f64(finite, sum, mean + b_mean), part);
        FN(store_columns)(a->mean_lo + c, v_select_f64(finite, error, v_set_f64(0.0)), part);
    }
}

/* Where weight and bias of the apply step are: folded into the norm, one for each column or for each row. */
typedef enum { FN(FOLDED), FN(BY_COLUMN), FN(BY_ROW) } FN(parameters);

/* Rows that go through the apply step abreast and share the loads of parameters. Rows as long as a page would
 * lie alike to it, both and their results; and rows that are streamed go one after the other, in the order of
 * memory: two at a time take half as long again. Where L1 is larger, rows go
 * abreast in 16 bits and in place alone: else one by one is faster. */
enum { FN(ABREAST) = 2 };

typedef struct {
    const T *x[FN(ABREAST)], *next[FN(ABREAST)]; /* and the rows to fetch meanwhile */
    void *y[FN(ABREAST)];
    V w[FN(ABREAST)], b[FN(ABREAST)]; /* one for each row, if they are */
} FN(abreast);

/* The vector of columns at c, or its first `part` ones. */
static ALWAYS_INLINE void FN(apply_columns)(const FN(abreast) * rows, size_t count, size_t c, size_t part,
                                            const wn_cols_norm *norm, const wn_affine *affine,
                                            FN(parameters) parameters, int is_plain, int stream) {
#define LOAD_PARAMETERS(p) (part ? V_LOAD_PART_C((const C *)(p) + c, part) : V_LOAD_C((const C *)(p) + c))
    FN(norm_v)
    nv = {LOAD_PARAMETERS(norm->mean_hi), LOAD_PARAMETERS(norm->rstd), LOAD_PARAMETERS(norm->offset)};
    V w, b;
    if (parameters == FN(BY_COLUMN)) w = LOAD_PARAMETERS(affine->weight), b = LOAD_PARAMETERS(affine->bias);
#undef LOAD_PARAMETERS
    UNROLL for (size_t r = 0; r < count; r++) {
        const T *x = rows->x[r] + c;
        T *y = (T *)rows->y[r] + c;
        if (is_plain && !stream && !part) PREFETCH((const char *)(rows->next[r] + c));
        V v = FN(normalize)(part ? V_LOAD_PART(x, part) : V_LOAD_HALVES(x), &nv);
        if (parameters == FN(BY_COLUMN)) v = V_FMA(v, w, b);
        if (parameters == FN(BY_ROW)) v = V_FMA(v, rows->w[r], rows->b[r]);
        if (!is_plain && affine->activation) v = ACTIVATE(v, affine->activation);
        if (!is_plain && affine->to_compute) {
            C *wide = (C *)rows->y[r] + c;
            if (part)
                V_STORE_PART_C(wide, v, part);
            else
                V_STORE_C(wide, v);
        } else if (part && stream) { /* before what is streamed */
            V_STORE_HEAD(y, v, part);
        } else if (part) {
            V_STORE_PART(y, v, part);
        } else if (stream) {
            FN(fetch)(x, AHEAD);
            V_STREAM(y, v);
        } else {
            V_STORE(y, v);
        }
    }
}

static ALWAYS_INLINE void FN(apply_abreast)(const void *const *x_rows, void *const *y_rows, size_t count,
                                            size_t row, size_t row_count, size_t columns,
                                            const wn_cols_norm *norm, const wn_affine *affine,
                                            FN(parameters) parameters, int is_plain) {
    const wn_cols_norm own =
        *norm; /* for all that the compiler knows, stores to y change what norm points at */
    FN(abreast) rows;
    size_t c = 0;
    UNROLL for (size_t r = 0; r < count; r++) {
        rows.x[r] = x_rows[row + r], rows.y[r] = y_rows[row + r];
        rows.next[r] = row + count + r < row_count ? x_rows[row + count + r] : rows.x[r];
        if (parameters != FN(BY_ROW)) continue;
        rows.w[r] = V_SET(FN(parameter)((const C *)affine->weight + row + r));
        rows.b[r] = V_SET(FN(parameter)((const C *)affine->bias + row + r));
    }
#define APPLY(part, stream)                                                                                  \
    FN(apply_columns)(&rows, count, c, part, &own, affine, parameters, is_plain, stream)
    if (count == 1 && is_plain && affine->stream &&
        (uintptr_t)rows.y[0] % sizeof(T) == 0) { /* alone, and line by line */
        ptrdiff_t stride = row + 1 < row_count ? (const char *)y_rows[row + 1] - (const char *)rows.y[0] : 0;
        size_t head = FN(line_head)(rows.y[0], columns), end = FN(lines_end)(head, columns);
        FN(fetch_end)(rows.y[0], stride, columns);
        if (head % V_N) APPLY(head % V_N, 1);
        c = head % V_N;
        if (V_N < FN(LINE)) UNROLL_NONE for (; c < head; c += V_N) APPLY(0, 0);
        for (; c < end; c += V_N) APPLY(0, 1);
    }
    for (; c + V_N <= columns; c += V_N) APPLY(0, 0);
    if (c < columns) APPLY(columns - c, 0);
#undef APPLY
}

/* Nothing but the affine step, to x's dtype. */
static ALWAYS_INLINE void FN(apply_cols_with)(const void *const *x_rows, void *const *y_rows,
                                              size_t row_count, size_t columns, const wn_cols_norm *norm,
                                              const wn_affine *affine, FN(parameters) parameters) {
    size_t row = 0;
    int gains = IS_16BIT || affine->l1 < WN_MORE_L1 || x_rows[0] == y_rows[0];
    if (gains && !affine->stream && columns * sizeof(T) < PAGE)
        for (; row + FN(ABREAST) <= row_count; row += FN(ABREAST))
            FN(apply_abreast)(x_rows, y_rows, FN(ABREAST), row, row_count, columns, norm, affine, parameters,
                              1);
    for (; row < row_count; row++)
        FN(apply_abreast)(x_rows, y_rows, 1, row, row_count, columns, norm, affine, parameters, 1);
}

/* Parameters by column are rare, as they fold: they take the slow way, and are not streamed. */
static void FN(apply_cols)(const void *const *x_rows, void *const *y_rows, size_t row_count, size_t columns,
                           const wn_cols_norm *norm, const wn_affine *affine) {
    FN(parameters) parameters = !affine->weight ? FN(FOLDED) : affine->advance ? FN(BY_COLUMN) : FN(BY_ROW);
    if (!FN(is_plain)(affine) || parameters == FN(BY_COLUMN))
        for (size_t row = 0; row < row_count; row++)
            FN(apply_abreast)(x_rows, y_rows, 1, row, row_count, columns, norm, affine, parameters, 0);
    else if (parameters == FN(FOLDED))
        FN(apply_cols_with)(x_rows, y_rows, row_count, columns, norm, affine, FN(FOLDED));
    else
        FN(apply_cols_with)(x_rows, y_rows, row_count, columns, norm, affine, FN(BY_ROW));
}
