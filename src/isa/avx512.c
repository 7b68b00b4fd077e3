#include "../simd/avx512.h"
#define ISA avx512
#include "../kernels/table.tpl.h"
