/* Memory and threads that are not to be had: right results with a smaller team (Linux).
 *
 * Build: cc -std=c11 -fopenmp -Isrc tests/c/test_exhaustion.c src/threads.c src/cgroup.c -lm -pthread */
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE
#endif
#include "teams.h"

#include <pthread.h>
#include <string.h>
#include <sys/resource.h>

static int limit_memory(long kib_to_spare) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%ld", &pages) != 1) return 0;
    fclose(file);
    rlim_t bytes = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + (rlim_t)kib_to_spare * 1024;
    return setrlimit(RLIMIT_AS, &(struct rlimit){bytes, bytes}) == 0;
}

static int sum_in_little_memory(long kib_to_spare) {
    wn_threads_init();
    int team = limit_memory(kib_to_spare);
    for (int n = 2; n <= 8 && team; n += 3) team = team_of_right_sum(n);
    return team;
}

enum { CALLERS = 4 };

typedef struct {
    pthread_barrier_t all_exist;
    atomic_int wrong;
} calling;

static void *sum_repeatedly(void *context) {
    calling *c = context;
    (void)wn_max_threads(); /* libomp allocates for each thread that it has not seen */
    pthread_barrier_wait(&c->all_exist);
    pthread_barrier_wait(&c->all_exist); /* memory is limited meanwhile */
    for (int i = 0; i < 20; i++)
        if (!team_of_right_sum(2 + i / 8)) atomic_fetch_add(&c->wrong, 1);
    return NULL;
}

/* Several threads want teams at a time, and what there is does not suffice for all of them. */
static int sum_in_many_threads(long kib_to_spare) {
    wn_threads_init();
    calling c = {.wrong = 0};
    pthread_t callers[CALLERS];
    int failed = pthread_barrier_init(&c.all_exist, NULL, CALLERS + 1) != 0;
    for (int i = 0; i < CALLERS; i++)
        if (pthread_create(&callers[i], NULL, sum_repeatedly, &c) != 0) return 0;
    pthread_barrier_wait(&c.all_exist);
    failed |= !limit_memory(kib_to_spare);
    pthread_barrier_wait(&c.all_exist);
    for (int i = 0; i < CALLERS; i++) pthread_join(callers[i], NULL);
    return !failed && !atomic_load(&c.wrong);
}

static int sum_in_few_processes(long processes) {
    const rlim_t most = (rlim_t)processes;
    int team = setrlimit(RLIMIT_NPROC, &(struct rlimit){most, most}) == 0;
    if (geteuid() == 0 && setuid(65534) != 0) return 1; /* the limit does not bind root */
    wn_threads_init();
    for (int n = 2; n <= 8 && team; n++) team = team_of_right_sum(n);
    return team;
}

static const struct {
    const char *name;
    child_body run;
} fresh_bodies[] = {
    {"little-memory", sum_in_little_memory},
    {"many-threads", sum_in_many_threads},
    {"few-processes", sum_in_few_processes},
};

/* These run in fresh processes, as `test_exhaustion <name> <number>`: a mere fork would be kept to one
 * thread. They return the size of the team, or 0 if anything was wrong. The exit status is that and a number
 * to tell it from the runtimes' own ways to end a process. */
enum { SURVIVED = 100 };

static int run_as_named(const char *name, long argument) {
    alarm(20);
    for (size_t i = 0; i < sizeof fresh_bodies / sizeof *fresh_bodies; i++)
        if (strcmp(name, fresh_bodies[i].name) == 0) return SURVIVED + fresh_bodies[i].run(argument);
    return 0;
}

static const char *name_to_run;

static int run_this_program(long argument) {
    char number[32];
    snprintf(number, sizeof number, "%ld", argument);
    execl("/proc/self/exe", "test_exhaustion", name_to_run, number, (char *)NULL);
    return 0;
}

/* Not positive if it came to nothing. */
static int team_of_fresh_process(const char *name, long argument) {
    name_to_run = name;
    return status_of_child(run_this_program, argument) - SURVIVED;
}

int main(int argc, char **argv) {
    if (argc == 3) return run_as_named(argv[1], atol(argv[2]));
    if (SANITIZED) return 0; /* a sanitizer needs terabytes of address space */
    for (long kib = 0; kib < 80 * 1024; kib += 808) CHECK(team_of_fresh_process("little-memory", kib) > 0);
    for (long kib = 0; kib < 200 * 1024; kib += 4040) CHECK(team_of_fresh_process("many-threads", kib) > 0);
    for (long processes = 0; processes < 12; processes++)
        for (int i = 0; i < 3; i++) CHECK(team_of_fresh_process("few-processes", processes) > 0);
    CHECK(team_of_fresh_process("little-memory", 0) == 1);
    CHECK(team_of_fresh_process("few-processes", 0) == 1);
    CHECK(team_of_fresh_process("little-memory", 1000000) == (HAS_OPENMP ? 8 : 1));
    return check_result();
}
