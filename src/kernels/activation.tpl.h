/* What may follow the affine step: relu, silu, gelu, gelu_tanh. Included once per instruction set and compute
 * type, by table.tpl.h. Only operators and the vocabulary: the same bits on every instruction set with FMA.
 *
 * Everything is made of exp at or below 0, which neither overflows nor loses the tails. */

#define V CAT(v, COMPUTE)
#define V_BITS_TYPE CAT(v, INTEGER)
#define V_SET CAT(v_set, COMPUTE)
#define V_FMA CAT(v_fma, COMPUTE)
#define V_PRODUCT_ERROR CAT(v_product_error, COMPUTE)
#define V_BITS CAT(v_bits, COMPUTE)
#define V_FROM_BITS CAT(v_from_bits, COMPUTE)
#define V_SELECT CAT(v_select, COMPUTE)
#define LENGTH(array) (sizeof(array) / sizeof *(array))

static ALWAYS_INLINE V CAT(polynomial, COMPUTE)(V t, const C *coefficients, size_t count) {
    V sum = V_SET(coefficients[count - 1]);
    UNROLL for (size_t i = count - 1; i-- > 0;) sum = V_FMA(sum, t, V_SET(coefficients[i]));
    return sum;
}

/* exp(x) for x <= 0 or NaN, within 2 ULP: x = n ln 2 + r; the Taylor series of exp(r), whose first term left
 * out is below 2^-27 (2^-57) of it; times 2^n, in two steps where that is subnormal. */
static ALWAYS_INLINE V CAT(exp_v, COMPUTE)(V x) {
    static const C inverse_factorials[] = {EXP_SERIES};
    x = V_SELECT(V_WHERE(x < EXP_ZERO), V_SET(EXP_ZERO), x);
    V shifted = V_FMA(x, V_SET((C)0x1.71547652b82fep0), V_SET(ROUND_MAGIC)), n = shifted - ROUND_MAGIC;
    V r = V_FMA(n, V_SET(-LN2_HIGH), x);
    r = V_FMA(n, V_SET(-LN2_LOW), r);
    V value =
        V_FMA(r * r, CAT(polynomial, COMPUTE)(r, inverse_factorials, LENGTH(inverse_factorials)), r) + 1;
    V_BITS_TYPE is_small = V_WHERE(x < EXP_SMALL);
    V_BITS_TYPE exponent = V_BITS(shifted) - V_BITS(V_SET(ROUND_MAGIC)) + (is_small & EXP_STEP);
    value *= V_FROM_BITS((exponent + EXPONENT_BIAS) << MANTISSA_BITS);
    return value * V_SELECT(is_small, V_SET(EXP_STEP_BACK), V_SET(1));
}

/* The normal distribution's tail beyond u >= 0: Mills' ratio times exp(-u^2 / 2). The ratio times u + 0.8 is
 * nearly constant: a polynomial in (u - a) / (u + a), fitted by fit_mills.py. What squaring u rounds off
 * matters in the tail, and comes back as a factor. */
static ALWAYS_INLINE V CAT(normal_tail, COMPUTE)(V u) {
    static const C mills[] = {MILLS};
    V t = 1 - (C)(2 * MILLS_A) / (u + (C)MILLS_A);
    V square = u * u, lost = V_PRODUCT_ERROR(u, u, square);
    V ratio = CAT(polynomial, COMPUTE)(t, mills, LENGTH(mills)) / (u + (C)0.8);
    V tail = ratio * CAT(exp_v, COMPUTE)(square * (C)-0.5);
    return V_FMA(tail, lost * (C)-0.5, tail);
}

/* 2 sqrt(2 / pi) (v + 0.044715 v^3), and in *low what rounding it lost: exp makes a factor of that. */
static ALWAYS_INLINE V CAT(gelu_argument, COMPUTE)(V v, V *low) {
    const double linear = 0x1.9884533d43651p+0, linear_low = -0x1.cbc0d30ebfd15p-54,
                 cubic = 0x1.2444f2a4d8b4bp-4, cubic_low = -0x1.6c843a29d1c70p-61;
    const C c0 = (C)linear, c0_low = (C)(linear - (double)c0 + linear_low);
    const C c1 = (C)cubic, c1_low = (C)(cubic - (double)c1 + cubic_low);
    V square = v * v, square_low = V_PRODUCT_ERROR(v, v, square);
    V product = square * c1, product_low = V_PRODUCT_ERROR(square, V_SET(c1), product);
    V sum = product + c0, part = sum - product;
    V sum_low =
        (product - (sum - part)) + (c0 - part) + product_low + square_low * c1 + square * c1_low + c0_low;
    V t = v * sum;
    *low = V_PRODUCT_ERROR(v, sum, t) + v * sum_low;
    return t;
}

static WN_NOINLINE V CAT(activate_v, COMPUTE)(V v, wn_activation activation) {
    const V zero = V_SET(0), one = V_SET(1);
    if (activation == WN_RELU) return V_SELECT(V_WHERE(v < 0), zero, v); /* NaN stays */
    if (activation == WN_GELU) {
        V u = V_SELECT(V_WHERE(v < 0), -v, v);
        u = V_SELECT(V_WHERE(u > NORMAL_TAIL_ZERO), V_SET(NORMAL_TAIL_ZERO), u);
        V tail = CAT(normal_tail, COMPUTE)(u);
        return v * V_SELECT(V_WHERE(v < 0), tail, one - tail);
    }
    /* v times the logistic function of t: of v, or tanh by another name */
    V t = v, low = zero;
    if (activation == WN_GELU_TANH) t = CAT(gelu_argument, COMPUTE)(v, &low);
    V_BITS_TYPE is_negative = V_WHERE(t < 0);
    V e = CAT(exp_v, COMPUTE)(V_SELECT(is_negative, t, -t));
    low = V_SELECT(V_WHERE(e > 0), V_SELECT(is_negative, low, -low),
                   zero); /* where t is huge, low is not finite */
    e = V_FMA(e, low, e);
    return v * (V_SELECT(is_negative, e, one) / (one + e));
}

#undef LENGTH
#undef V_SELECT
#undef V_FROM_BITS
#undef V_BITS
#undef V_PRODUCT_ERROR
#undef V_FMA
#undef V_SET
#undef V_BITS_TYPE
#undef V
