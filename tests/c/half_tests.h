/* 16-bit elements: every one of them, and whatever rounds to them. Part of test_simd.c, for its length. */

/* A type by its definition: bits of the fraction, the least normal exponent, the bits of infinity; and as the
 * vocabulary and convert.h have it. */
typedef struct {
    const vocabulary *v;
    int fraction_bits, least_exponent;
    uint16_t infinity;
    float (*to_f32)(uint16_t half);
    uint16_t (*from_f32)(float value);
    void (*load)(float *to, const void *p);
    void (*store)(void *to, const float *p);
    void (*load_part)(float *to, const void *p, size_t n);
    void (*store_part)(void *to, const float *p, size_t n);
} half_type;

#define HALF_TYPE(T, fraction_bits, least_exponent, infinity)                                                \
    static void load_##T(float *to, const void *p) { v_store_f32(to, v_load_##T(p)); }                       \
    static void store_##T(void *to, const float *p) { v_store_##T(to, v_load_f32(p)); }                      \
    static void load_n_##T(float *to, const void *p, size_t n) { v_store_f32(to, v_load_part_##T(p, n)); }   \
    static void store_n_##T(void *to, const float *p, size_t n) { v_store_part_##T(to, v_load_f32(p), n); }  \
    static const half_type half_##T = {                                                                      \
        &T,       fraction_bits, least_exponent, infinity,   wn_##T##_to_f32, wn_f32_to_##T,                 \
        load_##T, store_##T,     load_n_##T,     store_n_##T};
HALF_TYPE(f16, 10, -14, 0x7c00)
HALF_TYPE(bf16, 7, -126, 0x7f80)

/* The value that these bits stand for; of the bits of infinity, what the next exponent would mean. */
static double value_of(const half_type *h, unsigned bits) {
    unsigned fraction = bits & ((1u << h->fraction_bits) - 1), exponent = (bits & 0x7fff) >> h->fraction_bits;
    if (exponent) fraction += 1u << h->fraction_bits;
    int power = h->least_exponent - h->fraction_bits + (exponent ? (int)exponent - 1 : 0);
    return (bits & 0x8000 ? -1.0 : 1.0) * ldexp(fraction, power);
}

/* Rounds to a multiple of the last place, to even: the bits, except of NaN. */
static uint16_t rounded(const half_type *h, double value) {
    unsigned sign = signbit(value) ? 0x8000 : 0;
    int exponent;
    if (fabs(value) > DBL_MAX) return (uint16_t)(sign | h->infinity);
    frexp(value, &exponent); /* below 2^exponent, from half of it on */
    exponent = value == 0.0 || exponent - 1 < h->least_exponent ? h->least_exponent : exponent - 1;
    unsigned multiple = (unsigned)rint(ldexp(fabs(value), h->fraction_bits - exponent));
    /* a fraction that overflows carries into the exponent, as it should; a normal one brings its leading bit
     */
    unsigned bits = multiple + ((unsigned)(exponent - h->least_exponent) << h->fraction_bits);
    return (uint16_t)(sign | (bits < h->infinity ? bits : h->infinity));
}

static void test_every_half(const half_type *h) {
    for (unsigned first = 0; first < 0x10000; first += (unsigned)V_F32) {
        uint16_t half[V_F32], again[V_F32];
        float narrow[V_F32];
        double wide[V_F32];
        for (unsigned i = 0; i < V_F32; i++) half[i] = (uint16_t)(first + i);
        h->load(narrow, half);
        h->v->load_store(again, half);
        for (unsigned i = 0; i < V_F32; i += V_F64) h->v->wide(wide + i, half + i);
        for (unsigned i = 0; i < V_F32; i++) {
            unsigned magnitude = half[i] & 0x7fffu;
            int is_nan = magnitude > h->infinity;
            double value = value_of(h, half[i]);
            if (magnitude == h->infinity) value = half[i] & 0x8000 ? (double)-INFINITY : (double)INFINITY;
            if (is_nan) value = (double)NAN;
            CHECK(same((double)narrow[i], value) && same((double)h->to_f32(half[i]), value));
            CHECK(same(wide[i], value));
            /* NaN stays one, of its sign */
            CHECK(is_nan ? (again[i] & 0x7fff) > h->infinity && !((again[i] ^ half[i]) & 0x8000)
                         : again[i] == half[i]);
            CHECK(!is_nan || (!signbit(narrow[i]) == !(half[i] & 0x8000)));
            CHECK(is_nan || h->from_f32(narrow[i]) == half[i]);
        }
    }
}

/* Numbers to be rounded, a vector at a time. */
static const half_type *round_to;
static float to_round[V_F32];
static size_t round_count, rounded_count;

static void round_vector(void) {
    uint16_t half[V_F32], part[V_F32] = {0};
    round_to->store(half, to_round);
    size_t n = 1 + rounded_count % V_F32;
    if (n < V_F32) round_to->store_part(part, to_round, n);
    for (size_t i = 0; i < round_count; i++) {
        uint16_t scalar = round_to->from_f32(to_round[i]);
        if (to_round[i] != to_round[i]) {
            CHECK((half[i] & 0x7fff) > round_to->infinity && (scalar & 0x7fff) > round_to->infinity);
            CHECK(!(half[i] & 0x8000) == !signbit(to_round[i]) && !((half[i] ^ scalar) & 0x8000));
        } else {
            CHECK(half[i] == rounded(round_to, (double)to_round[i]) && scalar == half[i]);
        }
        CHECK(n == V_F32 || part[i] == (i < n ? half[i] : 0));
    }
    rounded_count += round_count;
    round_count = 0;
}

static void round_one(float value) {
    to_round[round_count++] = value;
    if (round_count == V_F32) round_vector();
}

static void round_bits(uint32_t bits) { round_one(wn_float_of(bits)); }

/* The float and the next ones on either side, of both signs. */
static void round_about(double value) {
    uint32_t bits = wn_bits_of((float)value);
    for (uint32_t step = 0; step < 5; step++) {
        round_bits(bits + step - 2);
        round_bits((bits + step - 2) ^ 0x80000000);
    }
}

static void test_rounding(const half_type *h) {
    round_to = h;
    memset(to_round, 0, sizeof to_round);
    for (unsigned bits = 0; bits < h->infinity; bits++) {
        round_about(0.5 * value_of(h, bits) + 0.5 * value_of(h, bits + 1)); /* halfway */
        round_about(value_of(h, bits));
    }
    for (uint32_t i = 0; i < 0x1000; i++) { /* the ends of the range of float, and NaN of all kinds */
        round_bits(i), round_bits(i | 0x80000000);
        round_bits(0x7f7ff000 + i), round_bits(0xff7ff000 + i);
        round_bits(0x7f800000 + i), round_bits(0xff800000 + i);
        round_bits(0x7f800000 + (i << 11)), round_bits(0xff800000 + (i << 11));
        round_bits(0x7fffffff - i), round_bits(0xffffffff - i);
    }
    for (uint32_t bit = 0; bit < 23; bit++)
        round_bits(0x7f800000 | 1u << bit), round_bits(0xff800000 | 1u << bit);
    for (int i = 0; i < 1 << 19; i++) round_bits((uint32_t)(random_bits() >> 32));
    round_vector();
}

/* What is behind a part of a vector is neither read nor written: the pages there fault. */
static void test_half_parts(const half_type *h) {
    for (int place = 0; place < PLACES; place++) {
        for (size_t n = 1; n < V_F32; n++) {
            char data[64];
            float narrow[V_F32];
            fill(h->v, data, V_F32, n);
            char *p = memcpy(place_for(2 * n, place), data, 2 * n);
            h->load_part(narrow, p, n);
            for (size_t i = 0; i < V_F32; i++)
                CHECK(same((double)narrow[i], i < n ? get(h->v, data, i) : 0.0));
            memset(p, UNTOUCHED, 2 * n);
            h->store_part(p, narrow, n);
            CHECK(memcmp(p, data, 2 * n) == 0);
        }
    }
}

/* float16's conversions do without subnormal floats, so a CPU told to flush those may as well do so. */
static void test_flushing(void) {
#ifdef __x86_64__
    unsigned control = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(control | 0x8040); /* FTZ and DAZ */
    test_every_half(&half_f16);
    test_rounding(&half_f16);
    __builtin_ia32_ldmxcsr(control);
#endif
}
