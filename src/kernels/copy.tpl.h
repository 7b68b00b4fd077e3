/* A plain copy, the limit of what any kernel here can reach. Included once per instruction set and dtype. */

static void FN(copy)(void *dst, const void *src, size_t bytes, int nontemporal) {
    char *to = dst;
    const char *from = src;
    size_t misaligned = (uintptr_t)to % sizeof(V), head = misaligned ? sizeof(V) - misaligned : 0;
    size_t i = head < bytes ? head : bytes;
    memcpy(to, from, i);
    if (nontemporal) {
        UNROLL for (; i + sizeof(V) <= bytes; i += sizeof(V)) V_STREAM(to + i, V_LOAD_C(from + i));
        v_stream_end();
    } else {
        UNROLL for (; i + sizeof(V) <= bytes; i += sizeof(V)) V_STORE_C(to + i, V_LOAD_C(from + i));
    }
    memcpy(to + i, from + i, bytes - i);
}
