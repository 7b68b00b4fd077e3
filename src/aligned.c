#if defined(__linux__)
#    define _DEFAULT_SOURCE /* madvise */
#endif
#include "aligned.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#    include <sys/mman.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#    include <unistd.h>
#endif

/* Before each array a line that holds its size, as realloc is not told it, and how much there is room for. */
typedef struct {
    size_t size, room;
} head;

static head *head_of(void *memory) { return (head *)((char *)memory - WN_LINE); }

/* NumPy's own allocator asks for huge pages from here on, too: fewer faults on memory that is new. */
static void hint_huge_pages(void *memory, size_t size) {
    enum { PAGE = 4096, HUGE_FROM = 1 << 22 };
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (size < HUGE_FROM) return;
    size_t skip = (size_t)(-(uintptr_t)memory % PAGE);
    madvise((char *)memory + skip, (size - skip) / PAGE * PAGE, MADV_HUGEPAGE);
#else
    (void)memory;
    (void)size;
#endif
}

/* ---- the output cache: memory that arrays have left, oldest first. A page that is new costs more than to
 * fill it. */

enum { KEPT = 16, KEEP_FROM = 1 << 20 };

static struct {
    atomic_flag busy; /* who finds it set does without: nobody waits, and nothing hangs after a fork */
    void *memory[KEPT];
    size_t count, bytes, bound;
    int is_bound_known;
} cache = {.busy = ATOMIC_FLAG_INIT};

static int enter(void) { return !atomic_flag_test_and_set_explicit(&cache.busy, memory_order_acquire); }

static void leave(void) { atomic_flag_clear_explicit(&cache.busy, memory_order_release); }

/* WELNORM_OUTPUT_CACHE_MB, or a sixteenth of the machine's memory and at most 1 GiB. */
static size_t bound(void) {
    if (cache.is_bound_known) return cache.bound;
    const char *given = getenv("WELNORM_OUTPUT_CACHE_MB");
    char *end = NULL;
    unsigned long long mb = given ? strtoull(given, &end, 10) : 0;
    cache.bound = (size_t)256 << 20;
#if defined(_SC_PHYS_PAGES)
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (pages > 0 && page > 0) cache.bound = (size_t)pages / 16 * (size_t)page;
#endif
    if (cache.bound > (size_t)1 << 30) cache.bound = (size_t)1 << 30;
    if (given && *given >= '0' && *given <= '9' && *end == 0)
        cache.bound = mb < SIZE_MAX >> 20 ? (size_t)mb << 20 : SIZE_MAX;
    cache.is_bound_known = 1;
    return cache.bound;
}

static void *remove_kept(size_t index) {
    void *memory = cache.memory[index];
    cache.bytes -= head_of(memory)->room;
    cache.count--;
    memmove(&cache.memory[index], &cache.memory[index + 1], (cache.count - index) * sizeof *cache.memory);
    return memory;
}

/* Memory of about that size, the smallest there is; NULL if there is none. */
static void *take(size_t size) {
    if (size < KEEP_FROM || !enter()) return NULL;
    size_t best = cache.count;
    for (size_t i = 0; i < cache.count; i++) {
        size_t room = head_of(cache.memory[i])->room;
        if (room < size || room - size > size / 8) continue;
        if (best == cache.count || room <= head_of(cache.memory[best])->room) best = i;
    }
    void *memory = best < cache.count ? remove_kept(best) : NULL;
    leave();
    if (memory) head_of(memory)->size = size;
    return memory;
}

/* Whether the memory is kept; older memory may have to go for it. */
static int keep(void *memory) {
    size_t room = head_of(memory)->room;
    if (room < KEEP_FROM || !enter()) return 0;
    int is_kept = room <= bound();
    if (is_kept) {
        while (cache.count == KEPT || cache.bytes > bound() - room) free((char *)remove_kept(0) - WN_LINE);
        cache.memory[cache.count++] = memory;
        cache.bytes += room;
    }
    leave();
    return is_kept;
}

size_t wn_output_cache(int clear, size_t *most) {
    size_t bytes = 0;
    *most = 0;
    if (!enter()) return 0;
    *most = bound();
    bytes = cache.bytes;
    while (clear && cache.count) free((char *)remove_kept(0) - WN_LINE);
    leave();
    return bytes;
}

static void *new_memory(size_t size) {
    if (size > SIZE_MAX - 2 * WN_LINE) return NULL;
    char *memory = aligned_alloc(WN_LINE, (size + 2 * WN_LINE - 1) / WN_LINE * WN_LINE);
    if (!memory) { /* what is held may be what lacks */
        size_t most;
        wn_output_cache(1, &most);
        memory = aligned_alloc(WN_LINE, (size + 2 * WN_LINE - 1) / WN_LINE * WN_LINE);
    }
    if (!memory) return NULL;
    hint_huge_pages(memory, size);
    memory += WN_LINE;
    *head_of(memory) = (head){size, size};
    return memory;
}

void *wn_aligned_malloc(void *context, size_t size) {
    (void)context;
    void *memory = take(size);
    return memory ? memory : new_memory(size);
}

void *wn_aligned_calloc(void *context, size_t count, size_t size) {
    if (size && count > SIZE_MAX / size) return NULL;
    void *memory = wn_aligned_malloc(context, count * size);
    return memory ? memset(memory, 0, count * size) : NULL;
}

void *wn_aligned_realloc(void *context, void *memory, size_t size) {
    void *moved = wn_aligned_malloc(context, size);
    if (!moved || !memory) return moved;
    memcpy(moved, memory, head_of(memory)->size < size ? head_of(memory)->size : size);
    wn_aligned_free(context, memory, 0);
    return moved;
}

void wn_aligned_free(void *context, void *memory, size_t size) {
    (void)context;
    (void)size;
    if (memory && !keep(memory)) free((char *)memory - WN_LINE);
}
