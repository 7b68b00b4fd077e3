/* All kernels for one dtype. The includer defines DTYPE and what table.tpl.h lists; this maps the vocabulary
 * of simd.h to it: T the storage type, C the compute type, V a vector of V_N of them. No include guard: once
 * per dtype. */
#define FN(name) CAT(name, DTYPE)

#define V_WIDE CAT(v_wide, DTYPE)
#define V_WIDE_PART CAT(v_wide_part, DTYPE)
#define V_LOAD CAT(v_load, DTYPE)
#define V_LOAD_HALVES CAT(v_load_halves, DTYPE)
#define V_LOAD_PART CAT(v_load_part, DTYPE)
#define V_STORE CAT(v_store, DTYPE)
#define V_STORE_PART CAT(v_store_part, DTYPE)
#define V_STORE_HEAD CAT(v_store_head, DTYPE)
#define V_SET CAT(v_set, COMPUTE)
#define V_FMA CAT(v_fma, COMPUTE)
#define V_LOAD_C CAT(v_load, COMPUTE)
#define V_LOAD_PART_C CAT(v_load_part, COMPUTE)
#define V_STORE_C CAT(v_store, COMPUTE)
#define V_STORE_PART_C CAT(v_store_part, COMPUTE)
#define V_STREAM CAT(v_stream, DTYPE)
#define V CAT(v, COMPUTE)
#define ACTIVATE CAT(activate_v, COMPUTE)
#define IS_WIDE CAT(wn_is_wide, COMPUTE)
#define FOLD CAT(wn_fold, COMPUTE)

#include "apply.tpl.h"
#include "moments.tpl.h"
#include "rows.tpl.h"
#include "woven.tpl.h"
#include "cols.tpl.h"
#include "quantize.tpl.h"
#include "exact.tpl.h"

#undef FOLD
#undef IS_WIDE
#undef ACTIVATE
#undef V
#undef V_STREAM
#undef V_STORE_PART_C
#undef V_STORE_C
#undef V_LOAD_PART_C
#undef V_LOAD_C
#undef V_FMA
#undef V_SET
#undef V_STORE_PART
#undef V_STORE
#undef V_LOAD_PART
#undef V_LOAD_HALVES
#undef V_LOAD
#undef V_WIDE_PART
#undef V_WIDE
#undef FN
