/* The sizes of caches, from fake file trees.
 *
 * Build: cc -std=c11 -Isrc -Itests/c tests/c/test_cache.c src/cache.c */
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE
#endif
#include "cache.h"
#include "check.h"
#include "tree.h"

static const size_t mb = (size_t)1 << 20;

/* Caches of two levels, of `size` and shared by `cpus` the last one. */
static wn_caches caches_of(const char *size, const char *cpus) {
    remove_tree();
    CHECK(mkdir(fake_root, 0700) == 0);
    write_file("/index0/size", "48K\n");
    write_file("/index0/shared_cpu_list", "0\n");
    write_file("/index1/size", size);
    if (cpus) write_file("/index1/shared_cpu_list", cpus);
    return wn_read_caches(fake_root);
}

static void test_share(void) {
    static const struct {
        const char *cpus;
        size_t share; /* MB of 480 */
    } lists[] = {
        {"0\n", 40},
        {"0-1\n", 80},
        {"0,2\n", 80},
        {"0,2,5-6\n", 160},
        {"0-3,64-67\n", 320},
        {"0-11\n", 480},
        {"0-10\n", 440},
        {"0-59,120-179\n", 480},
        {"7", 40},
        {"0-1,", 80},
        {NULL, 480},
        {"", 480},
        {"none\n", 480},
        {"3-1\n", 480},
        {"0-\n", 40},
        {"0-99999999\n", 480},
    };
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        wn_caches caches = caches_of("491520K\n", lists[i].cpus);
        CHECK(caches.last == 480 * mb);
        CHECK(caches.l1 == 48 << 10);
        CHECK(caches.share == lists[i].share * mb);
    }
    CHECK(caches_of("32768K\n", "0-1\n").share == 32 * mb);
    CHECK(caches_of("32M\n", "0\n").share == 32 * mb);
}

static void test_no_files(void) {
    static const char *const no_size[] = {"", "\n", "K", "0K\n", "-"};
    for (size_t i = 0; i < sizeof no_size / sizeof *no_size; i++)
        CHECK(caches_of(no_size[i], "0-1\n").last == 48 << 10); /* of the other level */
    remove_tree();
    wn_caches guess = wn_read_caches(fake_root);
    CHECK(guess.last >= mb && guess.share == guess.last && guess.l1 == 0);
    static char long_path[10000];
    memset(long_path, 'a', sizeof long_path - 1);
    CHECK(wn_read_caches(long_path).last == guess.last);
    wn_caches here = wn_known_caches();
    CHECK(here.last > 0 && here.share > 0 && here.share <= here.last && here.l1 <= here.last);
}

int main(void) {
    CHECK(mkdtemp(fake_root) != NULL);
    test_share();
    test_no_files();
    return check_result();
}
