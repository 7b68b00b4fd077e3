/* The CPU quota of a Linux control group: what `docker run --cpus 2` sets. On other systems the files do not
 * exist, and there is no quota. */
#include "threads.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH_BYTES = 8192 }; /* a cgroup's path has less than PATH_MAX (4096), and the root is put before it */

typedef int (*quota_reader)(const char *directory);

static int smaller_quota(int a, int b) { return a && (!b || a < b) ? a : b; }

/* Reads the first line of directory/name; an empty one if there is no such file. */
static void read_line(const char *directory, const char *name, char *line, int line_bytes) {
    char path[PATH_BYTES];
    line[0] = '\0';
    int length = snprintf(path, sizeof path, "%s/%s", directory, name);
    if (length < 0 || (size_t)length >= sizeof path) return;
    FILE *file = fopen(path, "r");
    if (!file) return;
    if (!fgets(line, line_bytes, file)) line[0] = '\0';
    fclose(file);
}

/* A quota for each period, both in microseconds, rounded up. Neither is positive where there is none. */
static int whole_cpus(long long quota, long long period) {
    if (quota <= 0 || period <= 0) return 0;
    long long cpus = quota / period + (quota % period != 0);
    return cpus < INT_MAX ? (int)cpus : INT_MAX;
}

/* "quota period" or "max period" */
static int quota_of_v2(const char *directory) {
    char line[64], *end;
    read_line(directory, "cpu.max", line, sizeof line);
    long long quota = strtoll(line, &end, 10);
    return whole_cpus(quota, strtoll(end, NULL, 10));
}

static int quota_of_v1(const char *directory) {
    char quota[32], period[32];
    read_line(directory, "cpu.cfs_quota_us", quota, sizeof quota);
    read_line(directory, "cpu.cfs_period_us", period, sizeof period);
    return whole_cpus(strtoll(quota, NULL, 10), strtoll(period, NULL, 10));
}

/* The smallest quota of mount/path and of all its parents up to the mount itself. Directories that a
 * container does not see have no files here, its own group is then the mount. */
static int smallest_quota(quota_reader quota_of, const char *mount, const char *path) {
    char directory[PATH_BYTES];
    if (strstr(path, "/..")) path = ""; /* outside of the cgroup namespace */
    int length = snprintf(directory, sizeof directory, "%s%s", mount, path);
    if (length < 0 || (size_t)length >= sizeof directory) return 0;
    char *top = directory + strlen(mount);
    int quota = 0;
    for (char *end = directory + length; end; end = strrchr(top, '/')) {
        *end = '\0';
        quota = smaller_quota(quota, quota_of(directory));
    }
    return quota;
}

static int lists_cpu(const char *controllers) {
    for (const char *name = controllers; name; name = strchr(name, ',')) {
        name += *name == ',';
        if (strcspn(name, ",") == 3 && memcmp(name, "cpu", 3) == 0) return 1;
    }
    return 0;
}

static int quota_below(const char *root, const char *hierarchy, quota_reader quota_of, const char *path) {
    char mount[PATH_BYTES];
    int length =
        snprintf(mount, sizeof mount, "%s/sys/fs/cgroup%s%s", root, *hierarchy ? "/" : "", hierarchy);
    if (length < 0 || (size_t)length >= sizeof mount) return 0;
    return smallest_quota(quota_of, mount, path);
}

/* A line is "number:controllers:path"; version 2 has no controllers. */
static int quota_of_line(const char *root, char *line) {
    line[strcspn(line, "\n")] = '\0';
    char *controllers = strchr(line, ':');
    char *path = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!path) return 0;
    *path++ = '\0';
    controllers++;
    if (!*controllers) return quota_below(root, "", quota_of_v2, path);
    if (!lists_cpu(controllers)) return 0;
    /* Version 1 is mounted under the list of its controllers; "cpu" is usually a link to that. */
    return smaller_quota(quota_below(root, "cpu", quota_of_v1, path),
                         quota_below(root, controllers, quota_of_v1, path));
}

int wn_cgroup_quota(const char *root) {
    char line[PATH_BYTES];
    if (snprintf(line, sizeof line, "%s/proc/self/cgroup", root) >= (int)sizeof line) return 0;
    FILE *file = fopen(line, "r");
    if (!file) return 0;
    int quota = 0;
    while (fgets(line, sizeof line, file)) quota = smaller_quota(quota, quota_of_line(root, line));
    fclose(file);
    return quota;
}
