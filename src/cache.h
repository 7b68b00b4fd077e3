/* How much the caches hold. */
#ifndef WN_CACHE_H
#define WN_CACHE_H

#include <stddef.h>

/* Bytes of a CPU's first cache, of one of the last-level caches, and the share of that one that its CPUs
 * have: all, but at most so much for each of them. */
typedef struct {
    size_t l1, last, share;
} wn_caches;

/* Found out once. */
wn_caches wn_known_caches(void);

/* From Linux's files on a CPU's caches; a guess where there are none. */
wn_caches wn_read_caches(const char *directory);

#endif
