#include "cache.h"

#include <stdatomic.h>
#include <stdio.h>

static const size_t guess = (size_t)32 << 20;

/* The size in Linux's file on the first CPU's cache of that index, such as "32768K"; 0 if there is none. */
static size_t size_of(int index) {
    char path[80];
    size_t size = 0;
    char unit = 0;
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", index);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    if (fscanf(file, "%zu%c", &size, &unit) < 1) size = 0;
    fclose(file);
    return unit == 'K' ? size << 10 : unit == 'M' ? size << 20 : size;
}

size_t wn_cache_bytes(void) {
    static atomic_size_t known;
    size_t bytes = atomic_load_explicit(&known, memory_order_relaxed);
    if (bytes == 0) {
        for (int index = 0; index < 5; index++)
            if (size_of(index) > bytes) bytes = size_of(index);
        if (bytes == 0) bytes = guess;
        atomic_store_explicit(&known, bytes, memory_order_relaxed);
    }
    return bytes;
}
