# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""The binding: arguments in, pointers down, status back. No arithmetic and no checks that Python has made."""

cimport numpy as cnp
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t

from cpython.pycapsule cimport PyCapsule_New
from libc.string cimport strcpy

cnp.import_array()

include "declarations.pxi"

wn_threads_init()
wn_select_isa(NULL)

cdef bint fast_lane = False
cdef int bfloat16_typenum = -1  # NumPy has none of its own: ml_dtypes registers one when it is imported


def set_fast_lane(bint is_open):
    """Let ordinary calls go straight to the kernels (this backend is in use in every thread), or not."""
    global fast_lane
    fast_lane = is_open


def set_bfloat16(int typenum):
    """Tell the fast lane NumPy's number for bfloat16."""
    global bfloat16_typenum
    bfloat16_typenum = typenum


cdef inline bint is_plain(object value, int typenum):
    """An ndarray (no subclass) of that dtype, C-contiguous, aligned and in native byte order."""
    return (
        cnp.PyArray_CheckExact(value)
        and cnp.PyArray_TYPE(<cnp.ndarray>value) == typenum
        and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>value)
    )


cdef inline bint is_parameter(object value, int typenum, cnp.npy_intp n):
    return is_plain(value, typenum) and cnp.PyArray_NDIM(value) == 1 and cnp.PyArray_DIM(value, 0) == n


ctypedef struct rows_call:
    wn_dtype element
    int typenum
    size_t rows, n
    const void *weight
    const void *bias
    double eps
    int centred, activation


cdef inline object widened(object parameter):
    """A vector of 16 bits an element as float32, which the kernels take; anything else as it is."""
    cdef int typenum
    if parameter is None or not cnp.PyArray_CheckExact(parameter) or cnp.PyArray_NDIM(parameter) != 1:
        return parameter
    typenum = cnp.PyArray_TYPE(parameter)
    if typenum != cnp.NPY_FLOAT16 and typenum != bfloat16_typenum or not is_plain(parameter, typenum):
        return parameter
    wide = cnp.PyArray_EMPTY(1, cnp.PyArray_DIMS(parameter), cnp.NPY_FLOAT32, 0)
    wn_widen(WN_f16 if typenum == cnp.NPY_FLOAT16 else WN_bf16, cnp.PyArray_DATA(parameter),
             cnp.PyArray_DATA(wide), cnp.PyArray_SIZE(parameter))
    return wide


cdef bint is_usual(object x, object eps, object dtype, wn_dtype *element, int *parameter_typenum):
    """A contiguous array, not empty, of a dtype of ours (`element`), which the result shall have, too."""
    cdef int typenum
    if not fast_lane or dtype is not None or type(eps) is not float:
        return False
    if not cnp.PyArray_CheckExact(x):
        return False
    typenum = cnp.PyArray_TYPE(x)
    parameter_typenum[0] = cnp.NPY_FLOAT32
    if typenum == cnp.NPY_FLOAT32:
        element[0] = WN_f32
    elif typenum == cnp.NPY_FLOAT64:
        element[0] = WN_f64
        parameter_typenum[0] = cnp.NPY_FLOAT64
    elif typenum == cnp.NPY_FLOAT16:
        element[0] = WN_f16
    elif typenum == bfloat16_typenum:
        element[0] = WN_bf16
    else:
        return False
    return cnp.PyArray_ISCARRAY_RO(x) and cnp.PyArray_SIZE(x) != 0 and 0.0 <= <double>eps <= 1e300


cdef bint is_ordinary(object x, object weight, object bias, object axis, object eps, object dtype,
                      rows_call *call):
    """Fill in `call` if these are contiguous arrays, parameters of x's compute type, and the last axis."""
    cdef int ndim, parameter_typenum
    if type(axis) is not int or not is_usual(x, eps, dtype, &call.element, &parameter_typenum):
        return False
    call.typenum = cnp.PyArray_TYPE(x)
    ndim = cnp.PyArray_NDIM(x)
    call.rows = cnp.PyArray_SIZE(x)
    call.eps = eps
    if ndim == 0 or axis != -1:
        return False
    call.n = cnp.PyArray_DIM(x, ndim - 1)
    if call.n == 1:  # no row: the general way takes it for a column, whose sums are others
        return False
    call.rows //= call.n
    call.weight = call.bias = NULL
    if weight is not None:
        if not is_parameter(weight, parameter_typenum, <cnp.npy_intp>call.n):
            return False
        call.weight = cnp.PyArray_DATA(weight)
    if bias is not None:
        if not is_parameter(bias, parameter_typenum, <cnp.npy_intp>call.n):
            return False
        call.bias = cnp.PyArray_DATA(bias)
    return True


cdef inline bint is_output(object out, object x):
    """An array that x's results can go to: like x, and writable."""
    return (
        is_plain(out, cnp.PyArray_TYPE(<cnp.ndarray>x))
        and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out)
        and cnp.PyArray_SAMESHAPE(<cnp.ndarray>out, <cnp.ndarray>x)
    )


cdef PyDataMem_Handler aligned_memory
strcpy(aligned_memory.name, "welnorm")
aligned_memory.version = 1
aligned_memory.allocator.ctx = NULL
aligned_memory.allocator.malloc = wn_aligned_malloc
aligned_memory.allocator.calloc = wn_aligned_calloc
aligned_memory.allocator.realloc = wn_aligned_realloc
aligned_memory.allocator.free = wn_aligned_free
cdef object aligned_handler = PyCapsule_New(&aligned_memory, "mem_handler", NULL)


cdef object new_array(int ndim, cnp.npy_intp *shape, int typenum, size_t bytes):
    """A new C-contiguous array; a large one starts at a cache line."""
    if bytes < WN_ALIGNED_BYTES:
        return cnp.PyArray_EMPTY(ndim, shape, typenum, 0)
    before = PyDataMem_SetHandler(aligned_handler)
    try:
        return cnp.PyArray_EMPTY(ndim, shape, typenum, 0)
    finally:
        PyDataMem_SetHandler(before)


def output_cache(bint clear=False):
    """Bytes held for outputs to come, and freed now if so asked; and at most how many."""
    cdef size_t most, held = wn_output_cache(clear, &most)
    return held, most


def empty_bytes(cnp.npy_intp count):
    """A new array of bytes; a large one starts at a cache line."""
    return new_array(1, &count, cnp.NPY_UINT8, count)


def empty(cnp.ndarray like not None, object dtype not None):
    """A new C-contiguous array of the shape of `like`; a large one starts at a cache line."""
    cdef size_t bytes = cnp.PyArray_SIZE(like) * <size_t>(<cnp.dtype>dtype).itemsize
    return new_array(cnp.PyArray_NDIM(like), cnp.PyArray_DIMS(like), (<cnp.dtype>dtype).num, bytes)


cdef inline object new_like(object x):
    cdef size_t bytes = cnp.PyArray_NBYTES(<cnp.ndarray>x)
    return new_array(cnp.PyArray_NDIM(x), cnp.PyArray_DIMS(x), cnp.PyArray_TYPE(x), bytes)


cdef inline bint is_apart(object a, object b):
    """Two contiguous arrays share no memory; nor does None with any."""
    if a is None or b is None:
        return True
    cdef const char *a_data = <const char *>cnp.PyArray_DATA(<cnp.ndarray>a)
    cdef const char *b_data = <const char *>cnp.PyArray_DATA(<cnp.ndarray>b)
    return (a_data + cnp.PyArray_NBYTES(<cnp.ndarray>a) <= b_data
            or b_data + cnp.PyArray_NBYTES(<cnp.ndarray>b) <= a_data)


cdef inline wn_status norm_rows_of(const rows_call *c, const void *augend, const void *addend, const void *x,
                                   void *y) noexcept nogil:
    return wn_norm_rows(c.element, augend, addend, x, y, c.rows, c.n, c.weight, c.bias, c.eps, c.centred,
                        <wn_activation>c.activation)


cdef inline int check(wn_status status) except -1:
    if status != WN_OK:
        raise MemoryError("welnorm: no memory for the scratch of a call")
    return 0


cdef int run_rows(const rows_call *call, const void *augend, const void *addend, const void *x, void *y,
                  size_t bytes) except -1:
    cdef wn_status status
    if bytes < WN_GIL_BYTES:
        status = norm_rows_of(call, augend, addend, x, y)
    else:
        with nogil:
            status = norm_rows_of(call, augend, addend, x, y)
    return check(status)


cdef dict activations = {}


def set_activations(tuple names not None):
    """Tell the fast lane the names of activations, in the order of enum wn_activation."""
    global activations
    activations = {name: index for index, name in enumerate(names)}


cdef inline int index_of(object activation):
    """The activation's number, or -1 if there is no such name."""
    if activation is None:
        return WN_NO_ACTIVATION
    return activations[activation] if type(activation) is str and activation in activations else -1


include "rows.pxi"


cdef inline bint is_running(object buffer, int typenum, cnp.npy_intp channels, bint training):
    """Statistics to read, or in training to update if there are any."""
    if buffer is None:
        return training
    return is_parameter(buffer, typenum, channels) and (
        not training or cnp.PyArray_ISWRITEABLE(<cnp.ndarray>buffer)
    )


cdef inline bint is_blocked(object axis):
    """Whether it says (1, -1), in so many words."""
    return (type(axis) is tuple and len(axis) == 2 and type(axis[0]) is int and type(axis[1]) is int
            and axis == (1, -1))


def norm_channels(object x, object running_mean, object running_var, object weight, object bias,
                  object training, object momentum, object axis, object eps, object mask,
                  object activation, object out, object dtype, Py_ssize_t groups):
    """The ordinary call of batch norm (groups is 0), instance (-1) and group norm; None for any other."""
    cdef wn_channels call
    cdef wn_status status
    cdef int ndim, activation_index, parameter_typenum
    cdef cnp.npy_intp *shape
    cdef size_t size, bytes
    cdef bint blocked = groups == 0 and is_blocked(axis)
    weight, bias = widened(weight), widened(bias)
    if mask is not None or not blocked and type(axis) is not int:
        return None
    if not is_usual(x, eps, dtype, &call.dtype, &parameter_typenum):
        return None
    if type(training) is not bool or type(momentum) is not float or not 0.0 <= <double>momentum <= 1.0:
        return None
    ndim = cnp.PyArray_NDIM(x)
    if ndim < 2 + blocked or not blocked and axis != 1 and axis != -1:
        return None
    shape = cnp.PyArray_DIMS(x)
    size = cnp.PyArray_SIZE(x)
    call.batch = shape[0]
    call.channels = shape[1] * shape[ndim - 1] if blocked else shape[1] if axis == 1 else shape[ndim - 1]
    call.positions = size // call.batch // call.channels
    call.last = axis == -1 or call.positions == 1
    call.block = shape[ndim - 1] if blocked and not call.last else 0
    call.training = training
    if groups != 0:
        call.groups = call.channels if groups < 0 else groups
        if groups < -1 or call.positions == 1 or call.channels % call.groups != 0:
            return None
    else:
        call.groups = 0
        if training and call.batch * call.positions == 1:
            return None
        if not is_running(running_mean, parameter_typenum, call.channels, training):
            return None
        if not is_running(running_var, parameter_typenum, call.channels, training):
            return None
    if not (weight is None or is_parameter(weight, parameter_typenum, call.channels)):
        return None
    if not (bias is None or is_parameter(bias, parameter_typenum, call.channels)):
        return None
    activation_index = index_of(activation)
    if activation_index < 0:
        return None
    call.activation = <wn_activation>activation_index
    bytes = cnp.PyArray_NBYTES(<cnp.ndarray>x)
    if out is not None and not (
        is_output(out, x)
        and (out is x or is_apart(out, x)) and is_apart(out, weight) and is_apart(out, bias)
        and is_apart(out, running_mean) and is_apart(out, running_var)
    ):
        return None
    if training and not (is_apart(running_mean, running_var) and are_apart(running_mean, x, weight, bias)
                         and are_apart(running_var, x, weight, bias)):
        return None
    if out is None:
        out = new_like(x)
    call.x, call.y = cnp.PyArray_DATA(<cnp.ndarray>x), cnp.PyArray_DATA(<cnp.ndarray>out)
    call.weight, call.bias = data_of(weight), data_of(bias)
    call.running_mean, call.running_var = data_of(running_mean), data_of(running_var)
    call.eps, call.momentum = eps, momentum
    if bytes < WN_GIL_BYTES:
        status = wn_norm_channels(&call)
    else:
        with nogil:
            status = wn_norm_channels(&call)
    check(status)
    return out


cdef inline bint are_apart(object a, object b, object c, object d):
    return is_apart(a, b) and is_apart(a, c) and is_apart(a, d)


cdef inline void *data_of(cnp.ndarray array):
    return NULL if array is None else cnp.PyArray_DATA(array)


def run(str pattern not None, int outer, int reduced, int inner, int group, cnp.ndarray axes,
        int x_dtype, int y_dtype, cnp.ndarray x, cnp.ndarray out, cnp.ndarray weight, cnp.ndarray bias,
        double eps, bint centred, int activation, cnp.ndarray mask, tuple addends, cnp.ndarray scale,
        bint scale_is_given, tuple given, tuple state, bint exact):
    """Carry out a `Layout`; arrays and tuples that do not apply are None. `_problem` has checked all."""
    cdef const wn_axis *axis = <const wn_axis *>cnp.PyArray_DATA(axes)
    cdef wn_problem problem
    cdef wn_status status
    problem.pattern = WN_COLS if pattern == "cols" else WN_RUN
    problem.x_dtype = <wn_dtype>x_dtype
    problem.y_dtype = <wn_dtype>y_dtype
    problem.outer = wn_axes_of(axis, outer)
    problem.reduced = wn_axes_of(axis + outer, reduced)
    problem.inner = wn_axes_of(axis + outer + reduced, inner)
    problem.group = group
    problem.centred = centred
    problem.x = cnp.PyArray_DATA(x)
    problem.y = data_of(out)
    problem.weight = data_of(weight)
    problem.bias = data_of(bias)
    problem.activation = <wn_activation>activation
    problem.eps = eps
    problem.mask = <const uint8_t *>data_of(mask)
    problem.augend, problem.addend = NULL, NULL
    if addends is not None:
        problem.augend, problem.addend = data_of(addends[0]), data_of(addends[1])
    problem.scale = <float *>data_of(scale)
    problem.scale_is_given = scale_is_given
    problem.given_mean, problem.given_var = NULL, NULL
    if given is not None:
        problem.given_mean, problem.given_var = data_of(given[0]), data_of(given[1])
        problem.given_dtype = WN_f64
    problem.exact = exact
    problem.count = NULL
    problem.states.mean = NULL
    if state is not None:
        problem.count = <double *>data_of(state[0])
        problem.states.mean = <double *>data_of(state[1])
        problem.states.mean_lo = <double *>data_of(state[2])
        problem.states.m2 = <double *>data_of(state[3])
        problem.states.m2_lo = <double *>data_of(state[4])
    with nogil:
        status = wn_run(&problem)
    check(status)


def move_blocked(cnp.ndarray plain not None, cnp.ndarray blocked not None, bint into_blocks):
    """Fill (N, C, ...) from (N, C/b, ..., b) or the other way, both C-contiguous; see `to_blocked`."""
    cdef size_t batch = cnp.PyArray_DIM(plain, 0), channels = cnp.PyArray_DIM(plain, 1)
    cdef size_t block = cnp.PyArray_DIM(blocked, cnp.PyArray_NDIM(blocked) - 1)
    cdef size_t positions = 1, element_bytes = cnp.PyArray_ITEMSIZE(plain)
    cdef void *to_plain = cnp.PyArray_DATA(plain)
    cdef void *to_blocked = cnp.PyArray_DATA(blocked)
    cdef int axis
    for axis in range(2, cnp.PyArray_NDIM(plain)):
        positions *= cnp.PyArray_DIM(plain, axis)
    with nogil:
        wn_move_blocked(to_plain, to_blocked, batch, channels, positions, block, element_bytes, into_blocks)


def copy(cnp.ndarray dst not None, cnp.ndarray src not None, bint nontemporal=False, size_t read_first=0):
    """Copy src to dst, contiguous and of the same size: the physical limit that benchmarks compare with.

    With read_first a thread reads up to so many bytes before it copies them, and then the next.
    """
    cdef size_t bytes = cnp.PyArray_NBYTES(src)
    cdef void *to = cnp.PyArray_DATA(dst)
    cdef const void *source = cnp.PyArray_DATA(src)
    if (not cnp.PyArray_ISCARRAY(dst) or not cnp.PyArray_ISCARRAY_RO(src)
            or cnp.PyArray_NBYTES(dst) != cnp.PyArray_NBYTES(src)):
        raise ValueError("dst and src must be C-contiguous and of the same size")
    if read_first % 64:
        raise ValueError("read_first must be a multiple of 64")
    with nogil:
        wn_copy(to, source, bytes, nontemporal, read_first)


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
