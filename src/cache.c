#include "cache.h"

#include <stdatomic.h>
#include <stdio.h>

static const size_t guess = (size_t)32 << 20;

/* What a CPU has of a cache at most, as bench/cutoff.py shows: a virtual machine's few are told the size of
 * all of a large processor's, of which others have the rest. Hardly a processor has as much for each of its
 * own. */
static const size_t most_each = (size_t)40 << 20;

static FILE *open_file(const char *directory, int index, const char *name) {
    char path[256];
    int length = snprintf(path, sizeof path, "%s/index%d/%s", directory, index, name);
    return length > 0 && (size_t)length < sizeof path ? fopen(path, "r") : NULL;
}

/* Such as "32768K"; 0 if there is no such file. */
static size_t size_of(const char *directory, int index) {
    size_t size = 0;
    char unit = 0;
    FILE *file = open_file(directory, index, "size");
    if (!file) return 0;
    if (fscanf(file, "%zu%c", &size, &unit) < 1) size = 0;
    fclose(file);
    return unit == 'K' ? size << 10 : unit == 'M' ? size << 20 : size;
}

/* How many CPUs a list such as "0-3,64-67" names; 0 if there is none. */
static size_t cpus_of(const char *directory, int index) {
    size_t cpus = 0;
    unsigned first, last;
    FILE *file = open_file(directory, index, "shared_cpu_list");
    if (!file) return 0;
    for (int read; (read = fscanf(file, "%u-%u,", &first, &last)) > 0;) {
        if (read == 1) last = first;
        cpus += last >= first ? (size_t)last - first + 1 : 0;
        if (read == 1 && fscanf(file, "%*1[,]") == EOF) break;
    }
    fclose(file);
    return cpus;
}

wn_caches wn_read_caches(const char *directory) {
    wn_caches caches = {.l1 = size_of(directory, 0)}; /* of data, on x86 and ARM */
    size_t cpus = 0;
    for (int index = 0; index < 5; index++) {
        size_t bytes = size_of(directory, index);
        if (bytes > caches.last) caches.last = bytes, cpus = cpus_of(directory, index);
    }
    if (caches.last == 0) caches.last = guess;
    caches.share = cpus && caches.last / cpus > most_each ? cpus * most_each : caches.last;
    return caches;
}

wn_caches wn_known_caches(void) {
    static atomic_size_t l1, last, share;
    wn_caches caches = {.last = atomic_load_explicit(&last, memory_order_acquire)};
    if (caches.last) {
        caches.l1 = atomic_load_explicit(&l1, memory_order_relaxed);
        caches.share = atomic_load_explicit(&share, memory_order_relaxed);
        return caches;
    }
    caches = wn_read_caches("/sys/devices/system/cpu/cpu0/cache");
    atomic_store_explicit(&l1, caches.l1, memory_order_relaxed);
    atomic_store_explicit(&share, caches.share, memory_order_relaxed);
    atomic_store_explicit(&last, caches.last, memory_order_release);
    return caches;
}
