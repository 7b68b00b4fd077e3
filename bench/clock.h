/* The clock of the benchmark programs. */
#ifndef WN_CLOCK_H
#define WN_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Nanoseconds: as a double of seconds, times of today come in steps of 238 ns. */
static inline int64_t now_ns(void) {
    struct timespec time;
    timespec_get(&time, TIME_UTC);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

#endif
