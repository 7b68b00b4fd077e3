#include "../simd/portable.h"
#define ISA portable
#include "../kernels/table.tpl.h"
