/* A plain copy, the limit of what any kernel here can reach, and a plain read: the same for every dtype.
 * Included once per instruction set, by table.tpl.h, which asks for each dtype's. */

static void copy_f32(void *dst, const void *src, size_t bytes, int nontemporal) {
    char *to = dst;
    const char *from = src;
    size_t misaligned = (uintptr_t)to % sizeof(v_f32), head = misaligned ? sizeof(v_f32) - misaligned : 0;
    size_t i = head < bytes ? head : bytes;
    memcpy(to, from, i);
    if (nontemporal) {
        UNROLL for (; i + sizeof(v_f32) <= bytes; i += sizeof(v_f32))
            v_stream_f32(to + i, v_load_f32(from + i));
        v_stream_end();
    } else {
        UNROLL for (; i + sizeof(v_f32) <= bytes; i += sizeof(v_f32))
            v_store_f32(to + i, v_load_f32(from + i));
    }
    memcpy(to + i, from + i, bytes - i);
}

static uint32_t read_f32(const void *src, size_t words) {
    const uint32_t *from = src;
    v_i32 any[4];
    size_t i = 0;
    memset(any, 0, sizeof any);
    for (; i + 4 * V_F32 <= words; i += 4 * V_F32) {
        UNROLL for (size_t v = 0; v < 4; v++) any[v] |= v_bits_f32(v_load_f32(from + i + v * V_F32));
    }
    any[0] |= any[1] | any[2] | any[3];
    uint32_t lanes[V_F32], bits = 0, word;
    memcpy(lanes, any, sizeof lanes);
    for (size_t v = 0; v < V_F32; v++) bits |= lanes[v];
    for (; i < words; i++) {
        memcpy(&word, from + i, sizeof word);
        bits |= word;
    }
    return bits;
}

#define copy_f64 copy_f32
#define copy_f16 copy_f32
#define copy_bf16 copy_f32
#define read_f64 read_f32
#define read_f16 read_f32
#define read_bf16 read_f32
