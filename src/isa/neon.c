#include "../simd/neon.h"
#define ISA neon
#include "../kernels/table.tpl.h"
