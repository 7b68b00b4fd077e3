#ifndef _GNU_SOURCE
#    define _GNU_SOURCE /* sched_getaffinity, syscall */
#endif
#include "threads.h"

#include "cpu.h"

#include <fenv.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#ifdef _OPENMP
#    include <omp.h>
#endif
#ifndef _WIN32
#    include <pthread.h>
#    include <sched.h>
#    include <signal.h>
#    include <sys/mman.h>
#endif
#ifdef __GLIBC__
#    include <execinfo.h>
#endif
#ifdef __linux__
#    include <sys/syscall.h>
#    include <unistd.h>
#endif

#if defined(__AVX__) || defined(__SSE3__)
#    error "this file is run before the CPU is known: build it for the baseline"
#endif

static atomic_int initialised, forked, process_limit, cgroup_limit;
static _Thread_local int thread_limit;

/* Relaxed throughout: every one of these numbers stands for itself and orders nothing. */
static int get(atomic_int *number) { return atomic_load_explicit(number, memory_order_relaxed); }
static void set(atomic_int *number, int value) { atomic_store_explicit(number, value, memory_order_relaxed); }

/* ---- limits ------------------------------------------------------------------------------------------ */

static int smaller_limit(int a, int b) { return a && (!b || a < b) ? a : b; }

/* Read on every call: threadpoolctl and omp_set_num_threads change it. */
static int openmp_limit(void) {
#ifdef _OPENMP
    return omp_in_parallel() ? 1 : smaller_limit(omp_get_max_threads(), omp_get_thread_limit());
#else
    return 1;
#endif
}

/* libgomp waits for ever in a child whose parent had a team: the child believes in threads it has not got. It
 * does not matter who made the team, so every child is kept to one thread. */
static void note_fork(void) { set(&forked, 1); }

/* What the runtime would put off until there may be no memory left, and then end the process: libomp starts
 * up on its first call, libgomp's threads leave by pthread_exit, for which glibc, as for backtrace, loads
 * libgcc_s. */
static void start_runtime(void) {
    (void)openmp_limit();
#if defined(_OPENMP) && defined(__GLIBC__)
    void *frame;
    (void)backtrace(&frame, 1);
#endif
}

void wn_threads_init(void) {
    if (atomic_exchange(&initialised, 1)) return;
#ifndef _WIN32
    pthread_atfork(NULL, NULL, note_fork);
#else
    (void)note_fork;
#endif
    set(&cgroup_limit, wn_cgroup_quota(""));
    start_runtime();
}

void wn_set_num_threads(int n) { set(&process_limit, n > 0 ? n : 0); }
int wn_get_num_threads(void) { return get(&process_limit); }
void wn_set_thread_num_threads(int n) { thread_limit = n > 0 ? n : 0; }
int wn_get_thread_num_threads(void) { return thread_limit; }

static int affinity_limit(void) {
#ifdef __linux__
    cpu_set_t sets[16]; /* 16384 CPUs, twice what a kernel can be built for */
    /* The call fails if the kernel's mask is longer than what it is given; few are longer than one set. */
    for (size_t bytes = sizeof *sets; bytes <= sizeof sets; bytes *= 16)
        if (sched_getaffinity(0, bytes, sets) == 0) return CPU_COUNT_S(bytes, sets);
#endif
    return 0;
}

static int64_t now_ns(void) {
    struct timespec now;
#ifdef CLOCK_MONOTONIC
    clock_gettime(CLOCK_MONOTONIC, &now);
#else
    timespec_get(&now, TIME_UTC);
#endif
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* As it was a millisecond ago at most: the only limit that is a system call, which takes nearly half as long
 * as the smallest region. */
static int recent_affinity_limit(void) {
    static _Thread_local struct {
        int64_t until_ns;
        int limit;
    } recent;
    int64_t now = now_ns();
    if (now >= recent.until_ns) {
        recent.limit = affinity_limit();
        recent.until_ns = now + 1000000;
    }
    return recent.limit;
}

static int max_threads(int (*affinity)(void)) {
    if (get(&forked)) return 1;
    int n = smaller_limit(thread_limit ? thread_limit : get(&process_limit), openmp_limit());
    n = smaller_limit(n, get(&cgroup_limit));
    return n > 1 ? smaller_limit(n, affinity()) : n;
}

int wn_max_threads(void) { return max_threads(affinity_limit); }

static const char *runtime_name(void) {
#if !defined(_OPENMP)
    return "none";
#elif defined(__clang__)
    return "libomp";
#elif defined(__GNUC__)
    return "libgomp";
#else
    return "OpenMP";
#endif
}

void wn_get_thread_limits(wn_thread_limits *limits) {
    *limits = (wn_thread_limits){
        .process = wn_get_num_threads(),
        .thread = wn_get_thread_num_threads(),
        .openmp = openmp_limit(),
        .affinity = affinity_limit(),
        .cgroup = get(&cgroup_limit),
        .forked = get(&forked),
        .runtime = runtime_name(),
    };
}

/* ---- teams ------------------------------------------------------------------------------------------- */

#ifdef _OPENMP

static void do_nothing(void *context, int thread, int thread_count) {
    (void)context, (void)thread, (void)thread_count;
}

/* Threads of the last team that this thread led: libgomp keeps as many for the next one, and ends the others.
 */
static _Thread_local int team_size = 1;

#    ifndef _WIN32

static pthread_mutex_t team_changes = PTHREAD_MUTEX_INITIALIZER;
static void lock_team_changes(void) { pthread_mutex_lock(&team_changes); }
static void unlock_team_changes(void) { pthread_mutex_unlock(&team_changes); }

typedef struct {
    pthread_t handle;
    pthread_mutex_t *gate;
    long id;
} probe;

static void *stand_by(void *argument) {
    probe *self = argument;
#        ifdef __linux__
    self->id = syscall(SYS_gettid);
#        endif
    pthread_mutex_lock(self->gate);
    pthread_mutex_unlock(self->gate);
    return NULL;
}

/* pthread_join returns a moment before the kernel stops counting the thread against RLIMIT_NPROC and the pids
 * cgroup, a moment in which libgomp could not have it. Patience is bounded: a debugger may hold the thread.
 */
static void end_probe(const probe *p) {
    pthread_join(p->handle, NULL);
#        ifdef __linux__
    for (int i = 0; i < 10000 && syscall(SYS_tgkill, getpid(), p->id, 0) == 0; i++) sched_yield();
#        endif
}

/* The default stack size is libgomp's unless OMP_STACKSIZE is set; libomp adds a few pages to it. With a
 * little more here, the stacks that glibc keeps for reuse are long enough for either. */
static void set_stack_size(pthread_attr_t *attributes) {
    size_t bytes;
    if (pthread_attr_getstacksize(attributes, &bytes) == 0)
        pthread_attr_setstacksize(attributes, bytes + ((size_t)64 << 10));
}

/* Creates threads, all of them waiting at the gate, until no more can be had. */
static int create_probes(probe *probes, int wanted, pthread_mutex_t *gate) {
    pthread_attr_t attributes;
    sigset_t every_signal, before;
    if (pthread_attr_init(&attributes) != 0) return 0;
    set_stack_size(&attributes);
    sigfillset(&every_signal);
    pthread_sigmask(SIG_SETMASK, &every_signal, &before);
    int created = 0;
    for (; created < wanted; created++) {
        probe *p = &probes[created];
        p->gate = gate;
        if (pthread_create(&p->handle, &attributes, stand_by, p) != 0) break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    return created;
}

/* How many of the wanted threads can exist at once, beside memory for the runtime's own records; -1 if there
 * is not even that. It is mapped: what is freed to malloc may be out of reach for others. */
static int threads_to_be_had(int wanted) {
    const size_t bytes = (size_t)65536 + (size_t)wanted * 32768;
    probe *probes = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (probes == MAP_FAILED) return -1;
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&gate);
    int created = create_probes(probes, wanted, &gate);
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < created; i++) end_probe(&probes[i]);
    munmap(probes, bytes);
    return created;
}

#    else
static void lock_team_changes(void) {}
static void unlock_team_changes(void) {}
static int threads_to_be_had(int wanted) { return wanted; }
#    endif

/* ---- do teams pay? Another library's idle threads (OpenBLAS spins for milliseconds after a product) can
 * hold the CPUs that a team needs: each region then takes a scheduler's time slice instead of microseconds.
 * So regions are timed. One that took longer than the caller alone would have has lost; after two losses in a
 * row the calling thread works alone for twenty times what was lost, and for twice as long each time that
 * trying again loses twice, too (up to a second), which keeps the cost of trying below 5 % unless two regions
 * lose more than 50 ms. A region that does not lose takes one of these doublings back. One loss may be
 * chance, and after a pause the first one is: threads that had nothing to do have gone to sleep. Results have
 * the same bits either way. */

enum { PATIENCE = 20, UNCERTAINTY_NS = 20000, MOST_DOUBLINGS = 10 };
static const int64_t longest_pause_ns = 1000000000;

static _Thread_local struct {
    int doublings;
    int64_t lost_ns, until_ns; /* by the last region; when the pause ends; 0: nothing, there is none */
} alone;

static int works_alone(void) { return alone.until_ns && now_ns() < alone.until_ns; }

/* A region took so much longer than the caller alone would have: n times its own part. */
static void note_region(int64_t lost_ns) {
    int64_t before_ns = alone.lost_ns, both_ns = before_ns + lost_ns,
            times = (int64_t)PATIENCE << alone.doublings;
    alone.lost_ns = 0;
    if (lost_ns < UNCERTAINTY_NS) {
        if (alone.doublings > 0) alone.doublings--;
        alone.until_ns = 0;
    } else if (before_ns == 0) {
        alone.lost_ns = lost_ns;
    } else {
        alone.until_ns = now_ns() + (both_ns < longest_pause_ns / times ? both_ns * times : longest_pause_ns);
        if (alone.doublings < MOST_DOUBLINGS) alone.doublings++;
    }
}

/* Returns what the region lost: see note_region. */
static int64_t run_team(int n, wn_body body, void *context) {
    int64_t start_ns = now_ns(), own_ns = 0;
    wn_environment callers = wn_get_environment();
#    pragma omp parallel num_threads(n) default(none) shared(body, context, callers, own_ns)
    {
        int thread = omp_get_thread_num(), thread_count = omp_get_num_threads();
        if (thread == 0) {
            team_size = thread_count;
            int64_t begin_ns = now_ns();
            body(context, thread, thread_count);
            own_ns = now_ns() - begin_ns;
        } else {
            wn_environment own = wn_get_environment();
            wn_set_environment(callers);
            body(context, thread, thread_count);
            wn_set_environment(own);
        }
    }
    return now_ns() - start_ns - n * own_ns;
}

/* For a team of another size the runtime allocates and creates threads, and ends the process if it cannot. So
 * it is asked only for what was there just now, and by one caller at a time. New threads inherit the
 * floating-point environment and would keep the caller's. */
static void change_team(int n) {
    fenv_t callers_environment;
    lock_team_changes();
    int wanted = n > team_size ? n - 1 : 0;
    int to_be_had = threads_to_be_had(wanted);
    int possible = to_be_had < wanted ? 1 + to_be_had : n;
    if (possible > team_size || possible == n) {
        fegetenv(&callers_environment);
        fesetenv(FE_DFL_ENV);
        (void)run_team(possible, do_nothing, NULL); /* creating threads takes its time */
        fesetenv(&callers_environment);
        alone.lost_ns = 0; /* by another team */
    }
    unlock_team_changes();
}

void wn_parallel(int n, wn_body body, void *context) {
    int team_allowed = n > 1 && !get(&forked) && !omp_in_parallel() && !works_alone();
    if (team_allowed && n != team_size) change_team(n);
    if (team_allowed && team_size > 1 && team_size <= n)
        note_region(run_team(team_size, body, context));
    else
        body(context, 0, 1);
}

#else

void wn_parallel(int n, wn_body body, void *context) {
    (void)n;
    body(context, 0, 1);
}

#endif

/* ---- is it worth it? --------------------------------------------------------------------------------- */

/* What must be read and written for a further thread to pay. Entering a team costs about 1 us, in which one
 * thread moves 50 KB; ten times that, as threads that have gone to sleep take longer to come. */
enum { BYTES_PER_THREAD = 512 * 1024 };

int wn_threads_for(size_t bytes, size_t items) {
    if (bytes < BYTES_PER_THREAD || items <= 1) return 1;
    int n = max_threads(recent_affinity_limit);
    if ((size_t)n > items) n = (int)items;
    size_t worth = 1 + bytes / BYTES_PER_THREAD;
    return worth < (size_t)n ? (int)worth : n;
}
