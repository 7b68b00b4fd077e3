# Layer and RMS norm in one step: part of _c.pyx, for its length.

cpdef norm_rows(object x, object weight, object bias, object axis, object eps, object activation, object out,
                object dtype, bint centred):
    """The ordinary call: contiguous arrays, x and out of one dtype, the last axis. None for any other."""
    cdef rows_call call
    weight, bias = widened(weight), widened(bias)
    if not is_ordinary(x, weight, bias, axis, eps, dtype, &call):
        return None
    call.centred, call.activation = centred, index_of(activation)
    if call.activation < 0:
        return None
    if out is None:
        out = new_like(x)
    elif not (is_output(out, x) and (out is x or is_apart(out, x))
              and is_apart(out, weight) and is_apart(out, bias)):
        return None
    run_rows(&call, NULL, NULL, cnp.PyArray_DATA(<cnp.ndarray>x), cnp.PyArray_DATA(<cnp.ndarray>out),
             cnp.PyArray_NBYTES(<cnp.ndarray>x))
    return out


def add_norm_rows(object x, object residual, object weight, object bias, object axis, object eps, object out,
                  object sum_out, object dtype, bint centred):
    """The same of x + residual: the result and the sum."""
    cdef rows_call call
    weight, bias = widened(weight), widened(bias)
    if not (is_ordinary(x, weight, bias, axis, eps, dtype, &call) and is_plain(residual, call.typenum)
            and cnp.PyArray_SAMESHAPE(<cnp.ndarray>residual, <cnp.ndarray>x)):
        return None
    call.centred, call.activation = centred, 0
    for written in (out, sum_out):
        if written is not None and not (
            is_output(written, x)
            and (written is x or is_apart(written, x))
            and (written is residual or is_apart(written, residual))
            and is_apart(written, weight) and is_apart(written, bias)
        ):
            return None
    if not is_apart(out, sum_out):
        return None
    if out is None:
        out = new_like(x)
    if sum_out is None:
        sum_out = new_like(x)
    run_rows(&call, cnp.PyArray_DATA(<cnp.ndarray>x), cnp.PyArray_DATA(<cnp.ndarray>residual),
             cnp.PyArray_DATA(<cnp.ndarray>sum_out), cnp.PyArray_DATA(<cnp.ndarray>out),
             cnp.PyArray_NBYTES(<cnp.ndarray>x))
    return out, sum_out


def fast_layer_norm(object general):
    """layer_norm that tries the fast lane first. As a C function it costs a call less than one in Python."""
    def layer_norm(x, weight=None, bias=None, *, axis=-1, eps=1e-5, activation=None, out=None,
                   dtype=None):
        y = norm_rows(x, weight, bias, axis, eps, activation, out, dtype, True)
        if y is not None:
            return y
        return general(x, weight, bias, axis=axis, eps=eps, activation=activation, out=out, dtype=dtype)
    return layer_norm


def fast_rms_norm(object general):
    """rms_norm likewise."""
    def rms_norm(x, weight=None, bias=None, *, axis=-1, eps=1e-6, weight_offset=0.0, activation=None,
                 out=None, dtype=None):
        if isinstance(weight_offset, float) and weight_offset == 0.0:
            y = norm_rows(x, weight, bias, axis, eps, activation, out, dtype, False)
            if y is not None:
                return y
        return general(x, weight, bias, axis=axis, eps=eps, weight_offset=weight_offset,
                       activation=activation, out=out, dtype=dtype)
    return rms_norm
