# What _c.pyx uses of C.

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyDataMemAllocator:
        void *ctx
        void *(*malloc)(void *context, size_t size) noexcept nogil
        void *(*calloc)(void *context, size_t count, size_t size) noexcept nogil
        void *(*realloc)(void *context, void *memory, size_t size) noexcept nogil
        void (*free)(void *context, void *memory, size_t size) noexcept nogil
    ctypedef struct PyDataMem_Handler:
        char *name
        unsigned char version
        PyDataMemAllocator allocator
    object PyDataMem_SetHandler(object handler)

cdef extern from "aligned.h" nogil:
    void *wn_aligned_malloc(void *context, size_t size) noexcept
    void *wn_aligned_calloc(void *context, size_t count, size_t size) noexcept
    void *wn_aligned_realloc(void *context, void *memory, size_t size) noexcept
    void wn_aligned_free(void *context, void *memory, size_t size) noexcept
    size_t wn_output_cache(int clear, size_t *most)
    const size_t WN_ALIGNED_BYTES

cdef extern from "welnorm.h" nogil:
    ctypedef enum wn_dtype:
        WN_f32
        WN_f64
        WN_f16
        WN_bf16
    ctypedef enum wn_activation:
        WN_NO_ACTIVATION
    ctypedef enum wn_pattern:
        WN_RUN
        WN_COLS
    ctypedef enum wn_status:
        WN_OK
        WN_NO_MEMORY
    ctypedef struct wn_axis:
        int64_t count
    ctypedef struct wn_axes:
        const wn_axis *axis
        int ndim
        int64_t count
    ctypedef struct wn_states:
        double *mean
        double *mean_lo
        double *m2
        double *m2_lo
    ctypedef struct wn_problem:
        wn_pattern pattern
        wn_dtype x_dtype, y_dtype
        wn_axes outer, reduced, inner
        int64_t group
        int centred
        const void *x
        void *y
        const void *weight
        const void *bias
        wn_activation activation
        double eps
        const uint8_t *mask
        const void *augend
        const void *addend
        float *scale
        int scale_is_given
        const void *given_mean
        const void *given_var
        wn_dtype given_dtype
        int exact
        wn_states states
        double *count
    wn_status wn_run(const wn_problem *problem)
    wn_status wn_norm_rows(wn_dtype dtype, const void *augend, const void *addend, const void *x, void *y,
                           size_t row_count, size_t n, const void *weight, const void *bias, double eps,
                           int centred, wn_activation activation)
    ctypedef struct wn_channels:
        wn_dtype dtype
        const void *x
        void *y
        size_t batch, channels, positions
        int last
        size_t block
        size_t groups
        const void *weight
        const void *bias
        double eps
        wn_activation activation
        int training
        void *running_mean
        void *running_var
        double momentum
    wn_status wn_norm_channels(const wn_channels *call)
    void wn_widen(wn_dtype dtype, const void *elements, void *wide, size_t n)
    void wn_move_blocked(void *plain, void *blocked, size_t batch, size_t channels, size_t positions,
                         size_t block, size_t element_bytes, int into_blocks)
    void wn_copy(void *dst, const void *src, size_t bytes, int nontemporal, size_t read_first)
    wn_axes wn_axes_of(const wn_axis *axis, int ndim)

cdef extern from "dispatch.h" nogil:
    ctypedef struct wn_kernels:
        const char *isa
    const wn_kernels *wn_usable_isa(int index)
    const char *wn_built_isa(int index)
    int wn_select_isa(const char *name)
    const wn_kernels *wn_selected_isa()

cdef extern from "threads.h" nogil:
    ctypedef struct wn_thread_limits:
        int process, thread, openmp, affinity, cgroup, forked
        const char *runtime
    void wn_threads_init()
    void wn_set_num_threads(int n)
    void wn_set_thread_num_threads(int n)
    int wn_max_threads()
    void wn_get_thread_limits(wn_thread_limits *limits)

cdef extern from *:
    """
    #ifndef WELNORM_COMPILER
    #    define WELNORM_COMPILER "unknown"
    #    define WELNORM_FLAGS "unknown"
    #endif
    /* From so many bytes on the GIL is released: a smaller call is over before another thread could run. */
    #define WN_GIL_BYTES 16384
    """
    const char *WELNORM_COMPILER
    const char *WELNORM_FLAGS
    const size_t WN_GIL_BYTES
