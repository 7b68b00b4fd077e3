/* What the apply step needs of many statistics, a vector of them at a time: wn_finish and wn_fold, the same
 * operations and so the same bits. Included once per instruction set and compute type, by table.tpl.h. */

#define V_NARROW CAT(v_narrow, COMPUTE)
#define V_WIDE CAT(v_wide, COMPUTE)
#define V_WIDE_PART CAT(v_wide_part, COMPUTE)
#define WIDE CAT(WN_WIDE, COMPUTE)

/* v rounded to the compute type: the first `part` elements, or where that is 0 all, to p; and returned. */
static ALWAYS_INLINE v_f64 CAT(round, COMPUTE)(v_f64 v, C *p, size_t part) {
    C narrow[V_F64];
    V_NARROW(narrow, v);
    memcpy(p, narrow, (part ? part : V_F64) * sizeof *p);
    return V_WIDE(narrow);
}

/* wn_fold of a vector of statistics, or `part` of one, to element c of `norm` on. Returns a mask of those
 * whose weight or bias cannot be folded. */
static ALWAYS_INLINE v_i64 CAT(fold_vector, COMPUTE)(v_f64 mean, v_f64 mean_lo, v_f64 rstd, v_f64 w, v_f64 b,
                                                     size_t c, size_t part, const wn_cols_norm *norm) {
    C *mean_hi = (void *)(uintptr_t)norm->mean_hi, *scales = (void *)(uintptr_t)norm->rstd,
      *shifts = (void *)(uintptr_t)norm->offset, low[V_F64];
    v_f64 high = CAT(round, COMPUTE)(mean, mean_hi + c, part);
    v_f64 lost = CAT(round, COMPUTE)((mean - high) + mean_lo, low, 0);
    v_f64 scale = CAT(round, COMPUTE)(rstd * w, scales + c, part);
    v_f64 shift = v_select_f64(V_WHERE(lost == 0.0), b, b - lost * scale);
    shift = CAT(round, COMPUTE)(shift, shifts + c, part);
    v_i64 fits = V_WHERE(scale >= C_LEAST) | V_WHERE(scale <= -C_LEAST) | V_WHERE(w == 0.0);
    fits &= V_WHERE(scale <= C_MOST) & V_WHERE(scale >= -C_MOST);
    fits &= V_WHERE(shift <= C_MOST) & V_WHERE(shift >= -C_MOST);
    return ~fits;
}

/* A vector of weights or biases from p on, or `part` of one; what changes nothing, `missing`, where there are
 * none. */
static ALWAYS_INLINE v_f64 CAT(parameters_at, COMPUTE)(const C *p, size_t c, size_t part, double missing) {
    if (!p) return v_set_f64(missing);
    return part ? V_WIDE_PART(p + c, part, missing) : V_WIDE(p + c);
}

/* The columns at c, as many as a vector has or `part`. Returns a mask of those that are for the wide path or
 * have a weight or bias that cannot be folded. */
static ALWAYS_INLINE v_i64 CAT(finish_vector, COMPUTE)(const wn_states *states, double count, double eps,
                                                       const C *weight, const C *bias, size_t c, size_t part,
                                                       const wn_cols_norm *norm) {
#define STATE(p, fill) (part ? v_wide_part_f64(p + c, part, fill) : v_load_f64(p + c))
    v_f64 mean = STATE(states->mean, 0.0), m2 = STATE(states->m2, 1.0);
    v_f64 mean_lo = states->mean_lo ? STATE(states->mean_lo, 0.0) : v_set_f64(0.0);
#undef STATE
    v_f64 w = CAT(parameters_at, COMPUTE)(weight, c, part, 1.0);
    v_f64 b = CAT(parameters_at, COMPUTE)(bias, c, part, -0.0); /* adds nothing to either zero */
    v_f64 var = count == 1.0 ? m2 : m2 / count;                 /* a given one needs no division */
    v_f64 rstd = 1.0 / v_sqrt_f64(var + eps);
    v_i64 fails = CAT(fold_vector, COMPUTE)(mean, mean_lo, rstd, w, b, c, part, norm);
    fails |= ~(V_WHERE(mean <= WN_FAR_MEAN) & V_WHERE(mean >= -WN_FAR_MEAN));
    return fails | WIDE(V_WHERE, mean, m2, rstd, eps);
}

static int CAT(finish_cols, COMPUTE)(const wn_states *states, double count, double eps, const void *weight,
                                     const void *bias, size_t columns, const wn_cols_norm *norm) {
    v_i64 fails = {0};
    size_t c = 0;
    for (; c + V_F64 <= columns; c += V_F64)
        fails |= CAT(finish_vector, COMPUTE)(states, count, eps, weight, bias, c, 0, norm);
    if (c < columns)
        fails |= CAT(finish_vector, COMPUTE)(states, count, eps, weight, bias, c, columns - c, norm);
    return !v_any_i64(fails);
}

#undef WIDE
#undef V_WIDE_PART
#undef V_WIDE
#undef V_NARROW
