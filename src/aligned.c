#if defined(__linux__)
#    define _DEFAULT_SOURCE /* madvise */
#endif
#include "aligned.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__linux__)
#    include <sys/mman.h>
#endif

/* Before each array a line that holds its size, as realloc is not told it. */
static size_t *size_of(void *memory) { return (size_t *)((char *)memory - WN_LINE); }

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

void *wn_aligned_malloc(void *context, size_t size) {
    (void)context;
    if (size > SIZE_MAX - 2 * WN_LINE) return NULL;
    char *memory = aligned_alloc(WN_LINE, (size + 2 * WN_LINE - 1) / WN_LINE * WN_LINE);
    if (!memory) return NULL;
    hint_huge_pages(memory, size);
    memory += WN_LINE;
    *size_of(memory) = size;
    return memory;
}

void *wn_aligned_calloc(void *context, size_t count, size_t size) {
    if (size && count > SIZE_MAX / size) return NULL;
    void *memory = wn_aligned_malloc(context, count * size);
    return memory ? memset(memory, 0, count * size) : NULL;
}

void *wn_aligned_realloc(void *context, void *memory, size_t size) {
    void *moved = wn_aligned_malloc(context, size);
    if (!moved || !memory) return moved;
    memcpy(moved, memory, *size_of(memory) < size ? *size_of(memory) : size);
    wn_aligned_free(context, memory, 0);
    return moved;
}

void wn_aligned_free(void *context, void *memory, size_t size) {
    (void)context;
    (void)size;
    if (memory) free((char *)memory - WN_LINE);
}
