/* For the tests of threads: work that shows who did it, and child processes. */
#ifndef WN_TEAMS_H
#define WN_TEAMS_H

#include "check.h"
#include "threads.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifdef _OPENMP
enum { HAS_OPENMP = 1 };
#else
enum { HAS_OPENMP = 0 };
#endif

#ifdef __has_feature
#    if __has_feature(address_sanitizer)
#        define __SANITIZE_ADDRESS__ 1
#    elif __has_feature(thread_sanitizer)
#        define __SANITIZE_THREAD__ 1
#    endif
#endif
#ifdef __SANITIZE_ADDRESS__
enum { SANITIZED = 1, FORKS = 100, FORKS_DURING_WORK = 0 }; /* which may find its locks taken */
#elif defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1, FORKS = 0, FORKS_DURING_WORK = 0 };
#else
enum { SANITIZED = 0, FORKS = 100, FORKS_DURING_WORK = 100 };
#endif

enum { MOST_THREADS = 64, ITEMS = 10007 };

typedef struct {
    atomic_int visits[MOST_THREADS];
    atomic_int team, disagreements;
    atomic_llong sum;
} summing;

static inline void sum_part(void *context, int thread, int thread_count) {
    summing *s = context;
    int expected = 0;
    if (!atomic_compare_exchange_strong(&s->team, &expected, thread_count) && expected != thread_count)
        atomic_fetch_add(&s->disagreements, 1);
    if (thread >= 0 && thread < MOST_THREADS) atomic_fetch_add(&s->visits[thread], 1);
    size_t begin, end;
    long long sum = 0;
    wn_split(ITEMS, thread, thread_count, &begin, &end);
    for (size_t i = begin; i < end; i++) sum += (long long)i;
    atomic_fetch_add(&s->sum, sum);
}

/* Returns the size of the team, or 0 if anything was wrong. It allocates nothing. */
static inline int team_of_right_sum(int n) {
    summing s = {.sum = 0};
    wn_parallel(n, sum_part, &s);
    int team = atomic_load(&s.team);
    int right = atomic_load(&s.sum) == (long long)ITEMS * (ITEMS - 1) / 2 && !atomic_load(&s.disagreements);
    for (int i = 0; i < MOST_THREADS; i++) right = right && atomic_load(&s.visits[i]) == (i < team);
    return right && team <= (n > 1 ? n : 1) ? team : 0;
}

static inline void pause_1ms(void) { nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); }

/* wn_parallel may work alone for up to a second where teams were of no use. */
static inline int team_comes(int n) {
    for (int i = 0; i < 3000; i++) {
        if (team_of_right_sum(n) == (HAS_OPENMP ? n : 1)) return 1;
        pause_1ms();
    }
    return 0;
}

typedef int (*child_body)(long argument);

/* The child's exit status, or minus the signal that ended it: SIGALRM if it hung. */
static inline int status_of_child(child_body body, long argument) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(2);
        exit(body(argument)); /* not _exit: libomp has a file in /dev/shm to remove */
    }
    int status = 0;
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

#endif
