#if defined(__linux__)
#    define _DEFAULT_SOURCE /* madvise */
#endif
#include "aligned.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#    include <sys/mman.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#    include <unistd.h>
#endif

/* Before each array a line that holds its size, as realloc is not told it, how much there is room for, and
 * what it is a part of. */
typedef struct {
    size_t size, room, taken;
    void *from;
} head;

static head *head_of(void *memory) { return (head *)((char *)memory - WN_LINE); }

enum { PAGE = 4096, HUGE_PAGE = 1 << 21, HUGE_FROM = 1 << 20 };

/* Large arrays lie on pages of 2 MiB where the system has them: fewer faults when memory is new, and fewer
 * pages to look up and for fetching ahead to stop at. Nearly a whole page is one, too; what is over is left
 * to small ones. */
static void hint_huge_pages(void *memory, size_t size) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    size_t whole = size / HUGE_PAGE * HUGE_PAGE, rest = size - whole;
    if (rest >= HUGE_PAGE - size / 3) whole += HUGE_PAGE;
    if (whole) madvise(memory, whole, MADV_HUGEPAGE);
#else
    (void)memory;
    (void)size;
#endif
}

/* Where on its page a large array starts. Two that lie alike to pages, as they do at the start of large ones,
 * are in each other's way: they share sets of the caches, and a load looks like one of what was just stored.
 * NumPy's own begin with a page, so these begin about its middle. */
static size_t next_start(void) {
    enum { STARTS = 5, FIRST = 1600 - WN_LINE, STEP = 3 * PAGE + 256 };
    static atomic_uint count;
    return FIRST + STEP * (size_t)(atomic_fetch_add_explicit(&count, 1, memory_order_relaxed) % STARTS);
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
    cache.bytes -= head_of(memory)->taken;
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
    size_t taken = head_of(memory)->taken;
    if (head_of(memory)->room < KEEP_FROM || !enter()) return 0;
    int is_kept = taken <= bound();
    if (is_kept) {
        while (cache.count == KEPT || cache.bytes > bound() - taken) free(head_of(remove_kept(0))->from);
        cache.memory[cache.count++] = memory;
        cache.bytes += taken;
    }
    leave();
    return is_kept;
}

size_t wn_output_cache(int clear, size_t *most) {
    size_t bytes = 0;
    *most = 0;
    if (!enter()) return 0;
    *most = bound();
    for (size_t i = 0; i < cache.count; i++) bytes += head_of(cache.memory[i])->room;
    while (clear && cache.count) free(head_of(remove_kept(0))->from);
    leave();
    return bytes;
}

static void *new_memory(size_t size) {
    bool is_large = size >= HUGE_FROM;
    size_t alignment = is_large ? HUGE_PAGE : WN_LINE, start = (is_large ? next_start() : 0) + WN_LINE;
    if (size > SIZE_MAX - start - alignment) return NULL;
    size_t taken = start + size, whole = (taken + alignment - 1) / alignment * alignment;
    char *from = aligned_alloc(alignment, whole);
    if (!from) { /* what is held may be what lacks */
        size_t most;
        wn_output_cache(1, &most);
        from = aligned_alloc(alignment, whole);
    }
    if (!from) return NULL;
    if (is_large) hint_huge_pages(from, taken);
    char *memory = from + start;
    *head_of(memory) = (head){size, size, taken, from};
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
    if (memory && !keep(memory)) free(head_of(memory)->from);
}
