/* Threads: the one file pair that knows OpenMP. Everything parallel in the library is a wn_parallel call. */
#ifndef WN_THREADS_H
#define WN_THREADS_H

#include <stddef.h>

/* Called once at import: fork guard, cgroup quota. */
void wn_threads_init(void);

/* The user's limits: for the process (0: none), and for the calling thread only (0: none; it takes
 * precedence over the process's). */
void wn_set_num_threads(int n);
int wn_get_num_threads(void);
void wn_set_thread_num_threads(int n);
int wn_get_thread_num_threads(void);

/* Threads that a call from this thread may use now: the user's limit, but no more than OpenMP's limit for
 * this thread, the CPUs of its affinity mask and the cgroup's CPU quota; 1 in a forked child. */
int wn_max_threads(void);

/* What each limit is, for show_config(). 0 stands for "none". */
typedef struct {
    int process, thread, openmp, affinity, cgroup, forked;
    const char *runtime; /* "libgomp", "libomp", ..., or "none" */
} wn_thread_limits;
void wn_get_thread_limits(wn_thread_limits *limits);

/* The CPU quota, in whole CPUs rounded up, of the cgroup that the file <root>/proc/self/cgroup names, from
 * the files below <root>/sys/fs/cgroup (versions 1 and 2); 0 if there is none. */
int wn_cgroup_quota(const char *root);

/* Threads worth using for work that reads and writes so many bytes and splits into `items` pieces: at most
 * wn_max_threads(), 1 where starting a team would cost more than it saves. */
int wn_threads_for(size_t bytes, size_t items);

/* Runs body(context, thread, thread_count) once on each thread of a team of at most n, all with the caller's
 * floating-point environment. The team may be smaller (no thread can be created, nested region): bodies
 * split by thread_count. */
typedef void (*wn_body)(void *context, int thread, int thread_count);
void wn_parallel(int n, wn_body body, void *context);

/* The part of [0, count) that is thread's: contiguous, sizes differing by one at most. */
static inline void wn_split(size_t count, int thread, int thread_count, size_t *begin, size_t *end) {
    size_t share = count / (size_t)thread_count, rest = count % (size_t)thread_count, t = (size_t)thread;
    *begin = t * share + (t < rest ? t : rest);
    *end = *begin + share + (t < rest ? 1 : 0);
}

#endif
