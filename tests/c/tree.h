/* Fake trees of the files that the system tells of itself by. */
#ifndef WN_TREE_H
#define WN_TREE_H

#include "check.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The root, from mkdtemp. */
static char fake_root[] = "/tmp/welnorm-tree-XXXXXX";

static inline void write_file(const char *path, const char *text) {
    char full[4096];
    snprintf(full, sizeof full, "%s%s", fake_root, path);
    for (char *slash = full + strlen(fake_root) + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = '\0';
        mkdir(full, 0700);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    CHECK(file != NULL);
    if (!file) return;
    fputs(text, file);
    fclose(file);
}

static inline void remove_tree(void) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", fake_root);
    CHECK(system(command) == 0);
}

#endif
