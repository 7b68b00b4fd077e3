/* Every kernel of kernels.def, for every dtype, on every instruction set that this CPU can run (Linux).
 *
 * Each call is made by each table, with its arguments at each kind of place. Where they lie must not change a
 * bit of the result, nor must the instruction set among those with FMA; the portable table, which has none,
 * may differ from these by a few units in the last place. A kernel's hash is of all that it gave with FMA:
 * the same on every machine, from every compiler.
 *
 * A row of kernels.def needs a function test_<name> here: without one this file does not build. */
#define _GNU_SOURCE /* memfd_create */
#include "check.h"
#include "elements.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "trials.h"

#include "exact_judge.h"

/* ---- one test a kernel -------------------------------------------------------------------------------- */

static void test_moments_run(wn_dtype dtype) {
    static const size_t run_counts[] = {1, 2, 3, 5, 31, WN_BLOCK_RUNS};
    for (int centred = 0; centred < 2; centred++)
        EACH_KIND(k) for (int i = 0; i < 6; i++) EACH_LENGTH(n, WN_BLOCK / run_counts[i]) {
            size_t run_count = run_counts[i], bytes = n * size_of(dtype);
            fill(source, dtype, run_count * n, k, n);
            EACH_TRIAL(t, dtype) {
                const void *runs[WN_BLOCK_RUNS];
                wn_state state;
                for (size_t r = 0; r < run_count; r++) runs[r] = input(&t, source + r * bytes, bytes);
                t.kernels->moments_run(runs, run_count, n, centred, &state);
                see(&state.mean, 4, WN_f64); /* and mean_lo, m2 and m2_lo */
                EXPECT(state.count == (double)(run_count * n));
            }
            compare_states(dtype, 1, run_count * n, k, centred,
                           centred || dtype == WN_f64 ? EXACT_DIGITS : WN_SQUARES_ERROR);
        }
}

static void test_exact_run(wn_dtype dtype) {
    static const size_t run_counts[] = {1, 2, 3, 31, WN_BLOCK_RUNS};
    EACH_KIND(k) for (int i = 0; i < 5; i++) EACH_LENGTH(n, WN_BLOCK / run_counts[i]) {
        size_t run_count = run_counts[i], bytes = n * size_of(dtype);
        int q = fill_integers(source, dtype, run_count * n, k, n);
        EACH_TRIAL(t, dtype) {
            const void *runs[WN_BLOCK_RUNS];
            wn_state state;
            for (size_t r = 0; r < run_count; r++) runs[r] = input(&t, source + r * bytes, bytes);
            t.kernels->exact_run(runs, run_count, n, &state);
            see(&state.mean, 4, WN_f64);
            EXPECT(state.count == (double)(run_count * n));
        }
        compare_exact_states(dtype, 1, run_count * n, k, q);
    }
    EACH_LENGTH(n, WN_BLOCK) { /* squares that leave the range: not finite, and known by it */
        fill(source, dtype, n, LARGE, n);
        EACH_TRIAL(t, dtype) {
            const void *run = input(&t, source, n * size_of(dtype));
            wn_state state;
            t.kernels->exact_run(&run, 1, n, &state);
            EXPECT(n == 1 || dtype != WN_f64 ? state.m2 <= DBL_MAX : !(state.m2 <= DBL_MAX));
        }
    }
}

/* The kernel with the activation is the one without it, to the compute type, then `activate`, then rounded to
 * the dtype: the same numbers, but for the sign of zero. */
static void compare_in_steps(const trial *t, const void *x, const void *y, size_t n, const wn_norm *norm,
                             const wn_affine *affine) {
    static char plain[(WN_BLOCK + 1) * sizeof(double)], stored[sizeof plain];
    wn_dtype compute = compute_of(t->dtype), result = affine->to_compute ? compute : t->dtype;
    wn_affine without = *affine;
    without.activation = WN_NO_ACTIVATION, without.to_compute = 1;
    t->kernels->apply_run(x, plain, n, norm, &without);
    if (affine->activation) t->kernels->activate(plain, n, affine->activation);
    int is_same = 1;
    for (size_t i = 0; i < n; i++) {
        set(stored, i, result, get(plain, i, compute));
        double a = get(stored, i, result), b = get(y, i, result);
        is_same &= a == b || (a != a && b != b);
    }
    EXPECT(is_same);
}

static void test_apply_run(wn_dtype dtype) {
    for (int affine = 0; affine < AFFINE_COUNT; affine++) EACH_KIND(k) EACH_LENGTH(n, WN_BLOCK + 1) {
            for (int variant = 0; variant < 4; variant++) {
                wn_activation activation =
                    (wn_activation)(variant & 1 ? 1 + ((size_t)affine + k + n) % 4 : 0);
                result_type type = (result_type)(variant >> 1);
                double mean = k == CONSTANT ? constants[dtype] : k == FAR_FROM_0 ? offsets[dtype] + 0.1 : 0.1;
                double mean_lo = k == CONSTANT ? 0.0 : mean * 1e-17;
                double rstd = k == LARGE && dtype != WN_f16 ? 1e-30 : 1.7;
                wn_norm norm = {mean, mean_lo, rstd, 1.0};
                wn_affine given = {0};
                size_t bytes = n * size_of(dtype), y_bytes = n * size_of(result_of(dtype, type));
                fill(source, dtype, n, k, n);
                EACH_TRIAL(t, dtype) {
                    const void *x;
                    void *y;
                    given = affine_for(&t, affine, n, activation, type);
                    place_x_and_y(&t, source, bytes, y_bytes, &x, &y);
                    t.kernels->apply_run(x, y, n, &norm, &given);
                    t.kernels->stream_end();
                    see(y, n, result_of(dtype, type));
                    if (variant && t.place == (place)(n % PLACE_COUNT))
                        compare_in_steps(&t, source, y, n, &norm, &given);
                }
                for (size_t i = 0; i < n; i++) {
                    double xhat = (get(source, i, dtype) - mean - mean_lo) * rstd;
                    double lost = k == CONSTANT ? 0.0 : mean * rstd * epsilon_of(dtype);
                    compare_element(dtype, i, i, xhat, lost, &given, affine & IS_SCALAR);
                }
                compare_with_portable((activation ? 8 : 2) * epsilon_of(dtype));
            }
        }
}

typedef struct {
    size_t rows, n;
    ptrdiff_t stride;
    int affine, centred;
    ptrdiff_t affine_step; /* elements */
    wn_activation activation;
    result_type type;
} row_call;

/* Rows so many bytes apart: none (x's alone), more than a row has, or backwards. Each of the rows before the
 * first that is for the wide path becomes what moments_run and apply_run make of it alone. */
static void try_norm_run(wn_dtype dtype, const row_call *call) {
    static char image[CHUNK], alone[WN_BLOCK * sizeof(double)];
    wn_dtype result = result_of(dtype, call->type);
    size_t n = call->n, ratio = size_of(result) / size_of(dtype), bytes = n * size_of(dtype), r;
    size_t reach = bytes + (call->rows - 1) * (size_t)labs(call->stride);
    char *rows = image + (call->stride < 0 ? reach - bytes : 0);
    for (r = 0; r < call->rows; r++) memcpy(rows + (ptrdiff_t)r * call->stride, source + r * bytes, bytes);
    EACH_TRIAL(t, dtype) {
        size_t parameters = (call->affine & IS_SCALAR ? 1 : n) + (size_t)call->affine_step * (call->rows - 1),
               kept;
        wn_affine affine =
            affine_for(&t, call->affine & ~IS_SCALAR, parameters, call->activation, call->type);
        affine.advance = !(call->affine & IS_SCALAR);
        const char *x = (const char *)input(&t, image, reach) + (rows - image);
        char *y = (char *)output(&t, ratio * (call->stride ? reach : call->rows * bytes)) +
                  (ptrdiff_t)ratio * (rows - image);
        ptrdiff_t y_stride = (ptrdiff_t)ratio * (call->stride ? call->stride : (ptrdiff_t)bytes);
        if (t.place == IN_PLACE && call->stride && ratio == 1) x = y = writable(x);
        size_t done = t.kernels->norm_run(x, call->stride, y, y_stride, call->rows, n, &affine,
                                          call->affine_step, 1e-5, call->centred, NULL);
        t.kernels->stream_end();
        for (r = 0; r < call->rows; r++, y += y_stride) {
            const void *row = rows + (ptrdiff_t)r * call->stride;
            size_t step = r * (size_t)call->affine_step * size_of(compute_of(dtype));
            wn_affine of_row = affine;
            if (affine.weight) of_row.weight = (const char *)affine.weight + step;
            if (affine.bias) of_row.bias = (const char *)affine.bias + step;
            wn_state s;
            t.kernels->moments_run(&row, 1, n, call->centred, &s);
            wn_norm norm = wn_finish(&s, 1e-5);
            if ((dtype == WN_f64 ? wn_is_wide_f64 : wn_is_wide_f32)(&norm, s.m2, 1e-5)) break;
            t.kernels->apply_run(row, alone, n, &norm, &of_row);
            see(y, n, result);
            kept = result_count;
            see(alone, n, result);
            result_count = kept;
            EXPECT(!memcmp(results + kept - n, results + kept, n * sizeof *results));
        }
        EXPECT(done == r && (r == call->rows || t.place == IN_PLACE ||
                             y[(ptrdiff_t)ratio * (ptrdiff_t)bytes - 1] == (char)0xa5));
    }
    for (size_t i = 0; i < expected_count[0]; i++) { /* parameters are below 1 */
        double least = is_16bit(result) ? storage_epsilon(result) / epsilon_of(dtype) : 0.0;
        sizes[i] = fabs(expected[0][i]) * (1.0 + least) + 2.0 + least * least_of(result);
    }
    compare_with_portable((call->activation ? 8 : 4) * epsilon_of(dtype));
}

#include "sum_tests.h"

static void test_norm_run(wn_dtype dtype) {
    int turn = 0;
    test_teams(dtype);
    EACH_KIND(k) EACH_LENGTH(n, WN_BLOCK) for (size_t rows = 1; rows <= (n <= SHORT ? 5 : 2); rows++) {
        ptrdiff_t bytes = (ptrdiff_t)(n * size_of(dtype)), strides[] = {bytes, bytes + 13, -bytes - 1, 0};
        for (size_t r = 0; r < rows; r++) /* one in the middle is of the kind */
            fill(source + (ptrdiff_t)r * bytes, dtype, n, r == rows / 2 ? k : NEAR_0, r);
        for (int i = 0; i < 4; i++, turn++) {
            row_call call = {rows, n, strides[i], (int)(n + rows) % 4, 1, 0, WN_NO_ACTIVATION, TO_STORAGE};
            try_norm_run(dtype, &call);
            if (i < 2) try_sums(dtype, &call);
            /* RMS norm; parameters by row, or of all rows; an activation, results of the compute type */
            call.centred = turn / 2 % 2;
            call.affine = turn / 3 % 8;
            call.affine_step = turn % 3 == 0 ? (call.affine & IS_SCALAR ? 1 : (ptrdiff_t)n) : turn % 3 - 1;
            call.activation = (wn_activation)(turn % ACTIVATION_COUNT);
            call.type = (result_type)(turn / ACTIVATION_COUNT % 2);
            try_norm_run(dtype, &call);
        }
    }
}

static wn_states states_at(double *p, size_t columns) {
    return (wn_states){p, p + columns, p + 2 * columns, p + 3 * columns};
}

static void test_moments_cols(wn_dtype dtype) {
    for (int centred = 0; centred < 2; centred++) EACH_KIND(k) EACH_HEIGHT(rows) EACH_WIDTH(columns) {
            if (!centred && (rows + columns) % 3) continue;
            size_t bytes = columns * size_of(dtype);
            fill(source, dtype, rows * columns, k, rows);
            EACH_TRIAL(t, dtype) {
                const void *x_rows[WN_ROWS];
                int in_one_piece = rows * bytes <= CHUNK - 64 && (rows + columns) % 2;
                const char *all = in_one_piece ? input(&t, source, rows * bytes) : NULL;
                for (size_t r = 0; r < rows; r++)
                    x_rows[r] = in_one_piece ? all + r * bytes : input(&t, source + r * bytes, bytes);
                double *p = states_for(&t, 4 * columns);
                const wn_states states = states_at(p, columns);
                t.kernels->moments_cols(x_rows, rows, columns, centred, &states);
                see(p, 4 * columns, WN_f64);
            }
            compare_states(dtype, columns, rows, k, centred, EXACT_DIGITS);
        }
}

/* In two calls: the second adds to the sums of the first, by shifts of the first. */
static void test_exact_cols(wn_dtype dtype) {
    static double state[4 * WN_STRIP];
    EACH_KIND(k) EACH_HEIGHT(rows) EACH_WIDTH(columns) {
        size_t bytes = columns * size_of(dtype), of_first = rows - rows / 3;
        if (rows > 8 && rows < WN_ROWS && columns % 8 != 3) continue;
        int q = fill_integers(source, dtype, rows * columns, k, rows);
        EACH_TRIAL(t, dtype) {
            const void *x_rows[WN_ROWS];
            for (size_t r = 0; r < rows; r++) x_rows[r] = input(&t, source + r * bytes, bytes);
            double *shift = states_for(&t, columns), *sums = states_for(&t, 4 * WN_STRIP);
            t.kernels->exact_cols(x_rows, of_first, columns, 1, shift, sums);
            t.kernels->exact_cols(x_rows + of_first, rows - of_first, columns, 0, shift, sums);
            for (size_t c = 0; c < columns; c++) {
                wn_sums of_column = {{sums[c], sums[WN_STRIP + c]},
                                     {sums[2 * WN_STRIP + c], sums[3 * WN_STRIP + c]}};
                wn_state s = wn_exact_state((double)rows, shift[c], of_column);
                state[c] = s.mean, state[columns + c] = s.mean_lo;
                state[2 * columns + c] = s.m2, state[3 * columns + c] = s.m2_lo;
                double first = get(source, c, dtype);
                EXPECT(shift[c] == (fabs(first) <= DBL_MAX ? first : 0.0));
            }
            see(state, 4 * columns, WN_f64);
        }
        compare_exact_states(dtype, columns, rows, k, q);
    }
}

static void test_merge_cols(wn_dtype dtype) {
    EACH_KIND(k) EACH_WIDTH(columns) {
        size_t bytes = 4 * columns * sizeof(double);
        fill(source, WN_f64, 8 * columns, k, columns); /* mean, mean_lo, m2 and m2_lo of a, and of b */
        EACH_TRIAL(t, dtype) {
            double *p = memcpy(states_for(&t, 4 * columns), source, bytes);
            double *q = memcpy(states_for(&t, 4 * columns), source + bytes, bytes);
            const wn_states a = states_at(p, columns), b = states_at(q, columns);
            t.kernels->merge_cols(&a, 128.0, &b, 3.0, columns);
            see(p, 3 * columns, WN_f64); /* m2_lo is none of its business */
            EXPECT(!memcmp(q, source + bytes, bytes));
            for (size_t c = 0; c < columns; c += 13) {
                double own = get(source, c, WN_f64), own_lo = get(source, columns + c, WN_f64);
                double m2 = get(source, 2 * columns + c, WN_f64);
                wn_merge_into(&own, &own_lo, &m2, 128.0, q[c], q[columns + c], q[2 * columns + c], 3.0);
                EXPECT((p[c] == own || own != own) && (p[2 * columns + c] == m2 || m2 != m2));
            }
        }
        compare_with_portable(0.0);
    }
}

static void test_apply_cols(wn_dtype dtype) {
    static char mean_hi[WN_STRIP * sizeof(double)], rstd[sizeof mean_hi], offset[sizeof mean_hi];
    wn_dtype compute = compute_of(dtype);
    EACH_KIND(k) EACH_HEIGHT(rows) EACH_WIDTH(columns) {
        size_t bytes = columns * size_of(dtype), parameter_bytes = columns * size_of(compute);
        int by_row = (int)(rows + columns) % 2;
        /* as often as not nothing but the affine step */
        size_t turn = rows / 2 + columns / 2 + k;
        wn_activation activation = (wn_activation)(turn % 8 < ACTIVATION_COUNT ? turn % 8 : 0);
        result_type type = (result_type)(turn / 2 % 3 == 1);
        wn_affine affine = {0};
        if (rows > 8 && rows < WN_ROWS && columns % 4 != rows % 4) continue;
        fill(source, dtype, rows * columns, k, rows);
        for (size_t c = 0; c < columns; c++) {
            double mean = k == CONSTANT ? constants[dtype] : k == FAR_FROM_0 ? offsets[dtype] : noise(c, 5);
            set(mean_hi, c, compute, mean);
            set(rstd, c, compute, k == LARGE && dtype != WN_f16 ? 1e-30 : 1.5 + noise(c, 3));
            set(offset, c, compute, k == CONSTANT ? 0.0 : 0.01 * noise(c, 4));
        }
        EACH_TRIAL(t, dtype) {
            const void *x_rows[WN_ROWS];
            void *y_rows[WN_ROWS];
            wn_cols_norm norm = {input(&t, mean_hi, parameter_bytes), input(&t, rstd, parameter_bytes),
                                 input(&t, offset, parameter_bytes)};
            affine = affine_for(&t, HAS_WEIGHT | HAS_BIAS, by_row ? rows : columns, activation, type);
            affine.advance = !by_row;
            if (t.place == AT_ODD_ADDRESSES) affine.stream = 0; /* which is for rows that lie alike */
            for (size_t r = 0; r < rows; r++)
                place_x_and_y(&t, source + r * bytes, bytes, columns * size_of(result_of(dtype, type)),
                              &x_rows[r], &y_rows[r]);
            t.kernels->apply_cols(x_rows, y_rows, rows, columns, &norm, &affine);
            t.kernels->stream_end();
            for (size_t r = 0; r < rows; r++) see(y_rows[r], columns, result_of(dtype, type));
        }
        for (size_t i = 0; i < rows * columns; i++) {
            size_t c = i % columns;
            double xhat = (get(source, i, dtype) - get(mean_hi, c, compute)) * get(rstd, c, compute) +
                          get(offset, c, compute);
            compare_element(dtype, i, by_row ? i / columns : c, xhat, k == CONSTANT ? 0.0 : 0.01, &affine, 0);
        }
        compare_with_portable((activation ? 8 : 2) * epsilon_of(dtype));
    }
}

#include "activation_tests.h"

/* ---- sums, magnitudes, int8 ------------------------------------------------------------------------------
 */

static void test_add(wn_dtype dtype) {
    static char others[(WN_BLOCK + 1) * sizeof(double)];
    wn_dtype compute = compute_of(dtype);
    EACH_KIND(k)
    for (kind other = NEAR_0; other < KIND_COUNT; other = (kind)(other + 1 + (k + other) % 3))
        EACH_LENGTH(n, WN_BLOCK + 1) {
            size_t bytes = n * size_of(dtype);
            fill(source, dtype, n, k, n);
            fill(others, dtype, n, other, n + 1);
            EACH_TRIAL(t, dtype) {
                const void *a = input(&t, source, bytes), *b = input(&t, others, bytes);
                void *sum = t.place != IN_PLACE ? output(&t, bytes) : writable(n % 2 ? a : b);
                if (t.place == IN_PLACE && n % 2) a = sum;
                if (t.place == IN_PLACE && n % 2 == 0) b = sum;
                t.kernels->add(a, b, sum, n);
                see(sum, n, dtype);
            }
            int is_same = 1;
            for (size_t i = 0; i < n; i++) {
                char rounded[sizeof(double)];
                double p = get(source, i, dtype), q = get(others, i, dtype);
                float narrow = (float)p + (float)q;
                set(rounded, 0, dtype, compute == WN_f64 ? p + q : (double)narrow);
                double value = get(rounded, 0, dtype), result = expected[0][i];
                is_same &= value != value ? result != result
                                          : value == result && !signbit(value) == !signbit(result);
                sizes[i] = 0.0;
            }
            EXPECT(is_same);
            compare_with_portable(0.0);
        }
}

static void test_max_magnitude(wn_dtype dtype) {
    wn_dtype compute = compute_of(dtype);
    EACH_KIND(k) EACH_LENGTH(n, WN_BLOCK + 1) for (int variant = 0; variant < 4; variant++) {
        fill(source, compute, n, k, n);
        /* the largest somewhere, of either sign; nothing but zeros of either sign; -inf; NaN of either sign,
         * and inf */
        size_t at = (n * 7 + (size_t)k) % n;
        if (variant == 0) set(source, at, compute, (n % 2 ? -1.5 : 1.5) * fabs(outliers[compute]));
        if (variant == 1)
            for (size_t i = 0; i < n; i++) set(source, i, compute, i % 2 ? -0.0 : 0.0 * (double)i);
        if (variant == 1) set(source, 0, compute, -0.0);
        if (variant >= 2) set(source, at, compute, -(double)INFINITY);
        if (variant == 3) set(source, n - 1 - at, compute, n % 2 ? (double)NAN : -(double)NAN);
        double most = 0.0;
        for (size_t i = 0; i < n; i++) {
            double magnitude = fabs(get(source, i, compute));
            if (magnitude != magnitude || most != most) most = (double)NAN;
            if (magnitude > most) most = magnitude;
        }
        EACH_TRIAL(t, dtype) {
            double result = t.kernels->max_magnitude(input(&t, source, n * size_of(compute)), n);
            see(&result, 1, WN_f64);
            EXPECT(most == most ? result == most && !signbit(result) : result != result);
        }
        sizes[0] = 0.0;
        compare_with_portable(0.0);
    }
}

static int quantized(double value, double scale, wn_dtype compute) {
    double share = compute == WN_f64 ? value / scale : (double)((float)value / (float)scale);
    return share != share ? 0 : (int)rint(fmax(-127.0, fmin(127.0, share)));
}

static void test_quantize(wn_dtype dtype) {
    static int8_t wanted[WN_BLOCK + 1];
    const double scales[] = {0.25, 1.0, 0.037, 1e-38, 3e38, INFINITY, NAN};
    wn_dtype compute = compute_of(dtype);
    EACH_KIND(k) EACH_LENGTH(n, WN_BLOCK + 1) for (int s = 0; s < 7; s++) {
        double scale = (double)(float)scales[s]; /* as wn_problem has them */
        if (s > 2 && n % 4 != (size_t)s % 4) continue;
        fill(source, compute, n, k, n);
        for (size_t i = 0; i < n; i++) {
            double value = k == NEAR_0 ? get(source, i, compute) * 140.0 * scale : get(source, i, compute);
            /* ties, what is just beside them, and the ends */
            double tie = ((double)(int)(i * 37 % 261) - 130.5) * scale;
            if (i % 4 == 1) value = tie;
            if (i % 8 == 2)
                value = compute == WN_f64 ? nextafter(tie, 0.0) : (double)nextafterf((float)tie, 0.0f);
            if (i % 64 == 6) value = i % 128 == 6 ? (double)INFINITY : -(double)INFINITY;
            if (i % 64 == 7) value = (double)NAN;
            set(source, i, compute, value);
            wanted[i] = (int8_t)quantized(get(source, i, compute), scale, compute);
        }
        EACH_TRIAL(t, dtype) {
            const void *y = input(&t, source, n * size_of(compute));
            int8_t *q = output(&t, n);
            t.kernels->quantize(y, q, n, scale);
            for (size_t i = 0; i < n; i++) results[result_count++] = q[i];
            EXPECT(!memcmp(q, wanted, n));
        }
        for (size_t i = 0; i < n; i++) sizes[i] = 0.0;
        compare_with_portable(0.0);
    }
}

static void test_copy(wn_dtype dtype) {
    static const size_t lengths[] = {0, 1, 3, 15, 17, 63, 64, 65, 128, 259, 700};
    fill(source, WN_f64, 1000, NEAR_0, 0);
    for (size_t c = 0; c < 64 * 64 * sizeof lengths / sizeof *lengths; c++) {
        size_t to = c % 64, from = c / 64 % 64, bytes = lengths[c / 64 / 64];
        EACH_TRIAL(t, dtype) {
            const char *x = (const char *)input(&t, source, from + bytes) + from;
            char *y = (char *)output(&t, to + bytes + from) + to;
            t.kernels->copy(y, x, bytes, (int)(c + t.place) % 2);
            EXPECT(!memcmp(y, x, bytes) && (!to || y[-1] == (char)0xa5) && (!from || y[bytes] == (char)0xa5));
        }
    }
}

static void test_read(wn_dtype dtype) {
    static uint32_t words[300];
    for (size_t bit = 0; bit < sizeof words / sizeof *words; bit++) {
        words[bit] = UINT32_C(1) << bit % 32;
        EACH_TRIAL(t, dtype) {
            const uint32_t *x = input(&t, words, sizeof words);
            EXPECT(t.kernels->read(x, bit) == 0);
            EXPECT(t.kernels->read(x, bit + 1) == words[bit]);
            EXPECT(t.kernels->read(x, sizeof words / sizeof *words) == words[bit]);
        }
        words[bit] = 0;
    }
}

#include "folded_tests.h"
#include "woven_tests.h"

static void run_test(const char *name, void (*test)(wn_dtype dtype)) {
    static const char *const dtypes[] = {
#define WN_DTYPE(name, type) #name,
#include "dtypes.def"
#undef WN_DTYPE
    };
    for (int dtype = 0; dtype < WN_DTYPE_COUNT; dtype++) {
        failures = 0, hash = 0xcbf29ce484222325;
        fill(weights, compute_of((wn_dtype)dtype), 2 * WN_BLOCK, NEAR_0, 1);
        fill(biases, compute_of((wn_dtype)dtype), 2 * WN_BLOCK, NEAR_0, 2);
        test((wn_dtype)dtype);
        printf("%016" PRIx64 "  %s_%s\n", hash, name, dtypes[dtype]);
    }
}

int main(void) {
    int file = memfd_create("test_kernels", 0);
    if (file < 0 || ftruncate(file, (off_t)CHUNKS * CHUNK) != 0) abort();
    readable_memory = map_chunks(file, PROT_READ);
    writable_memory = map_chunks(file, PROT_READ | PROT_WRITE);
    for (int i = 0; (tables[i] = wn_usable_isa(i)); i++) printf("%s\n", tables[i]->isa);
#define WN_KERNEL(result, name, arguments) run_test(#name, test_##name);
#include "kernels.def"
#undef WN_KERNEL
    return check_result();
}
