/* Exact statistics: sums of d = x - shift and of d * d as pairs of float64, for states that merge in any
 * grouping without loss. Included once per instruction set and dtype by dtype.tpl.h.
 *
 * The pairs have some 100 bits, so the shift need not be near the mean: the first element will do, and one
 * pass. T. Ogita, S. M. Rump, S. Oishi, "Accurate sum and dot product", SIAM J. Sci. Comput. 26 (2005). */

typedef struct {
    v_f64 sum, sum_low, square, square_low;
} FN(exact);

static ALWAYS_INLINE v_f64 FN(two_sum_v)(v_f64 a, v_f64 b, v_f64 *error) {
    v_f64 s = a + b, b_part = s - a;
    *error = (a - (s - b_part)) + (b - b_part);
    return s;
}

static ALWAYS_INLINE void FN(add_exactly)(v_f64 x, v_f64 shift, FN(exact) * to) {
    v_f64 error, lost, d = FN(two_sum_v)(x, -shift, &error), square = d * d;
    to->sum = FN(two_sum_v)(to->sum, d, &lost);
    to->sum_low += lost + error;
    to->square = FN(two_sum_v)(to->square, square, &lost);
    to->square_low += (lost + v_product_error_f64(d, d, square)) + 2.0 * (d * error);
}

/* Element i of a run goes to lane i % LANES, CHAINS vectors of lanes at a time. */
static ALWAYS_INLINE void FN(add_run_exactly)(const T *x, size_t n, double shift, FN(exact) * lanes) {
    v_f64 shifts = v_set_f64(shift);
    for (size_t first = 0; first < FN(VECTORS); first += FN(CHAINS)) {
        FN(exact) chain[FN(CHAINS)];
        size_t i = first * V_F64;
        if (i >= n) break;
        UNROLL for (size_t c = 0; c < FN(CHAINS); c++) chain[c] = lanes[first + c];
        for (; i + FN(CHAINS) * V_F64 <= n; i += LANES)
            UNROLL for (size_t c = 0; c < FN(CHAINS); c++)
                FN(add_exactly)(V_WIDE(x + i + c * V_F64), shifts, &chain[c]);
        UNROLL for (size_t c = 0; c < FN(CHAINS); c++) lanes[first + c] = chain[c];
        /* missing elements count as the shift: they add zero */
        UNROLL_NONE for (size_t c = 0; c < FN(CHAINS); c++) {
            size_t at = i + c * V_F64;
            if (at >= n) break;
            FN(add_exactly)(V_WIDE_PART(x + at, n - at < V_F64 ? n - at : V_F64, shift), shifts,
                            &lanes[first + c]);
        }
    }
}

static void FN(exact_run)(const void *const *runs, size_t run_count, size_t n, wn_state *block) {
    FN(exact) lanes[FN(VECTORS)];
    double shift = FN(first_of)(runs[0]), part[4][V_F64];
    memset(lanes, 0, sizeof lanes);
    for (size_t r = 0; r < run_count; r++) FN(add_run_exactly)(runs[r], n, shift, lanes);
    wn_sums total = {{0.0, 0.0}, {0.0, 0.0}};
    for (size_t i = 0; i < FN(VECTORS) && i * V_F64 < n; i++) {
        v_store_f64(part[0], lanes[i].sum);
        v_store_f64(part[1], lanes[i].sum_low);
        v_store_f64(part[2], lanes[i].square);
        v_store_f64(part[3], lanes[i].square_low);
        for (size_t j = 0; j < V_F64; j++) {
            total.sum = wn_pair_add(total.sum, (wn_pair){part[0][j], part[1][j]});
            total.square = wn_pair_add(total.square, (wn_pair){part[2][j], part[3][j]});
        }
    }
    *block = wn_exact_state((double)run_count * (double)n, shift, total);
}

/* One vector of columns down `step` rows; the sums stay in registers. */
static ALWAYS_INLINE void FN(add_rows_exactly)(const void *const *rows, size_t step, size_t c, size_t part,
                                               const double *shift, double *sums) {
    double *at[] = {sums + c, sums + WN_STRIP + c, sums + 2 * WN_STRIP + c, sums + 3 * WN_STRIP + c};
    v_f64 shifts = FN(load_columns)(shift + c, part);
    FN(exact)
    to = {FN(load_columns)(at[0], part), FN(load_columns)(at[1], part), FN(load_columns)(at[2], part),
          FN(load_columns)(at[3], part)};
    for (size_t r = 0; r < step; r++) {
        const T *x = (const T *)rows[r] + c;
        FN(add_exactly)(part ? V_WIDE_PART(x, part, 0.0) : V_WIDE(x), shifts, &to);
    }
    FN(store_columns)(at[0], to.sum, part);
    FN(store_columns)(at[1], to.sum_low, part);
    FN(store_columns)(at[2], to.square, part);
    FN(store_columns)(at[3], to.square_low, part);
}

static void FN(exact_cols)(const void *const *rows, size_t row_count, size_t columns, int is_first,
                           double *shift, double *sums) {
    if (is_first) {
        memset(sums, 0, 4 * WN_STRIP * sizeof *sums);
        for (size_t c = 0; c < columns; c++) shift[c] = FN(first_of)((const T *)rows[0] + c);
    }
    size_t most = FN(band_of)(rows, row_count, columns).rows, step;
    for (size_t row = 0; row < row_count; row += step) {
        step = row_count - row < most ? row_count - row : most;
        size_t c = 0;
        for (; c + V_F64 <= columns; c += V_F64) FN(add_rows_exactly)(rows + row, step, c, 0, shift, sums);
        if (c < columns) FN(add_rows_exactly)(rows + row, step, c, columns - c, shift, sums);
    }
}
