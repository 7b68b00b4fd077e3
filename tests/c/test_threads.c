/* Threads: limits, teams, forks and the floating-point environment (Linux).
 *
 * Build: cc -std=c11 -fopenmp -Isrc tests/c/test_threads.c src/threads.c src/cgroup.c -lm -pthread */
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE
#endif
#include "teams.h"

#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <time.h>

#ifdef _OPENMP
#    include <omp.h>
#endif
#ifdef __SSE2__
#    include <xmmintrin.h>
#endif

/* ---- splitting and teams ----------------------------------------------------------------------------- */

static void test_split(void) {
    static const size_t counts[] = {0, 1, 2, 3, 7, 8, 63, 64, 65, 1000, SIZE_MAX, SIZE_MAX - 1};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        for (int threads = 1; threads <= 70; threads++) {
            size_t next = 0, least = SIZE_MAX, most = 0;
            for (int t = 0; t < threads; t++) {
                size_t begin, end;
                wn_split(counts[c], t, threads, &begin, &end);
                CHECK(begin == next && end >= begin);
                next = end;
                if (end - begin < least) least = end - begin;
                if (end - begin > most) most = end - begin;
            }
            CHECK(next == counts[c] && most - least <= 1);
        }
    }
}

static void count_nested(void *context, int thread, int thread_count) {
    (void)thread;
    int team = team_of_right_sum(4);
    if (team == 0 || (thread_count > 1 && (team != 1 || wn_max_threads() != 1)))
        atomic_fetch_add((atomic_int *)context, 1);
}

static void test_teams(void) {
    for (int n = -1; n <= 16; n++) CHECK(team_of_right_sum(n) > 0);
    for (int n = 16; n > 0; n--) CHECK(team_of_right_sum(n) > 0);
    CHECK(team_comes(2));
    atomic_int wrong = 0;
#ifdef _OPENMP
    omp_set_max_active_levels(2);
#endif
    for (int n = 1; n <= 4; n++) wn_parallel(n, count_nested, &wrong);
#ifdef _OPENMP
    omp_set_max_active_levels(1);
#endif
    CHECK(atomic_load(&wrong) == 0);
}

/* ---- limits ------------------------------------------------------------------------------------------ */

static void *see_process_limit(void *unused) {
    CHECK(wn_get_thread_num_threads() == 0);
    CHECK(wn_max_threads() == 1);
    return unused;
}

static void test_limits(void) {
    int most = wn_max_threads();
    CHECK(most >= 1);
    wn_set_num_threads(1);
    CHECK(wn_get_num_threads() == 1 && wn_max_threads() == 1);
    wn_set_thread_num_threads(1000000);
    CHECK(wn_max_threads() == most);
    wn_set_thread_num_threads(2);
    CHECK(wn_get_thread_num_threads() == 2);
    CHECK(wn_max_threads() == (most < 2 ? most : 2));
    pthread_t other;
    CHECK(pthread_create(&other, NULL, see_process_limit, NULL) == 0);
    pthread_join(other, NULL);
    wn_set_num_threads(0);
    wn_set_thread_num_threads(1);
    CHECK(wn_max_threads() == 1);
    wn_set_thread_num_threads(-3);
    wn_set_num_threads(-3);
    CHECK(wn_get_thread_num_threads() == 0 && wn_get_num_threads() == 0);
    CHECK(wn_max_threads() == most);
}

static void test_openmp_limit(void) {
#ifdef _OPENMP
    int most = wn_max_threads(), before = omp_get_max_threads();
    omp_set_num_threads(1);
    CHECK(wn_max_threads() == 1 && omp_get_max_threads() == 1);
    omp_set_num_threads(before);
    CHECK(wn_max_threads() == most);
    team_of_right_sum(3);
    CHECK(omp_get_max_threads() == before);
#else
    CHECK(wn_max_threads() == 1);
#endif
}

/* For as long as regions go by what the affinity was. */
static void outlast_affinity(void) { nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL); }

static void test_affinity(void) {
    cpu_set_t before, one;
    if (sched_getaffinity(0, sizeof before, &before) != 0) return; /* more than 1024 CPUs */
    int cpu = 0;
    while (!CPU_ISSET(cpu, &before)) cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    wn_thread_limits limits;
    wn_get_thread_limits(&limits);
    CHECK(limits.affinity == CPU_COUNT(&before));
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    CHECK(wn_max_threads() == 1);
    outlast_affinity();
    CHECK(wn_threads_for(SIZE_MAX, 2) == 1);
    wn_get_thread_limits(&limits);
    CHECK(limits.affinity == 1 && limits.openmp >= 1 && limits.forked == 0 && limits.runtime[0]);
    CHECK(sched_setaffinity(0, sizeof before, &before) == 0);
    outlast_affinity();
}

static void test_threads_for(void) {
    const size_t much = SIZE_MAX;
    int most = wn_max_threads();
    CHECK(wn_threads_for(0, 1000) == 1 && wn_threads_for(32 * 1024 - 1, 1000) == 1);
    CHECK(wn_threads_for(much, 0) == 1 && wn_threads_for(much, 1) == 1);
    CHECK(wn_threads_for(much, SIZE_MAX) == most);
    CHECK(wn_threads_for(much, 2) == (most < 2 ? most : 2));
    CHECK(wn_threads_for((size_t)most << 20, 1000000) == most);
    int before = 1;
    for (size_t bytes = 1024; bytes < (size_t)1 << 30; bytes *= 2) {
        int n = wn_threads_for(bytes, 1000000);
        CHECK(n >= before && n <= most);
        before = n;
    }
    wn_set_thread_num_threads(1);
    CHECK(wn_threads_for(much, 1000) == 1);
    wn_set_thread_num_threads(0);
}

/* ---- fork -------------------------------------------------------------------------------------------- */

static int sum_after_fork(long unused) {
    (void)unused;
    wn_thread_limits limits;
    wn_get_thread_limits(&limits);
    return limits.forked && wn_max_threads() == 1 && wn_threads_for(SIZE_MAX, 100) == 1 &&
                   team_of_right_sum(8) == 1
               ? 0
               : 1;
}

static void *work_until_told(void *stop) {
    int wrong = 0;
    while (!atomic_load((atomic_int *)stop)) wrong += team_of_right_sum(2) == 0;
    return wrong ? stop : NULL;
}

static void test_fork(void) {
    for (int i = 0; i < FORKS; i++) {
        CHECK(team_of_right_sum(4) > 0);
        CHECK(status_of_child(sum_after_fork, 0) == 0);
        CHECK(team_of_right_sum(4) > 0);
    }
    CHECK(team_comes(4));
}

static void test_fork_during_work(void) {
    atomic_int stop = 0;
    void *wrong = NULL;
    pthread_t worker;
    CHECK(pthread_create(&worker, NULL, work_until_told, &stop) == 0);
    for (int i = 0; i < FORKS_DURING_WORK; i++) CHECK(status_of_child(sum_after_fork, 0) == 0);
    atomic_store(&stop, 1);
    pthread_join(worker, &wrong);
    CHECK(wrong == NULL);
}

/* ---- the floating-point environment ------------------------------------------------------------------ */

enum { FLUSH_TO_ZERO = 0x8000, DENORMALS_ARE_ZERO = 0x0040, CONTROL_BITS = 0xffc0 };

/* On x86-64 not that of the x87, which computes nothing. */
static uint64_t control_state(void) {
#ifdef __x86_64__
    uint64_t state = (uint64_t)(_mm_getcsr() & CONTROL_BITS) << 32;
#else
    uint64_t state = (uint64_t)fegetround() << 32;
#endif
    return state | 1; /* not 0, which is for threads that were not there */
}

static void set_unusual_control_state(void) {
    CHECK(fesetround(FE_UPWARD) == 0);
#ifdef __SSE2__
    _mm_setcsr(_mm_getcsr() | FLUSH_TO_ZERO | DENORMALS_ARE_ZERO);
#endif
}

typedef struct {
    uint64_t state[MOST_THREADS];
    double third[MOST_THREADS];
} seen_states;

static void see_state(void *context, int thread, int thread_count) {
    (void)thread_count;
    seen_states *seen = context;
    volatile double one = 1, three = 3;
    seen->state[thread] = control_state();
    seen->third[thread] = one / three;
    fesetround(FE_DOWNWARD); /* a body's own changes are not to outlive it in a worker, either */
    fesetround(FE_UPWARD);
}

/* The workers' own state, which only a region that wn_parallel has no part in can show. */
static void check_workers_have(uint64_t expected) {
#ifdef _OPENMP
    atomic_int wrong = 0;
#    pragma omp parallel num_threads(4)
    if (control_state() != expected) atomic_fetch_add(&wrong, 1);
    CHECK(atomic_load(&wrong) == 0);
#else
    (void)expected;
#endif
}

/* One parallel call in an unusual state; whether there was a worker to see it. */
static int state_reaches_workers(uint64_t usual) {
    fenv_t before;
    seen_states seen = {.state = {0}};
    fegetenv(&before);
    set_unusual_control_state();
    uint64_t unusual = control_state();
    wn_parallel(4, see_state, &seen);
    CHECK(control_state() == unusual);
    fesetenv(&before);
    CHECK(unusual != usual && control_state() == usual);
    for (int t = 0; t < 4 && seen.state[t]; t++)
        CHECK(seen.state[t] == unusual && seen.third[t] > 0.333333333333333315);
    return seen.state[1] == unusual;
}

static void test_floating_point_environment(void) {
    uint64_t usual = control_state();
    check_workers_have(usual);
    int teams = 0;
    for (int i = 0; i < (HAS_OPENMP ? 3000 : 5) && teams < 5; i++) {
        teams += state_reaches_workers(usual);
        check_workers_have(usual);
        pause_1ms();
    }
    CHECK(teams == (HAS_OPENMP ? 5 : 0));
}

/* A thread has no workers of its own at first. They are not to be born with its unusual state. */
static void *start_in_unusual_state(void *unused) {
    fenv_t before;
    uint64_t usual = control_state();
    fegetenv(&before);
    set_unusual_control_state();
    CHECK(team_of_right_sum(4) > 0);
    fesetenv(&before);
    check_workers_have(usual);
    return unused;
}

static void test_new_workers_environment(void) {
    pthread_t starter;
    CHECK(pthread_create(&starter, NULL, start_in_unusual_state, NULL) == 0);
    pthread_join(starter, NULL);
}

/* ---- teams that do not pay --------------------------------------------------------------------------- */

/* The caller has nothing to do, and waits for a worker that takes a while. */
static void keep_waiting(void *context, int thread, int thread_count) {
    if (thread > 0) pause_1ms();
    if (thread == 0) *(int *)context = thread_count;
}

static int team_that_loses(void) {
    int threads = 0;
    wn_parallel(2, keep_waiting, &threads);
    return threads;
}

/* In a thread of its own, which has lost nothing yet. */
static void *lose(void *unused) {
    CHECK(team_that_loses() == 2);
    CHECK(team_that_loses() == 2);
    CHECK(team_that_loses() == 1);
    int tries = 1;
    for (; team_that_loses() == 1 && tries < 10000; tries++) pause_1ms();
    CHECK(tries < 10000);
    /* one that came late, as it had gone to sleep, does not mean that the next one will */
    CHECK(team_that_loses() == 2);
    CHECK(team_that_loses() == 1);
    return unused;
}

static void test_teams_that_do_not_pay(void) {
    pthread_t loser;
    if (!HAS_OPENMP) return;
    CHECK(pthread_create(&loser, NULL, lose, NULL) == 0);
    pthread_join(loser, NULL);
}

int main(void) {
    wn_threads_init();
    wn_threads_init();
    test_split();
    test_limits();
    test_openmp_limit();
    test_affinity();
    test_threads_for();
    test_teams();
    test_teams_that_do_not_pay();
    test_new_workers_environment();
    test_floating_point_environment();
    test_fork();
    test_fork_during_work();
    return check_result();
}
