#include "pack.h"
#include "wide.h"

/* The innermost axis, or one element where there is none. */
static wn_axis last_axis(const wn_axes *axes) {
    return axes->ndim ? axes->axis[axes->ndim - 1] : (wn_axis){1, 0, 0, 0, 0};
}

/* How many elements from index on, at most `most`, lie along the last axis alone. */
static size_t stretch_at(const wn_axis *last, size_t index, size_t most) {
    size_t count = (size_t)last->count;
    return wn_min(most, count - index % count);
}

static void gather_strided(const char *x, ptrdiff_t stride, size_t n, size_t size, char *dst) {
    if (stride == (ptrdiff_t)size)
        memcpy(dst, x, n * size);
    else if (size == 2)
        for (size_t i = 0; i < n; i++) memcpy(dst + 2 * i, x + (ptrdiff_t)i * stride, 2);
    else if (size == 4)
        for (size_t i = 0; i < n; i++) memcpy(dst + 4 * i, x + (ptrdiff_t)i * stride, 4);
    else if (size == 8)
        for (size_t i = 0; i < n; i++) memcpy(dst + 8 * i, x + (ptrdiff_t)i * stride, 8);
}

void wn_gather(const wn_job *job, const char *x, size_t begin, size_t n, double scale, void *dst) {
    const wn_axes *axes = &job->problem->inner;
    wn_axis last = last_axis(axes);
    for (size_t done = 0, count; done < n; done += count) {
        count = stretch_at(&last, begin + done, n - done);
        gather_strided(x + wn_locate(axes, begin + done).x, last.x_stride, count, job->x_size,
                       (char *)dst + done * job->x_size);
    }
    if (scale != 1.0) {
        double *element = dst;
        for (size_t i = 0; i < n; i++) element[i] *= scale;
    }
}

static void scatter_strided(const void *src, bool from_f64, char *y, ptrdiff_t stride, wn_dtype dtype,
                            size_t n) {
    for (size_t i = 0; i < n; i++)
        wn_store(y + (ptrdiff_t)i * stride, dtype,
                 from_f64 ? ((const double *)src)[i] : (double)((const float *)src)[i]);
}

void wn_scatter(const wn_job *job, const void *src, char *y, size_t begin, size_t n) {
    const wn_axes *axes = &job->problem->inner;
    wn_axis last = last_axis(axes);
    for (size_t done = 0, count; done < n; done += count) {
        count = stretch_at(&last, begin + done, n - done);
        scatter_strided((const char *)src + done * job->compute_size, job->compute_f64,
                        y + wn_locate(axes, begin + done).y, last.y_stride, job->problem->y_dtype, count);
    }
}

size_t wn_compress(const wn_job *job, const uint8_t *mask, size_t begin, size_t n, void *elements) {
    const wn_axes *axes = &job->problem->inner;
    wn_axis last = last_axis(axes);
    size_t size = job->x_size, kept = 0;
    char *element = elements;
    for (size_t done = 0, count; done < n; done += count) {
        count = stretch_at(&last, begin + done, n - done);
        const uint8_t *selects = mask + wn_locate(axes, begin + done).mask;
        for (size_t i = 0; i < count; i++)
            if (selects[(ptrdiff_t)i * last.mask_stride])
                memmove(element + kept++ * size, element + (done + i) * size, size);
    }
    return kept;
}

void wn_zero_masked(const wn_job *job, const uint8_t *mask, size_t begin, size_t n, void *elements,
                    size_t element_bytes) {
    const wn_axes *axes = &job->problem->inner;
    wn_axis last = last_axis(axes);
    char *element = elements;
    for (size_t done = 0, count; done < n; done += count) {
        count = stretch_at(&last, begin + done, n - done);
        const uint8_t *selects = mask + wn_locate(axes, begin + done).mask;
        for (size_t i = 0; i < count; i++)
            if (!selects[(ptrdiff_t)i * last.mask_stride])
                memset(element + (done + i) * element_bytes, 0, element_bytes);
    }
}
