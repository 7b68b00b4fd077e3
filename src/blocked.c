/* Channels into blocks and out of them: transposes of (channels of a block, positions). */
#include "threads.h"
#include "welnorm.h"

#include <string.h>

enum { TILE = 16 }; /* positions at a time: a cache line of each channel, used whole while it is there */

typedef struct {
    char *plain, *blocked;
    size_t batch, channels, positions, block, size;
    int into_blocks;
} move_call;

#ifdef __GNUC__
#    define ALWAYS_INLINE inline __attribute__((always_inline))
typedef uint32_t v4 __attribute__((vector_size(16)));
#else
#    define ALWAYS_INLINE inline
#endif

/* to[j * to_step + i] = from[i * from_step + j] for i < rows, j < columns, elements of so many bytes. */
static ALWAYS_INLINE void transpose(char *to, size_t to_step, const char *from, size_t from_step, size_t rows,
                                    size_t columns, size_t size) {
    size_t i = 0;
#ifdef __GNUC__
    for (; size == 4 && i + 4 <= rows; i += 4) { /* four by four, in registers */
        size_t j = 0;
        for (; j + 4 <= columns; j += 4) {
            v4 a[4], b[4];
            for (size_t k = 0; k < 4; k++) memcpy(&a[k], from + ((i + k) * from_step + j) * 4, sizeof *a);
            b[0] = (v4){a[0][0], a[1][0], a[2][0], a[3][0]};
            b[1] = (v4){a[0][1], a[1][1], a[2][1], a[3][1]};
            b[2] = (v4){a[0][2], a[1][2], a[2][2], a[3][2]};
            b[3] = (v4){a[0][3], a[1][3], a[2][3], a[3][3]};
            for (size_t k = 0; k < 4; k++) memcpy(to + ((j + k) * to_step + i) * 4, &b[k], sizeof *b);
        }
        for (; j < columns; j++)
            for (size_t k = i; k < i + 4; k++)
                memcpy(to + (j * to_step + k) * 4, from + (k * from_step + j) * 4, 4);
    }
#endif
    for (; i < rows; i++)
        for (size_t j = 0; j < columns; j++)
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
