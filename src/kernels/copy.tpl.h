/* A plain copy, the limit of what any kernel here can reach. Included once per instruction set and dtype. */

static void FN(copy)(void *dst, const void *src, size_t bytes, int nontemporal) {
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
