/* Run-time dispatch: one table of kernels per instruction set, chosen once at import. */
#ifndef WN_DISPATCH_H
#define WN_DISPATCH_H

#include "state.h"
#include "welnorm.h"

typedef struct {
    const char *isa;
    struct wn_dtype_kernels {
#define WN_KERNEL(result, name, arguments) result(*name) arguments;
#include "kernels.def"
#undef WN_KERNEL
    } dtype[WN_DTYPE_COUNT];
} wn_kernels;

/* The tables of this build that this CPU can run, best first; NULL past the last. */
const wn_kernels *wn_usable_isa(int index);
/* Every instruction set's name that this build holds, usable or not; NULL past the last. */
const char *wn_built_isa(int index);

/* Makes the named table the one in use, or the best if name is NULL. Returns 0 if the name is not usable. */
int wn_select_isa(const char *name);
const wn_kernels *wn_selected_isa(void);

#endif
