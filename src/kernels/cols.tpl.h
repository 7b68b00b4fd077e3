/* Statistics and apply down the rows, a column at a time in each vector lane. Included once per
 * instruction set and dtype by dtype.tpl.h. A column's order of summation is its rows' order: it depends
 * neither on the vector width nor on the columns beside it. */

enum { FN(ROW_STEP) = 8 };

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

/* Adds `step` rows in the vector of columns at c; the sums stay in registers. */
static ALWAYS_INLINE void FN(add_rows)(const void *const *rows, size_t step, size_t c, size_t part,
                                       int shifted, FN(columns) * to) {
    v_f64 s = FN(load_columns)(to->sum + c, part), q = FN(load_columns)(to->square + c, part);
    v_f64 lost = v_set_f64(0.0), shift = v_set_f64(0.0);
    if (IS_FLOAT64) lost = FN(load_columns)(to->lost + c, part);
    if (shifted) shift = FN(load_columns)(to->shift + c, part);
    UNROLL for (size_t r = 0; r < step; r++) {
        const T *x = (const T *)rows[r] + c;
        v_f64 d;
        if (part)
            d = V_WIDE_PART(x, part, 0.0);
        else
            d = V_WIDE(x);
        if (shifted) d -= shift;
        FN(add_vector)(d, &s, &q, &lost);
    }
    FN(store_columns)(to->sum + c, s, part);
    FN(store_columns)(to->square + c, q, part);
    if (IS_FLOAT64) FN(store_columns)(to->lost + c, lost, part);
}

static ALWAYS_INLINE void FN(add_step)(const void *const *rows, size_t step, size_t columns, int shifted,
                                       FN(columns) * to) {
    size_t c = 0;
    for (; c + V_F64 <= columns; c += V_F64) FN(add_rows)(rows, step, c, 0, shifted, to);
    if (c < columns) FN(add_rows)(rows, step, c, columns - c, shifted, to);
}

static ALWAYS_INLINE void FN(add_block)(const void *const *rows, size_t row_count, size_t columns,
                                        int shifted, FN(columns) * to) {
    size_t row = 0;
    for (size_t c = 0; c < columns; c++) to->sum[c] = to->square[c] = to->lost[c] = 0.0;
    for (; row + FN(ROW_STEP) <= row_count; row += FN(ROW_STEP))
        FN(add_step)(rows + row, FN(ROW_STEP), columns, shifted, to);
    for (; row < row_count; row++) FN(add_step)(rows + row, 1, columns, shifted, to);
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

static void FN(moments_cols)(const void *const *rows, size_t row_count, size_t columns,
                             const wn_states *block) {
    FN(columns) to;
    double inverse_count = 1.0 / (double)row_count;
    for (size_t c = 0; c < columns; c++) to.shift[c] = to.sum[c] = to.square[c] = 0.0;
    if (!IS_FLOAT64) FN(add_block)(rows, row_count, columns, 0, &to);
    if (FN(shift_columns)(rows, row_count, columns, 0, &to))
        FN(shift_columns)(rows, row_count, columns, 1, &to);
    for (size_t c = 0; c < columns; c++) {
        double m2 = to.square[c] - FN(excess)((FN(sums)){to.sum[c], to.square[c]}, inverse_count);
        wn_two_sum(to.shift[c], to.sum[c] * inverse_count, &block->mean[c], &block->mean_lo[c]);
        block->m2[c] = m2 < 0.0 ? 0.0 : m2;
    }
}

static void FN(merge_cols)(const wn_states *a, double a_count, const wn_states *b, double b_count,
                           size_t columns) {
    for (size_t c = 0; c < columns; c++)
        wn_merge_into(&a->mean[c], &a->mean_lo[c], &a->m2[c], a_count, b->mean[c], b->mean_lo[c], b->m2[c],
                      b_count);
}

/* One vector of columns down all rows: its parameters stay in registers. */
static ALWAYS_INLINE void FN(apply_rows)(const void *const *x_rows, void *const *y_rows, size_t row_count,
                                         size_t c, size_t part, const wn_cols_norm *norm, const C *weight,
                                         const C *bias, int by_row) {
#define LOAD_PARAMETERS(p) (part ? V_LOAD_PART_C((const C *)(p) + c, part) : V_LOAD_C((const C *)(p) + c))
    V mean_hi = LOAD_PARAMETERS(norm->mean_hi), rstd = LOAD_PARAMETERS(norm->rstd);
    V offset = LOAD_PARAMETERS(norm->offset);
    V w, b;
    if (!by_row) {
        w = LOAD_PARAMETERS(weight);
        b = LOAD_PARAMETERS(bias);
    }
#undef LOAD_PARAMETERS
    for (size_t row = 0; row < row_count; row++) {
        const T *x = (const T *)x_rows[row] + c;
        T *y = (T *)y_rows[row] + c;
        if (by_row) {
            w = V_SET(FN(parameter)(weight + row));
            b = V_SET(FN(parameter)(bias + row));
        }
        V v = V_FMA((part ? V_LOAD_PART(x, part) : V_LOAD(x)) - mean_hi, rstd, offset);
        v = V_FMA(v, w, b);
        if (part)
            V_STORE_PART(y, v, part);
        else
            V_STORE(y, v);
    }
}

/* Rows in groups: whole cache lines of a group are used before they leave L1. */
static ALWAYS_INLINE void FN(apply_cols_with)(const void *const *x_rows, void *const *y_rows,
                                              size_t row_count, size_t columns, const wn_cols_norm *norm,
                                              const C *weight, const C *bias, int by_row) {
    for (size_t row = 0; row < row_count; row += FN(ROW_STEP)) {
        size_t step = row_count - row < FN(ROW_STEP) ? row_count - row : FN(ROW_STEP);
        size_t c = 0;
        for (; c + V_N <= columns; c += V_N)
            FN(apply_rows)(x_rows + row, y_rows + row, step, c, 0, norm, weight, bias, by_row);
        if (c < columns)
            FN(apply_rows)(x_rows + row, y_rows + row, step, c, columns - c, norm, weight, bias, by_row);
        if (by_row) {
            weight += step;
            bias += step;
        }
    }
}

static void FN(apply_cols)(const void *const *x_rows, void *const *y_rows, size_t row_count, size_t columns,
                           const wn_cols_norm *norm, const void *weight, const void *bias,
                           int affine_by_row) {
    if (affine_by_row)
        FN(apply_cols_with)(x_rows, y_rows, row_count, columns, norm, weight, bias, 1);
    else
        FN(apply_cols_with)(x_rows, y_rows, row_count, columns, norm, weight, bias, 0);
}
