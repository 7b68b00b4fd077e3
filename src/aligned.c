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
    size_t size, room, reserved;
    void *from;
} head;

static head *head_of(void *memory) { return (head *)((char *)memory - WN_LINE); }

enum { PAGE = 4096, LARGEST_PAGE = 1 << 16, HUGE_PAGE = 1 << 21, HUGE_FROM = 1 << 20 };

#if defined(__linux__) && defined(MADV_HUGEPAGE)
/* Large arrays lie on pages of 2 MiB where the system has them, and have them for themselves: fewer faults
 * when memory is new, and fewer pages to look up and for fetching ahead to stop at. Nearly a whole page is
 * one, too; what is over is left to small ones. */
static void *new_pages(size_t size, size_t *reserved) {
    size_t whole = size / HUGE_PAGE * HUGE_PAGE, rest = size - whole;
    bool is_nearly_one_more = rest && rest + size / 3 >= HUGE_PAGE;
    if (is_nearly_one_more) whole += HUGE_PAGE;
    *reserved = is_nearly_one_more ? whole : (size + LARGEST_PAGE - 1) / LARGEST_PAGE * LARGEST_PAGE;
    char *from =
        mmap(NULL, *reserved + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (from == MAP_FAILED) return NULL;
    size_t skip = (size_t)(-(uintptr_t)from % HUGE_PAGE);
    if (skip) munmap(from, skip);
    munmap(from + skip + *reserved, HUGE_PAGE - skip);
    if (whole) madvise(from + skip, whole, MADV_HUGEPAGE);
    return from + skip;
}

static void free_pages(void *from, size_t reserved) { munmap(from, reserved); }
#else
static void *new_pages(size_t size, size_t *reserved) {
    *reserved = (size + PAGE - 1) / PAGE * PAGE;
    return aligned_alloc(PAGE, *reserved);
}

static void free_pages(void *from, size_t reserved) {
    (void)reserved;
    free(from);
}
#endif

/* How far into its memory an array starts. One that begins a line or two farther on its page than another, of
 * which it is made, is in that one's way: what is loaded next looks like what was just stored, and a norm
 * takes up to half as long again. NumPy's arrays begin with a page, so ours do not; and not all in the same
 * sets of the caches. */
static size_t next_start(bool is_large) {
    enum { STARTS = 4, FIRST = 512, STEP = 1024, PAGES = 3 * PAGE };
    static atomic_uint count;
    size_t turn = atomic_fetch_add_explicit(&count, 1, memory_order_relaxed) % STARTS;
    return FIRST + turn * (STEP + (is_large ? PAGES : 0));
}

static void release(void *memory) {
    const head *h = head_of(memory);
    if (h->room >= HUGE_FROM)
        free_pages(h->from, h->reserved);
    else
        free(h->from);
}

/* ---- the output cache: memory that arrays have left, oldest first. A page that is new costs more than to
 * fill it. */

enum { KEPT = 16, KEEP_FROM = HUGE_FROM };

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
    cache.bytes -= head_of(memory)->reserved;
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
    size_t reserved = head_of(memory)->reserved;
    if (head_of(memory)->room < KEEP_FROM || !enter()) return 0;
    int is_kept = reserved <= bound();
    if (is_kept) {
        while (cache.count == KEPT || cache.bytes > bound() - reserved) release(remove_kept(0));
        cache.memory[cache.count++] = memory;
        cache.bytes += reserved;
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
    while (clear && cache.count) release(remove_kept(0));
    leave();
    return bytes;
}

static void *reserve(bool is_large, size_t taken, size_t *reserved) {
    if (is_large) return new_pages(taken, reserved);
    *reserved = (taken + WN_LINE - 1) / WN_LINE * WN_LINE;
    return aligned_alloc(WN_LINE, *reserved);
}

static void *new_memory(size_t size) {
    bool is_large = size >= HUGE_FROM;
    size_t start = next_start(is_large), reserved;
    if (size > SIZE_MAX - start - 2 * HUGE_PAGE) return NULL;
    char *from = reserve(is_large, start + size, &reserved);
    if (!from) { /* what is held may be what lacks */
        size_t most;
        wn_output_cache(1, &most);
        from = reserve(is_large, start + size, &reserved);
    }
    if (!from) return NULL;
    char *memory = from + start;
    *head_of(memory) = (head){size, size, reserved, from};
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
    if (memory && !keep(memory)) release(memory);
}
