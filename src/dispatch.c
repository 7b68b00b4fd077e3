#include "dispatch.h"
#include "cpu.h"

#include <string.h>

#if defined(__AVX__) || defined(__SSE3__)
#    error "the dispatcher runs before the CPU is known: build it for the baseline"
#endif

#define WN_ISA(name, features) extern const wn_kernels wn_kernels_##name;
#include "isa.def"
#undef WN_ISA

static const struct {
    const wn_kernels *kernels;
    unsigned features;
} built[] = {
#define WN_ISA(name, features) {&wn_kernels_##name, features},
#include "isa.def"
#undef WN_ISA
};

enum { BUILT_COUNT = sizeof built / sizeof *built };

static const wn_kernels *selected = &wn_kernels_portable;

const wn_kernels *wn_usable_isa(int index) {
    unsigned features = wn_cpu_features();
    for (int i = 0; i < BUILT_COUNT; i++)
        if ((built[i].features & features) == built[i].features && index-- == 0) return built[i].kernels;
    return NULL;
}

const char *wn_built_isa(int index) { return index < BUILT_COUNT ? built[index].kernels->isa : NULL; }

int wn_select_isa(const char *name) {
    const wn_kernels *kernels;
    for (int i = 0; (kernels = wn_usable_isa(i)); i++) {
        if (!name || strcmp(kernels->isa, name) == 0) {
            selected = kernels;
            return 1;
        }
    }
    return 0;
}

const wn_kernels *wn_selected_isa(void) { return selected; }
