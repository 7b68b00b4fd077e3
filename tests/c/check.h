/* CHECK counts what fails and goes on; main ends with `return check_result();`. */
#ifndef WN_CHECK_H
#define WN_CHECK_H

#include <stdatomic.h>
#include <stdio.h>

static atomic_int check_count, check_failures;

static inline void check_one(int holds, const char *file, int line, const char *text) {
    atomic_fetch_add(&check_count, 1);
    if (holds) return;
    atomic_fetch_add(&check_failures, 1);
    fprintf(stderr, "%s:%d: failed: %s\n", file, line, text);
}

#define CHECK(condition) check_one(!!(condition), __FILE__, __LINE__, #condition)

/* The exit status. */
static inline int check_result(void) {
    int failures = atomic_load(&check_failures);
    printf("%d checks, %d failed\n", atomic_load(&check_count), failures);
    return failures ? 1 : 0;
}

#endif
