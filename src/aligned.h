/* Memory for results that starts at a cache line, in the form of NumPy's allocators (PyDataMem_Handler). Rows
 * that lie as the lines do are written whole: by vectors that cross no line, and past the cache where that
 * pays. */
#ifndef WN_ALIGNED_H
#define WN_ALIGNED_H

#include <stddef.h>

enum { WN_LINE = 64, WN_ALIGNED_BYTES = 1 << 16 }; /* smaller arrays are not worth the way round */

/* How many bytes that arrays have left (what is reserved for them, which counts towards the bound, may be up
 * to a third more) are held for the next ones, and freed now if so asked; and at most how many. */
size_t wn_output_cache(int clear, size_t *most);

void *wn_aligned_malloc(void *context, size_t size);
void *wn_aligned_calloc(void *context, size_t count, size_t size);
void *wn_aligned_realloc(void *context, void *memory, size_t size);
void wn_aligned_free(void *context, void *memory, size_t size);

#endif
