/* How rows go: one by one, in batches, several in turn or by tiles, and when. Included by rows.tpl.h. */

/* A function for each form, in one for all of them GCC 12 keeps the sums of some in memory; and how many rows
 * it takes, 0 if as many as it is told. */
typedef struct {
    void (*norm)(const FN(rows) * rows, size_t r, size_t count, size_t later, FN(slots) * slots, size_t at);
    size_t rows;
} FN(step);

#define NORM(name, at_once)                                                                                  \
    enum { FN(name##_rows) = at_once };                                                                      \
    static WN_NOINLINE void FN(name)(const FN(rows) * rows, size_t r, size_t count, size_t later,            \
                                     FN(slots) * slots, size_t at)
#define NORM_TEAM(name, team_rows, is_centred, varies, reach, sum)                                           \
    NORM(name, team_rows) {                                                                                  \
        (void)count;                                                                                         \
        FN(norm_team)(rows, r, later, slots, at, (FN(form)){team_rows, is_centred, varies, reach, sum});     \
    }
#define NORM_TEAMS(name, rows, reach, sum)                                                                   \
    NORM_TEAM(name##_centred, rows, 1, 1, reach, sum)                                                        \
    NORM_TEAM(name, rows, 0, 1, reach, sum)
#define NORM_BATCH(name, is_centred, sum)                                                                    \
    NORM(name, 0) { FN(norm_batch)(rows, r, count, later, slots, at, is_centred, sum); }
#define STEP(name)                                                                                           \
    (FN(step)) { FN(name), FN(name##_rows) }
#define STEPS(name) (centred ? STEP(name##_centred) : STEP(name))

NORM_TEAM(one_scalar, 1, 1, 0, NEAR, 0)
NORM_TEAM(stream_scalar, 1, 1, 0, PAST, 0)
NORM_TEAMS(one, 1, NEAR, 0)
NORM_TEAMS(two, 2, NEAR, 0)
NORM_TEAMS(stream_one, 1, PAST, 0)
NORM_TEAMS(near_sum, 1, NEAR, 1)
NORM_TEAMS(stream_sum, 1, PAST, 1)
#if !IS_16BIT /* not worth the size of their code */
NORM_BATCH(batch, 0, 0)
NORM_BATCH(batch_sum, 0, 1)
NORM_BATCH(batch_sum_centred, 1, 1)
NORM_TEAM(far_one_centred, 1, 1, 1, FAR, 0)
NORM_TEAM(far_sum_centred, 1, 1, 1, FAR, 1)
NORM_TEAMS(four, WN_TEAM, NEAR, 0)
NORM(stream_tiles, 0) { FN(norm_tiles)(rows, r, count, later, slots, at); }
#endif

/* Whether several rows go well in turn: where L1 is larger, stores that lie in two lines took up to twice as
 * long so, but in place, where L1 has them; and sums of squares gained nothing. */
static int FN(take_turns)(const FN(rows) * rows) {
    int begin_at_lines = ((uintptr_t)rows->y | (uintptr_t)rows->y_stride) % 64 == 0;
    if (IS_16BIT || rows->affine->l1 < WN_MORE_L1 || rows->x == rows->y) return 1;
    return rows->centred && begin_at_lines;
}

#if !IS_16BIT
/* Whether rows and their results lie alike to pages, or results a few lines behind: of four rows they would
 * have to share what L1 has for such places. */
static int FN(are_crowded)(const FN(rows) * rows) {
    enum { FEW_LINES = 480 };
    uintptr_t x = (uintptr_t)rows->x, y = (uintptr_t)rows->y;
    return x != y && rows->x_stride % PAGE == 0 && rows->y_stride % PAGE == 0 && (y - x) % PAGE < FEW_LINES;
}

/* Sums of squares take so little that it pays more to find rows still in L1 than to weave, up to LONGEST:
 * longer rows are driven out by weight and result, and had better share the weight. With an addition there
 * are loads and stores enough for long rows to gain, centred or not. Sums of squares of 513 to 1023 elements
 * were faster woven, when measured; so are all without an addition where L1 is larger. */
static int FN(go_in_batches)(const FN(rows) * rows) {
    enum { SHORT = 512, LONG = 1024, LONGEST = 2048 };
    int is_long = rows->n >= LONG && (rows->adds || rows->n <= LONGEST);
    if (!rows->adds && rows->affine->l1 >= WN_MORE_L1) return 0;
    return rows->centred ? rows->adds && is_long : rows->n <= SHORT || is_long;
}
#endif

/* In L1 what takes longest is to load weight and bias as often as x: two rows share them, if there are
 * registers enough for both. Shorter rows, of which five and more are finished by vectors, gain nothing;
 * longer ones are too much for L1. */
static int FN(go_in_twos)(size_t n) {
    return !IS_16BIT && V_F64 >= 8 && n > FN(BATCH) / 5 && n < FN(BATCH) / 2;
}

/* By how much a row, the next one, the result and the parameters are more than L1 holds; negative if they are
 * less. */
static ptrdiff_t FN(bytes_over)(const FN(rows) * rows) {
    size_t bytes = rows->n * (3 * sizeof(T) + (rows->centred ? 2 : 1) * sizeof(C)), l1 = rows->affine->l1;
    return (ptrdiff_t)bytes - (ptrdiff_t)(l1 > LEAST_L1 ? l1 : LEAST_L1);
}

/* Rows that go past the cache by tiles: where two of them, the result and the parameters are much more than
 * L1 holds. RMS norm, with one parameter, and 16 bits gain nothing. */
static int FN(go_by_tiles)(const FN(rows) * rows) {
    enum { MUCH = 16384 };
    return !IS_16BIT && rows->affine->stream && rows->vary && rows->centred && !rows->adds &&
           FN(bytes_over)(rows) >= MUCH;
}

/* Sums of 16 bits are streamed where rows begin at lines and the loop takes whole ones: else stores within
 * the cache are faster. */
static int FN(can_stream_sums)(const FN(rows) * rows) {
    int begin_at_lines = ((uintptr_t)rows->x | (uintptr_t)rows->x_stride) % 64 == 0;
    return !IS_16BIT || (begin_at_lines && (!rows->centred || V_F64 >= 8));
}

/* Long rows go side by side, but not past the cache: as many streams to memory take longer. */
static FN(step) FN(step_for)(const FN(rows) * rows, int stream) {
    int centred = rows->centred, adds = rows->adds != NULL;
    int is_long = FN(bytes_over)(rows) >= -AHEAD; /* no room for what is fetched */
    int take_turns = FN(take_turns)(rows);
    if (!rows->vary) return stream ? STEP(stream_scalar) : STEP(one_scalar);
    if (stream && !FN(go_by_tiles)(rows)) return adds ? STEPS(stream_sum) : STEPS(stream_one);
#if IS_16BIT
    if (adds) return STEPS(near_sum);
#else
    int far = centred && rows->affine->far;
    if (stream) return STEP(stream_tiles);
    if (adds && far) return STEP(far_sum_centred);
    if (FN(go_in_batches)(rows)) return adds ? STEPS(batch_sum) : STEP(batch);
    if (adds) return STEPS(near_sum);
    if (is_long && take_turns && !FN(are_crowded)(rows)) return STEPS(four);
    if (far && !is_long) return STEP(far_one_centred);
#endif
    return take_turns && (is_long || FN(go_in_twos)(rows->n)) ? STEPS(two) : STEPS(one);
}

/* For blocks of long rows, one or WN_TEAM of them. */
static FN(step) FN(step_for_blocks)(const FN(rows) * rows, size_t count) {
    int centred = rows->centred;
    if (rows->affine->stream) return STEPS(stream_one);
    if (count == 1 || !FN(take_turns)(rows)) return STEPS(one);
#if !IS_16BIT
    if (!FN(are_crowded)(rows)) return STEPS(four);
#endif
    return STEPS(two);
}
#undef STEPS
#undef STEP
#undef NORM_BATCH
#undef NORM_TEAMS
#undef NORM_TEAM
#undef NORM
