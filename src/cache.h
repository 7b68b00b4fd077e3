/* How much the caches hold. */
#ifndef WN_CACHE_H
#define WN_CACHE_H

#include <stddef.h>

/* Bytes of a CPU's first cache, of one of the last-level caches, and what its CPUs have of that: all, unless
 * it is more than they can be the only ones to use. */
typedef struct {
    size_t l1, last, share;
} wn_caches;

/* Found out once. */
wn_caches wn_known_caches(void);

/* From Linux's files on a CPU's caches; a guess where there are none. */
wn_caches wn_read_caches(const char *directory);

#endif
