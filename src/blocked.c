/* Channels into blocks and out of them: transposes of (channels of a block, positions). */
#include "threads.h"
#include "welnorm.h"

#include <string.h>

/* Positions at a time: enough cache lines in a row for the hardware to fetch ahead in each channel, few
 * enough for a tile of 16 channels of 4 bytes to stay in L1. */
enum { TILE = 256 };

typedef struct {
    char *plain, *blocked;
    size_t batch, channels, positions, block, size;
    int into_blocks;
} move_call;

#ifdef __GNUC__
#    define ALWAYS_INLINE inline __attribute__((always_inline))
#else
#    define ALWAYS_INLINE inline
#endif
#if defined(__has_builtin)
#    if __has_builtin(__builtin_shufflevector)
#        define HAS_SHUFFLES
typedef uint32_t v4 __attribute__((vector_size(16)));
#    endif
#endif

#ifdef HAS_SHUFFLES
/* Four by four elements of 4 bytes, in registers. */
static ALWAYS_INLINE void transpose_4x4(char *to, size_t to_step, const char *from, size_t from_step) {
    v4 a[4], b[4], c[4];
    for (size_t k = 0; k < 4; k++) memcpy(&a[k], from + k * from_step * 4, sizeof *a);
    b[0] = __builtin_shufflevector(a[0], a[1], 0, 4, 1, 5);
    b[1] = __builtin_shufflevector(a[0], a[1], 2, 6, 3, 7);
    b[2] = __builtin_shufflevector(a[2], a[3], 0, 4, 1, 5);
    b[3] = __builtin_shufflevector(a[2], a[3], 2, 6, 3, 7);
    c[0] = __builtin_shufflevector(b[0], b[2], 0, 1, 4, 5);
    c[1] = __builtin_shufflevector(b[0], b[2], 2, 3, 6, 7);
    c[2] = __builtin_shufflevector(b[1], b[3], 0, 1, 4, 5);
    c[3] = __builtin_shufflevector(b[1], b[3], 2, 3, 6, 7);
    for (size_t k = 0; k < 4; k++) memcpy(to + k * to_step * 4, &c[k], sizeof *c);
}
#endif

/* to[j * to_step + i] = from[i * from_step + j] for i < rows, j < columns, elements of so many bytes. The
 * outer loop is over the side whose lines are far apart, often a power of two: each is used whole before it
 * has to make room. */
static ALWAYS_INLINE void transpose(char *to, size_t to_step, const char *from, size_t from_step, size_t rows,
                                    size_t columns, size_t size) {
#ifdef HAS_SHUFFLES
    if (size == 4 && rows % 4 == 0 && columns % 4 == 0) {
        if (from_step > to_step)
            for (size_t i = 0; i < rows; i += 4)
                for (size_t j = 0; j < columns; j += 4)
                    transpose_4x4(to + (j * to_step + i) * 4, to_step, from + (i * from_step + j) * 4,
                                  from_step);
        else
            for (size_t j = 0; j < columns; j += 4)
                for (size_t i = 0; i < rows; i += 4)
                    transpose_4x4(to + (j * to_step + i) * 4, to_step, from + (i * from_step + j) * 4,
                                  from_step);
        return;
    }
#endif
    if (from_step > to_step)
        for (size_t i = 0; i < rows; i++)
            for (size_t j = 0; j < columns; j++)
                memcpy(to + (j * to_step + i) * size, from + (i * from_step + j) * size, size);
    else
        for (size_t j = 0; j < columns; j++)
            for (size_t i = 0; i < rows; i++)
                memcpy(to + (j * to_step + i) * size, from + (i * from_step + j) * size, size);
}

/* One tile; size is a constant at each call. */
static ALWAYS_INLINE void move_tile(const move_call *call, char *plain, char *blocked, size_t channels,
                                    size_t positions, size_t size) {
    if (!call->into_blocks) {
        transpose(plain, call->positions, blocked, call->block, positions, channels, size);
        return;
    }
    transpose(blocked, call->block, plain, call->positions, channels, positions, size);
    for (size_t p = 0; p < positions && channels < call->block; p++)
        memset(blocked + (p * call->block + channels) * size, 0, (call->block - channels) * size);
}

static void move_body(void *context, int thread, int thread_count) {
    const move_call *call = context;
    size_t blocks = (call->channels + call->block - 1) / call->block;
    size_t tiles = (call->positions + TILE - 1) / TILE, item, end;
    for (wn_split(call->batch * blocks * tiles, thread, thread_count, &item, &end); item < end; item++) {
        size_t position = item % tiles * TILE, row = item / tiles; /* row: a block of a sample */
        size_t first = row % blocks * call->block, sample = row / blocks;
        size_t channels = call->channels - first < call->block ? call->channels - first : call->block;
        size_t positions = call->positions - position < TILE ? call->positions - position : TILE;
        char *plain =
            call->plain + ((sample * call->channels + first) * call->positions + position) * call->size;
        char *blocked = call->blocked + (row * call->positions + position) * call->block * call->size;
        if (call->size == 2)
            move_tile(call, plain, blocked, channels, positions, 2);
        else if (call->size == 4)
            move_tile(call, plain, blocked, channels, positions, 4);
        else
            move_tile(call, plain, blocked, channels, positions, 8);
    }
}

void wn_move_blocked(void *plain, void *blocked, size_t batch, size_t channels, size_t positions,
                     size_t block, size_t element_bytes, int into_blocks) {
    move_call call = {plain, blocked, batch, channels, positions, block, element_bytes, into_blocks};
    size_t blocks = (channels + block - 1) / block, tiles = (positions + TILE - 1) / TILE;
    size_t bytes = 2 * batch * blocks * block * positions * element_bytes;
    wn_parallel(wn_threads_for(bytes, batch * blocks * tiles), move_body, &call);
}
