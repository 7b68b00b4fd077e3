/* Between memory of any strides and contiguous scratch, a block at a time. */
#ifndef WN_PACK_H
#define WN_PACK_H

#include "job.h"

/* Copies inner elements [begin, begin + n) of the segment or row at x into contiguous dst, times scale
 * (which is 1 unless the elements are float64). */
void wn_gather(const wn_job *job, const char *x, size_t begin, size_t n, double scale, void *dst);

/* Copies n contiguous results in src, of the compute type, to inner elements [begin, begin + n) of the
 * segment or row at y, converted to y's dtype. */
void wn_scatter(const wn_job *job, const void *src, char *y, size_t begin, size_t n);

/* Of n contiguous elements, inner elements [begin, begin + n) of the segment or row whose mask is at `mask`,
 * those that the mask selects, moved to the front; how many. */
size_t wn_compress(const wn_job *job, const uint8_t *mask, size_t begin, size_t n, void *elements);

/* Zeroes the others; the elements are of so many bytes. */
void wn_zero_masked(const wn_job *job, const uint8_t *mask, size_t begin, size_t n, void *elements,
                    size_t element_bytes);

#endif
