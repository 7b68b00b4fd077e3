/* How much the last-level cache holds. */
#ifndef WN_CACHE_H
#define WN_CACHE_H

#include <stddef.h>

/* Bytes that one of this machine's last-level caches holds, found out once; a guess where the system does not
 * tell. */
size_t wn_cache_bytes(void);

#endif
