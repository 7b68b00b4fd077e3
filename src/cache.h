/* How much the last-level cache holds. */
#ifndef WN_CACHE_H
#define WN_CACHE_H

#include <stddef.h>

/* Bytes of one of this machine's last-level caches, and what its CPUs have of that: all, unless it is more
 * than they can be the only ones to use. */
typedef struct {
    size_t bytes, share;
} wn_cache;

/* Found out once. */
wn_cache wn_last_cache(void);

/* From Linux's files on a CPU's caches; a guess where there are none. */
wn_cache wn_read_cache(const char *directory);

#endif
