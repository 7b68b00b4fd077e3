/* Batch, group and instance norm of contiguous arrays: their problem, as _problem.py makes it of any array.
 */
#include "job.h"

#include <stdlib.h>

static wn_axis axis_of(size_t count, size_t bytes, size_t affine_stride) {
    return (wn_axis){(int64_t)count, (int64_t)bytes, (int64_t)bytes, (int64_t)affine_stride, 0};
}

/* axis: room for outer (2), reduced (2) and inner ones. */
static void lay_out(const wn_channels *c, size_t size, wn_axis *axis, wn_problem *p) {
    size_t n = c->batch, channels = c->channels, s = c->positions, sample = channels * s * size;
    size_t length = c->groups ? channels / c->groups : 1; /* channels of a group */
    p->pattern = WN_RUN;
    p->group = 1;
    axis[0] = axis_of(1, 0, 0);
    if (c->block) {
        p->pattern = WN_COLS;
        axis[4] = axis_of(c->block, size, c->block > 1); /* of one, weight and bias do not vary */
        axis[3] = axis_of(s, c->block * size, 0);
        axis[2] = axis_of(n, sample, 0);
        axis[1] = axis_of(channels / c->block, s * c->block * size, c->block);
        p->outer = wn_axes_of(axis, 2);
        p->reduced = wn_axes_of(axis + 2, 2);
        p->inner = wn_axes_of(axis + 4, 1);
        return;
    }
    if (!c->last) {
        axis[3] = axis_of(s, size, 0);
        axis[1] = axis_of(c->groups ? c->groups : channels, length * s * size, length);
        axis[2] = c->groups ? axis_of(length, s * size, 1) : axis_of(n, sample, 0);
        if (c->groups) axis[0] = axis_of(n, sample, 0);
    } else if (length <= WN_TILE) {
        p->pattern = WN_COLS;
        p->group = (int64_t)length;
        axis[3] = axis_of(channels, size, channels > 1);
        axis[2] = axis_of(c->groups ? s : n * s, channels * size, 0);
        axis[1] = c->groups ? axis_of(n, sample, 0) : axis_of(1, 0, 0);
    } else {
        axis[3] = axis_of(length, size, 1);
        axis[2] = axis_of(s, channels * size, 0);
        axis[1] = axis_of(c->groups, length * size, length);
        axis[0] = axis_of(n, sample, 0);
    }
    p->outer = wn_axes_of(axis, 2);
    p->reduced = wn_axes_of(axis + 2, 1);
    p->inner = wn_axes_of(axis + 3, 1);
}

static void update(void *running, wn_dtype dtype, size_t i, double momentum, double of_batch) {
    double value = (1.0 - momentum) * wn_wide_at(running, dtype, i) + momentum * of_batch;
    if (dtype == WN_f64)
        ((double *)running)[i] = value;
    else
        ((float *)running)[i] = (float)value;
}

wn_status wn_norm_channels(const wn_channels *c) {
    wn_axis axis[5];
    wn_problem p = {.x_dtype = c->dtype,
                    .y_dtype = c->dtype,
                    .centred = 1,
                    .x = c->x,
                    .y = c->y,
                    .weight = c->weight,
                    .bias = c->bias,
                    .activation = c->activation,
                    .eps = c->eps};
    lay_out(c, wn_dtype_bytes(c->dtype), axis, &p);
    if (!c->groups && !c->training) {
        p.given_mean = c->running_mean, p.given_var = c->running_var;
        p.given_dtype = c->dtype == WN_f64 ? WN_f64 : WN_f32;
    }
    if (c->groups || !c->training) return wn_run(&p);

    size_t channels = c->channels;
    double *memory = malloc(5 * channels * sizeof(double));
    if (!memory) return WN_NO_MEMORY;
    double *mean = memory, *mean_lo = mean + channels, *m2 = mean_lo + channels;
    p.states = (wn_states){mean, mean_lo, m2, m2 + channels};
    p.count = m2 + 2 * channels;
    wn_status status = wn_run(&p);
    double count = (double)(c->batch * c->positions);
    for (size_t i = 0; status == WN_OK && i < channels; i++) {
        if (c->running_mean) update(c->running_mean, c->dtype, i, c->momentum, mean[i] + mean_lo[i]);
        if (c->running_var) update(c->running_var, c->dtype, i, c->momentum, m2[i] / (count - 1.0));
    }
    free(memory);
    return status;
}
