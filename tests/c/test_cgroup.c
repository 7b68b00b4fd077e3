/* The CPU quota of a control group, from fake file trees.
 *
 * Build: cc -std=c11 -Isrc -Itests/c tests/c/test_cgroup.c src/cgroup.c */
#ifndef _GNU_SOURCE
#    define _GNU_SOURCE
#endif
#include "check.h"
#include "threads.h"
#include "tree.h"

#include <limits.h>

static void new_tree(const char *proc_self_cgroup) {
    remove_tree();
    CHECK(mkdir(fake_root, 0700) == 0);
    if (proc_self_cgroup) write_file("/proc/self/cgroup", proc_self_cgroup);
}

static void test_cgroup_v2(void) {
    new_tree("0::/a/b\n");
    CHECK(wn_cgroup_quota(fake_root) == 0);
    write_file("/sys/fs/cgroup/a/b/cpu.max", "400000 100000\n");
    CHECK(wn_cgroup_quota(fake_root) == 4);
    write_file("/sys/fs/cgroup/a/cpu.max", "250000 100000\n");
    CHECK(wn_cgroup_quota(fake_root) == 3);
    write_file("/sys/fs/cgroup/a/cpu.max", "max 100000\n");
    CHECK(wn_cgroup_quota(fake_root) == 4);
    write_file("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    CHECK(wn_cgroup_quota(fake_root) == 0);
    write_file("/sys/fs/cgroup/a/b/cpu.max", "1000 100000\n");
    CHECK(wn_cgroup_quota(fake_root) == 1);

    new_tree("0::/not/seen/in/the/container\n");
    write_file("/sys/fs/cgroup/cpu.max", "150000 100000\n");
    CHECK(wn_cgroup_quota(fake_root) == 2);
    new_tree("0::/../outside\n");
    write_file("/sys/fs/cgroup/cpu.max", "150000 100000\n");
    write_file("/sys/fs/outside/cpu.max", "50000 100000\n");
    CHECK(wn_cgroup_quota(fake_root) == 2);
    new_tree("0::/\n");
    write_file("/sys/fs/cgroup/cpu.max", "200000 100000"); /* and no end of line */
    CHECK(wn_cgroup_quota(fake_root) == 2);
}

static void test_cgroup_v1(void) {
    new_tree("5:cpuset:/x\n3:cpuacct,cpu:/docker/c\n1:name=systemd:/\n");
    CHECK(wn_cgroup_quota(fake_root) == 0);
    write_file("/sys/fs/cgroup/cpuset/x/cpu.cfs_quota_us", "100000\n");
    write_file("/sys/fs/cgroup/cpuset/x/cpu.cfs_period_us", "100000\n");
    CHECK(wn_cgroup_quota(fake_root) == 0);
    write_file("/sys/fs/cgroup/cpu/docker/c/cpu.cfs_quota_us", "350000\n");
    CHECK(wn_cgroup_quota(fake_root) == 0);
    write_file("/sys/fs/cgroup/cpu/docker/c/cpu.cfs_period_us", "100000\n");
    CHECK(wn_cgroup_quota(fake_root) == 4);
    write_file("/sys/fs/cgroup/cpuacct,cpu/docker/cpu.cfs_quota_us", "100000\n");
    write_file("/sys/fs/cgroup/cpuacct,cpu/docker/cpu.cfs_period_us", "50000\n");
    CHECK(wn_cgroup_quota(fake_root) == 2);
    write_file("/sys/fs/cgroup/cpuacct,cpu/docker/cpu.cfs_quota_us", "-1\n");
    write_file("/sys/fs/cgroup/cpu/docker/c/cpu.cfs_quota_us", "-1\n");
    CHECK(wn_cgroup_quota(fake_root) == 0);
    write_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "100000\n");
    write_file("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    CHECK(wn_cgroup_quota(fake_root) == 1);
}

static void test_cgroup_garbage(void) {
    static const char *const no_quota[] = {
        "",       "\n",      "max",          "max max", "100000", "0 100000", "100000 0",        "-5 100000",
        "5 -100", "abc def", " 100000 \n 1", "1e",      ":::",    "max 1",    "\xff\xfe \xff 1", "0x10 0x10"};
    new_tree("0::/a\n");
    for (size_t i = 0; i < sizeof no_quota / sizeof *no_quota; i++) {
        write_file("/sys/fs/cgroup/a/cpu.max", no_quota[i]);
        CHECK(wn_cgroup_quota(fake_root) == 0);
    }
    write_file("/sys/fs/cgroup/a/cpu.max", "9223372036854775807 1\n");
    CHECK(wn_cgroup_quota(fake_root) == INT_MAX);
    write_file("/sys/fs/cgroup/a/cpu.max", "99999999999999999999999999999999999999999999999999999999999 1\n");
    CHECK(wn_cgroup_quota(fake_root) >= 0);

    static const char *const lines[] = {
        "", "\n", ":", "::", "0:", "0::", "cpu", "1:cpu", ":cpu:", "1:,,,:/", "\n\n"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        new_tree(lines[i]);
        CHECK(wn_cgroup_quota(fake_root) == 0);
    }
    static char long_line[40000];
    memset(long_line, 'a', sizeof long_line - 1);
    memcpy(long_line, "0::/", 4);
    for (size_t i = 4; i < sizeof long_line - 1; i += 100) long_line[i] = '/';
    new_tree(long_line);
    CHECK(wn_cgroup_quota(fake_root) == 0);
    CHECK(wn_cgroup_quota(long_line) == 0);
    new_tree(NULL);
    CHECK(wn_cgroup_quota(fake_root) == 0);
    CHECK(wn_cgroup_quota("/nowhere") == 0);
    CHECK(wn_cgroup_quota("") >= 0);
}

int main(void) {
    CHECK(mkdtemp(fake_root) != NULL);
    test_cgroup_v2();
    test_cgroup_v1();
    test_cgroup_garbage();
    remove_tree();
    return check_result();
}
