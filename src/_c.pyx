# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""The binding: arguments in, pointers down, status back. No arithmetic and no checks that Python has made."""

cimport numpy as cnp
from libc.stddef cimport size_t
from libc.stdint cimport int64_t

cnp.import_array()

cdef extern from "welnorm.h" nogil:
    ctypedef enum wn_dtype:
        WN_f32
        WN_f64
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
    ctypedef struct wn_problem:
        wn_pattern pattern
        wn_dtype x_dtype, y_dtype
        wn_axes outer, reduced, inner
        const void *x
        void *y
        const void *weight
        const void *bias
        double eps
        const double *given_mean
        const double *given_var
        double *mean
        double *mean_lo
        double *m2
    wn_status wn_run(const wn_problem *problem)
    wn_status wn_layer_norm(wn_dtype dtype, const void *x, void *y, size_t row_count, size_t n,
                            const void *weight, const void *bias, double eps)
    void wn_copy(void *dst, const void *src, size_t bytes, int nontemporal)
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

wn_threads_init()
wn_select_isa(NULL)

cdef bint fast_lane = False


def set_fast_lane(bint is_open):
    """Let ordinary calls go straight to the kernels (this backend is in use in every thread), or not."""
    global fast_lane
    fast_lane = is_open


cdef inline bint is_plain(object value, int typenum):
    """An ndarray (no subclass) of that dtype, C-contiguous, aligned and in native byte order."""
    return (
        cnp.PyArray_CheckExact(value)
        and cnp.PyArray_TYPE(<cnp.ndarray>value) == typenum
        and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>value)
    )


cdef inline bint is_parameter(object value, int typenum, cnp.npy_intp n):
    return is_plain(value, typenum) and cnp.PyArray_NDIM(value) == 1 and cnp.PyArray_DIM(value, 0) == n


def layer_norm(object x, object weight, object bias, object axis, object eps, object out, object dtype):
    """The ordinary call: contiguous arrays of one dtype, the last axis. Returns None for any other."""
    cdef int typenum, ndim
    cdef wn_dtype element
    cdef cnp.npy_intp n
    cdef size_t size, rows
    cdef double epsilon
    cdef const void *weight_data = NULL
    cdef const void *bias_data = NULL
    cdef const void *x_data
    cdef void *y_data
    cdef wn_status status
    if not fast_lane or dtype is not None or type(axis) is not int or type(eps) is not float:
        return None
    if not cnp.PyArray_CheckExact(x):
        return None
    typenum = cnp.PyArray_TYPE(x)
    if typenum == cnp.NPY_FLOAT32:
        element = WN_f32
    elif typenum == cnp.NPY_FLOAT64:
        element = WN_f64
    else:
        return None
    ndim = cnp.PyArray_NDIM(x)
    size = cnp.PyArray_SIZE(x)
    epsilon = eps
    if not cnp.PyArray_ISCARRAY_RO(x) or ndim == 0 or axis != -1 or size == 0 or not 0.0 <= epsilon <= 1e300:
        return None
    n = cnp.PyArray_DIM(x, ndim - 1)
    if weight is not None:
        if not is_parameter(weight, typenum, n):
            return None
        weight_data = cnp.PyArray_DATA(weight)
    if bias is not None:
        if not is_parameter(bias, typenum, n):
            return None
        bias_data = cnp.PyArray_DATA(bias)
    if out is None:
        out = cnp.PyArray_EMPTY(ndim, cnp.PyArray_DIMS(x), typenum, 0)
    elif out is not x or not cnp.PyArray_ISWRITEABLE(x):
        if not (is_plain(out, typenum) and cnp.PyArray_ISWRITEABLE(out)
                and cnp.PyArray_SAMESHAPE(out, x) and is_apart(out, x)):
            return None
    if not (weight is None or is_apart(out, weight)) or not (bias is None or is_apart(out, bias)):
        return None
    x_data = cnp.PyArray_DATA(x)
    y_data = cnp.PyArray_DATA(out)
    rows = size // <size_t>n
    if cnp.PyArray_NBYTES(x) < <cnp.npy_intp>WN_GIL_BYTES:
        status = wn_layer_norm(element, x_data, y_data, rows, <size_t>n, weight_data, bias_data, epsilon)
    else:
        with nogil:
            status = wn_layer_norm(element, x_data, y_data, rows, <size_t>n, weight_data, bias_data, epsilon)
    if status != WN_OK:
        raise MemoryError("welnorm: no memory for the scratch of a call")
    return out


cdef inline bint is_apart(cnp.ndarray a, cnp.ndarray b):
    """Two contiguous arrays share no memory."""
    cdef const char *a_data = <const char *>cnp.PyArray_DATA(a)
    cdef const char *b_data = <const char *>cnp.PyArray_DATA(b)
    return a_data + cnp.PyArray_NBYTES(a) <= b_data or b_data + cnp.PyArray_NBYTES(b) <= a_data


cdef inline void *data_of(cnp.ndarray array):
    return NULL if array is None else cnp.PyArray_DATA(array)


def run(str pattern not None, int outer, int reduced, int inner, cnp.ndarray axes, int x_dtype, int y_dtype,
        cnp.ndarray x, cnp.ndarray out, cnp.ndarray weight, cnp.ndarray bias, double eps,
        cnp.ndarray given_mean, cnp.ndarray given_var, cnp.ndarray mean, cnp.ndarray mean_lo, cnp.ndarray m2):
    """Carry out a `Layout`; arrays that do not apply are None. Everything was checked by `_problem`."""
    cdef const wn_axis *axis = <const wn_axis *>cnp.PyArray_DATA(axes)
    cdef wn_problem problem
    cdef wn_status status
    problem.pattern = WN_COLS if pattern == "cols" else WN_RUN
    problem.x_dtype = <wn_dtype>x_dtype
    problem.y_dtype = <wn_dtype>y_dtype
    problem.outer = wn_axes_of(axis, outer)
    problem.reduced = wn_axes_of(axis + outer, reduced)
    problem.inner = wn_axes_of(axis + outer + reduced, inner)
    problem.x = cnp.PyArray_DATA(x)
    problem.y = data_of(out)
    problem.weight = data_of(weight)
    problem.bias = data_of(bias)
    problem.eps = eps
    problem.given_mean = <const double *>data_of(given_mean)
    problem.given_var = <const double *>data_of(given_var)
    problem.mean = <double *>data_of(mean)
    problem.mean_lo = <double *>data_of(mean_lo)
    problem.m2 = <double *>data_of(m2)
    with nogil:
        status = wn_run(&problem)
    if status != WN_OK:
        raise MemoryError("welnorm: no memory for the scratch of a call")


def copy(cnp.ndarray dst not None, cnp.ndarray src not None, bint nontemporal=False):
    """Copy src to dst, contiguous and of the same size: the physical limit that benchmarks compare with."""
    cdef size_t bytes = cnp.PyArray_NBYTES(src)
    cdef void *to = cnp.PyArray_DATA(dst)
    cdef const void *source = cnp.PyArray_DATA(src)
    if (not cnp.PyArray_ISCARRAY(dst) or not cnp.PyArray_ISCARRAY_RO(src)
            or cnp.PyArray_NBYTES(dst) != cnp.PyArray_NBYTES(src)):
        raise ValueError("dst and src must be C-contiguous and of the same size")
    with nogil:
        wn_copy(to, source, bytes, nontemporal)


def usable_isas():
    """Names of the instruction sets of this build that this CPU can run, best first."""
    names = []
    cdef int i = 0
    while wn_usable_isa(i) != NULL:
        names.append(wn_usable_isa(i).isa.decode())
        i += 1
    return tuple(names)


def built_isas():
    """Names of all instruction sets of this build, best first."""
    names = []
    cdef int i = 0
    while wn_built_isa(i) != NULL:
        names.append(wn_built_isa(i).decode())
        i += 1
    return tuple(names)


def select_isa(str name not None):
    """Use an instruction set from now on; False if it is not usable here. For WELNORM_ISA and tests."""
    return bool(wn_select_isa(name.encode()))


def selected_isa():
    return wn_selected_isa().isa.decode()


def set_num_threads(int n):
    """The process's limit; 0 for none."""
    wn_set_num_threads(n)


def set_thread_num_threads(int n):
    """The calling thread's limit; 0 for none."""
    wn_set_thread_num_threads(n)


def max_threads():
    """Threads that a call from this thread may use now."""
    return wn_max_threads()


def thread_limits():
    """Every limit on the number of threads; 0 stands for none."""
    cdef wn_thread_limits limits
    wn_get_thread_limits(&limits)
    return {
        "process": limits.process,
        "thread": limits.thread,
        "openmp": limits.openmp,
        "affinity": limits.affinity,
        "cgroup": limits.cgroup,
        "forked": bool(limits.forked),
        "runtime": limits.runtime.decode(),
    }


def build_info():
    """The compiler and its flags."""
    return {"compiler": WELNORM_COMPILER.decode(), "flags": WELNORM_FLAGS.decode()}
