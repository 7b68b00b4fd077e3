/* Statistics of one block. Included once per instruction set and dtype by dtype.tpl.h, which defines T
 * (storage type), FN(name) (name_<dtype>) and the vocabulary of T.
 *
 * Sums of d = x - shift and of d * d in float64, whatever T is: float32 sums would put the mean of a short
 * row beyond the promised 4 ULP. d * d must not drown in the square of the mean, so the shift is, in turn,
 *
 *   0                   as long as the digits that float64 has beyond T's make up for it;
 *   the first element   else: it makes a constant block exact;
 *   the mean            where that was no good either (an outlier, a ramp), and always for float64 data.
 *
 * The last is the corrected two-pass algorithm of Chan, Golub and LeVeque, "Algorithms for computing the
 * sample variance" (1983). Which it is depends on the block's data alone.
 *
 * LANES running sums, element i of a run to sum i % LANES, added by halves at the end: the order does not
 * depend on the vector width, so every instruction set with FMA gives the same bits.
 *
 * Statistics that are not centred are a sum of squares, which enters the results by its square root alone: so
 * float32 and 16-bit data have float32 sums, SQUARE_LANES of them, of CHUNK squares each (at most one more at
 * a run's end), which are then added in float64. All the same it is within 1.25 * 2^-23 of itself whatever
 * the data, and mostly within 2^-27. Where squares leave the range of float32, sums are float64 from the
 * start. */

enum { FN(VECTORS) = LANES / V_F64, FN(CHAINS) = 4 };
enum { FN(SQUARE_LANES) = 2 * LANES, FN(SQUARE_VECTORS) = 2 * LANES / V_N, FN(CHUNK) = 8 };

typedef struct {
    double sum, square;
} FN(sums);

/* The running sums. Squares of float64 deviations carry their rounding errors along (Kahan), as there are no
 * digits to spare. */
typedef struct {
    v_f64 sum[FN(VECTORS)], square[FN(VECTORS)], lost[FN(VECTORS)];
} FN(lanes);

/* What converts 16-bit elements is busy enough: their sums go where products do. */
static ALWAYS_INLINE v_f64 FN(sum_with)(v_f64 d, v_f64 sum) {
    return IS_16BIT ? v_fma_f64(d, v_set_f64(1.0), sum) : sum + d;
}

static ALWAYS_INLINE void FN(add_square)(v_f64 d, v_f64 *square, v_f64 *lost) {
    if (IS_FLOAT64) {
        v_f64 term = v_fma_f64(d, d, *lost);
        v_f64 total = *square + term;
        *lost = term - (total - *square);
        *square = total;
    } else {
        *square = v_fma_f64(d, d, *square);
    }
}

static ALWAYS_INLINE void FN(add_vector)(v_f64 d, v_f64 *sum, v_f64 *square, v_f64 *lost) {
    *sum = FN(sum_with)(d, *sum);
    FN(add_square)(d, square, lost);
}

/* Fetches what the sums come to while a team is woven into them, the lines of LANES elements at x: reading
 * goes too slowly then for the hardware to fetch far enough ahead. */
static ALWAYS_INLINE void FN(fetch_ahead)(const FN(team) * team, const T *x, FN(form) form) {
    if (form.rows == 0) return; /* the hardware does */
    UNROLL for (size_t byte = 0; byte < LANES * sizeof(T); byte += 64) {
        const char *line = (const char *)x + byte;
        if (form.reach == PAST) PREFETCH_L2(line + FAR_AHEAD);
        if (form.reach == FAR)
            PREFETCH_L2(line + PAGE_AHEAD);
        else
            PREFETCH(line + team->ahead);
    }
}

static const FN(form) FN(no_form) = {1, 1, 0, NEAR, 0};

/* Writes a vector of the row that is summed, from element i on, or its first `part` elements, and returns
 * what it is then. */
static ALWAYS_INLINE V FN(add_at)(FN(team) * team, size_t i, size_t part, FN(form) form) {
    const T *a = team->augend + i, *b = team->addend + i;
    int is_kept = form.reach == PAST, is_stored = !is_kept || team->past == FN(STAYS);
    T rounded[V_N];
    V sum;
    if (part)
        sum = V_LOAD_PART(a, part) + V_LOAD_PART(b, part);
    else if (form.centred) /* float64 sums keep the pipes too busy to put halves together */
        sum = V_LOAD(a) + V_LOAD(b);
    else
        sum = V_LOAD_HALVES(a) + V_LOAD_HALVES(b);
    if (is_kept) V_STORE(team->kept + i, sum);
    if (is_stored || team->past == FN(BY_VECTORS)) {
        if (part)
            V_STORE_PART(team->sum + i, sum, part);
        else if (is_stored)
            V_STORE(team->sum + i, sum);
        else
            V_STREAM(team->sum + i, sum);
    }
    if (!IS_16BIT) return sum;
    if (!part) return V_LOAD((is_kept ? team->kept : team->sum) + i);
    V_STORE(rounded, sum);
    return V_LOAD(rounded);
}

/* Fetches what `unit` elements from element i on will come to, and of data that are FAR the sum's lines, too;
 * nothing of those that are NEAR. */
static ALWAYS_INLINE void FN(fetch_addends)(const FN(team) * team, size_t i, size_t unit, FN(form) form) {
    for (size_t at = i; form.reach != NEAR && at < i + unit; at += LANES) {
        FN(fetch_ahead)(team, team->augend + at, form);
        FN(fetch_ahead)(team, team->addend + at, form);
        if (form.reach == FAR) FN(fetch_ahead)(team, team->sum + at, form);
    }
}

/* The c-th V_F64 elements of vectors. */
static ALWAYS_INLINE v_f64 FN(part_of)(const V *v, size_t c) {
#if IS_FLOAT64
    return v[c];
#else
    return c * V_F64 % V_N ? v_high_f32(v[c * V_F64 / V_N]) : v_low_f32(v[c * V_F64 / V_N]);
#endif
}

/* Adds one run, CHAINS vectors at a time: enough to hide the latency of an FMA, few enough for the registers.
 * A team, if there is one, goes through the apply step meanwhile. A row that is written here is summed as it
 * is at hand, which is sooner than from memory; but of data that are not NEAR, and in 16 bits, that took
 * longer, except for its end. */
static ALWAYS_INLINE void FN(add_run)(const T *x, size_t n, int shifted, double shift, FN(lanes) * lanes,
                                      FN(team) * team, FN(form) form) {
    v_f64 shifts = v_set_f64(shift);
    V added[FN(CHAINS) * V_F64 / V_N];
    int adds = team && form.adds;
    for (size_t first = 0; first < FN(VECTORS); first += FN(CHAINS)) {
        v_f64 s[FN(CHAINS)], q[FN(CHAINS)], lost[FN(CHAINS)];
        size_t i = first * V_F64, unit = FN(CHAINS) * V_F64;
        UNROLL for (size_t c = 0; c < FN(CHAINS); c++) {
            s[c] = lanes->sum[first + c];
            q[c] = lanes->square[first + c];
            lost[c] = lanes->lost[first + c];
        }
        for (; i + unit <= n; i += LANES) {
            if (team && first == 0 && !form.adds) FN(fetch_ahead)(team, x + i, form);
            int is_at_hand = adds && form.reach == NEAR && !IS_16BIT;
            if (adds) {
                FN(fetch_addends)(team, i, unit, form);
                UNROLL for (size_t v = 0; v < unit / V_N; v++) added[v] =
                    FN(add_at)(team, i + v * V_N, 0, form);
            }
            UNROLL for (size_t c = 0; c < FN(CHAINS); c++) {
                v_f64 d = is_at_hand ? FN(part_of)(added, c) : V_WIDE(x + i + c * V_F64);
                if (shifted) d -= shifts;
                FN(add_vector)(d, &s[c], &q[c], &lost[c]);
            }
            if (team) FN(weave)(team, i, unit, form);
        }
        for (size_t v = 0; adds && v < unit / V_N; v++) {
            size_t at = i + v * V_N;
            if (at < n) added[v] = FN(add_at)(team, at, n - at < V_N ? n - at : 0, form);
        }
        UNROLL for (size_t c = 0; c < FN(CHAINS); c++) {
            size_t at = i + c * V_F64;
            if (at >= n) break;
            /* missing elements count as the shift: they add zero. But for float64, a second sum is rare:
             * less code */
            size_t part = n - at < V_F64 ? n - at : V_F64;
            v_f64 d;
            if (adds)
                d = FN(part_of)(added, c);
            else if ((!shifted || IS_FLOAT64) && part == V_F64)
                d = V_WIDE(x + at);
            else
                d = V_WIDE_PART(x + at, part, shift);
            if (shifted) d -= shifts;
            FN(add_vector)(d, &s[c], &q[c], &lost[c]);
        }
        UNROLL for (size_t c = 0; c < FN(CHAINS); c++) {
            lanes->sum[first + c] = s[c];
            lanes->square[first + c] = q[c];
            lanes->lost[first + c] = lost[c];
        }
    }
}

/* Adds float32 sums of squares to those of float64: two to each. */
static ALWAYS_INLINE void FN(add_chunk)(const V *q, v_f64 *square) {
#if !IS_FLOAT64
    UNROLL_SQUARES for (size_t v = 0; v < FN(SQUARE_VECTORS) / 2; v++) {
        V sum = q[v] + q[v + FN(SQUARE_VECTORS) / 2];
        square[v * V_N / V_F64] += v_low_f32(sum);
        if (V_N > V_F64) square[v * V_N / V_F64 + 1] += v_high_f32(sum);
    }
#else
    (void)q, (void)square; /* whose squares need more digits */
#endif
}

/* Adds the squares of one run. A team, if there is one, goes through the apply step meanwhile. */
static ALWAYS_INLINE void FN(add_squares)(const T *x, size_t n, FN(lanes) * lanes, FN(team) * team,
                                          FN(form) form) {
    const size_t unit = FN(SQUARE_LANES), whole = n / unit * unit;
    v_f64 square[FN(VECTORS)];
    UNROLL for (size_t v = 0; v < FN(VECTORS); v++) square[v] = lanes->square[v];
    for (size_t i = 0; i < n;) {
        size_t end = whole - i < FN(CHUNK) * unit ? whole : i + FN(CHUNK) * unit;
        V q[FN(SQUARE_VECTORS)];
        UNROLL_SQUARES for (size_t v = 0; v < FN(SQUARE_VECTORS); v++) q[v] = V_SET(0);
        for (; i < end; i += unit) {
            for (size_t at = i; team && !form.adds && at < i + unit; at += LANES)
                FN(fetch_ahead)(team, x + at, form);
            if (team && form.adds) FN(fetch_addends)(team, i, unit, form);
            UNROLL_SQUARES for (size_t v = 0; v < FN(SQUARE_VECTORS); v++) {
                size_t at = i + v * V_N;
                V element;
                if (team && form.adds)
                    element = FN(add_at)(team, at, 0, form);
                else
                    element = form.rows > 2 ? V_LOAD(x + at) : V_LOAD_HALVES(x + at); /* four rows lose */
                q[v] = V_FMA(element, element, q[v]);
            }
            if (team) FN(weave)(team, i, unit, form);
        }
        UNROLL_SQUARES for (size_t v = 0; v < FN(SQUARE_VECTORS); v++) {
            size_t at = i + v * V_N;
            if (i < whole || at >= n) break;
            size_t part = n - at < V_N ? n - at : 0;
            V element;
            if (team && form.adds)
                element = FN(add_at)(team, at, part, form);
            else
                element = part ? V_LOAD_PART(x + at, part) : V_LOAD(x + at);
            q[v] = V_FMA(element, element, q[v]);
        }
        if (i == whole) i = n;
        FN(add_chunk)(q, square);
    }
    UNROLL for (size_t v = 0; v < FN(VECTORS); v++) lanes->square[v] = square[v];
}

/* Adds all lanes, by halves; lost is NULL or takes part as the lanes' low parts do. */
static ALWAYS_INLINE double FN(sum_lanes)(v_f64 *lanes, v_f64 *lost) {
    for (size_t half = FN(VECTORS) / 2; half > 0; half /= 2) {
        for (size_t i = 0; i < half; i++) {
            v_f64 a = lanes[i], b = lanes[i + half], total = a + b, b_part = total - a;
            if (lost) lost[i] += lost[i + half] + ((a - (total - b_part)) + (b - b_part));
            lanes[i] = total;
        }
    }
    if (!lost) return v_sum_f64(lanes[0]);
    double high[V_F64], low[V_F64];
    v_store_f64(high, lanes[0]);
    v_store_f64(low, lost[0]);
    for (size_t half = V_F64 / 2; half > 0; half /= 2) {
        for (size_t i = 0; i < half; i++) {
            double error;
            wn_two_sum(high[i], high[i + half], &high[i], &error);
            low[i] += low[i + half] + error;
        }
    }
    return high[0] + low[0];
}

static ALWAYS_INLINE void FN(clear)(FN(lanes) * lanes) {
    UNROLL for (size_t i = 0; i < FN(VECTORS); i++) lanes->sum[i] = lanes->square[i] = lanes->lost[i] =
        v_set_f64(0.0);
}

static ALWAYS_INLINE FN(sums) FN(sums_of)(FN(lanes) * lanes) {
    return (FN(sums)){FN(sum_lanes)(lanes->sum, NULL),
                      FN(sum_lanes)(lanes->square, IS_FLOAT64 ? lanes->lost : NULL)};
}

static ALWAYS_INLINE FN(sums) FN(add_runs)(const void *const *runs, size_t run_count, size_t n, int shifted,
                                           double shift, FN(team) * team, FN(form) form) {
    FN(lanes) lanes;
    FN(clear)(&lanes);
    for (size_t r = 0; r < run_count; r++) FN(add_run)(runs[r], n, shifted, shift, &lanes, team, form);
    return FN(sums_of)(&lanes);
}

static ALWAYS_INLINE FN(sums) FN(add_squares_of_runs)(const void *const *runs, size_t run_count, size_t n,
                                                      FN(team) * team, FN(form) form) {
    FN(lanes) lanes;
    FN(clear)(&lanes);
    for (size_t r = 0; r < run_count; r++) FN(add_squares)(runs[r], n, &lanes, team, form);
    return (FN(sums)){0.0, FN(sum_lanes)(lanes.square, NULL)};
}

static WN_ONE_COPY FN(sums)
    FN(add_runs_again)(const void *const *runs, size_t run_count, size_t n, double shift) {
    return FN(add_runs)(runs, run_count, n, 1, shift, NULL, FN(no_form));
}

/* The squared distance of shift and mean, times the count: what `square` holds beyond M2. */
static inline double FN(excess)(FN(sums) s, double inverse_count) { return s.sum * (s.sum * inverse_count); }

static inline int FN(is_poor_shift)(FN(sums) s, double inverse_count) {
    double excess = FN(excess)(s, inverse_count);
    return excess > MAX_EXCESS * (s.square - excess);
}

/* The block's first element, or 0 if that is not finite: inf then stays inf in the mean, as np.mean has it.
 */
static inline double FN(first_of)(const void *p) {
    T first;
    memcpy(&first, p, sizeof first);
    return fabs(TO_DOUBLE(first)) <= DBL_MAX ? TO_DOUBLE(first) : 0.0;
}

/* Sums of squares about 0 where those that carry their errors along gave NaN: inf, if there is only inf. */
static WN_ONE_COPY double FN(plain_squares)(const void *const *runs, size_t run_count, size_t n) {
    double sum = 0.0;
    for (size_t r = 0; r < run_count; r++) {
        for (size_t i = 0; i < n; i++) {
            T element;
            memcpy(&element, (const T *)runs[r] + i, sizeof element);
            sum += TO_DOUBLE(element) * TO_DOUBLE(element);
        }
    }
    return sum;
}

static WN_ONE_COPY FN(sums) FN(squares_alone)(const void *const *runs, size_t run_count, size_t n) {
    return FN(add_squares_of_runs)(runs, run_count, n, NULL, FN(no_form));
}

/* Sums about 0, which are good for most blocks; float64 has no digits to spare for them. */
static ALWAYS_INLINE FN(sums)
    FN(first_sums)(const void *const *runs, size_t run_count, size_t n, int centred) {
    if (IS_FLOAT64 && centred) return (FN(sums)){0.0, 0.0};
    if (!IS_FLOAT64 && !centred) return FN(squares_alone)(runs, run_count, n);
    return FN(add_runs)(runs, run_count, n, 0, 0.0, NULL, FN(no_form));
}

/* The state of the block that has these first sums. */
static WN_ONE_COPY wn_state FN(block_state)(const void *const *runs, size_t run_count, size_t n, int centred,
                                            double count, double inverse_count, FN(sums) s) {
    double shift = 0.0;
    if (!centred) {
        if (IS_FLOAT64 && s.square != s.square) s.square = FN(plain_squares)(runs, run_count, n);
        if (!IS_FLOAT64 && !(s.square >= LEAST_SQUARE * count && s.square <= DBL_MAX))
            s = FN(add_runs_again)(runs, run_count, n, 0.0);
        return (wn_state){.count = count, .m2 = s.square};
    }
    if (IS_FLOAT64 || FN(is_poor_shift)(s, inverse_count)) {
        shift = FN(first_of)(runs[0]);
        s = FN(add_runs_again)(runs, run_count, n, shift);
        if (IS_FLOAT64 || FN(is_poor_shift)(s, inverse_count)) {
            double mean = shift + s.sum * inverse_count;
            if (fabs(mean) <= DBL_MAX) shift = mean; /* else inf must stay in the sums, to reach the mean */
            s = FN(add_runs_again)(runs, run_count, n, shift);
        }
    }
    wn_state block = {.count = count};
    double m2 = s.square - FN(excess)(s, inverse_count);
    wn_two_sum(shift, s.sum * inverse_count, &block.mean, &block.mean_lo);
    block.m2 = m2 < 0.0 ? 0.0 : m2;
    return block;
}

static WN_ONE_COPY void FN(moments_run)(const void *const *runs, size_t run_count, size_t n, int centred,
                                        wn_state *block) {
    double count = (double)run_count * (double)n;
    FN(sums) first = FN(first_sums)(runs, run_count, n, centred);
    *block = FN(block_state)(runs, run_count, n, centred, count, 1.0 / count, first);
}
