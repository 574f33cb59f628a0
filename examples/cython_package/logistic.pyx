# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Logistic regression, trained by Adam in one loop without the GIL."""

from cython.view cimport array
from libc.math cimport expf
from libc.stdint cimport int64_t

from fastopt.updates cimport adam_float32


cdef void gradient(const float[:, ::1] inputs, const float[::1] targets, const float[::1] weights,
                   Py_ssize_t first, Py_ssize_t last, float[::1] grad) noexcept nogil:
    """The sum over rows [first, last) of the gradient of the logistic loss; the last weight is the intercept."""
    cdef Py_ssize_t row, column, columns = inputs.shape[1]
    cdef float score, error
    for column in range(columns + 1):
        grad[column] = 0
    for row in range(first, last):
        score = weights[columns]
        for column in range(columns):
            score += weights[column] * inputs[row, column]
        error = 1 / (1 + expf(-score)) - targets[row]
        for column in range(columns):
            grad[column] += error * inputs[row, column]
        grad[columns] += error


def gradient_of(const float[:, ::1] inputs, const float[::1] targets, const float[::1] weights, Py_ssize_t first,
                Py_ssize_t last, float[::1] grad):
    """`gradient`, callable from Python."""
    gradient(inputs, targets, weights, first, last, grad)


def train(const float[:, ::1] inputs, const float[::1] targets, float[::1] weights, int epochs, Py_ssize_t batch,
          double lr):
    """Train in place. Rows are used in order, and the last batch may be smaller.

    `weights` has one element more than `inputs` has columns. Other threads can run during the training.
    """
    cdef Py_ssize_t size = inputs.shape[1] + 1, rows = inputs.shape[0], first, last
    if weights.shape[0] != size or targets.shape[0] != rows or batch < 1 or lr < 0:
        raise ValueError("shapes do not match, or batch or lr is out of range")
    # The gradient, then both averages, which start at zero.
    cdef float[:, ::1] buffers = array(shape=(3, size), itemsize=sizeof(float), format="f")
    buffers[:, :] = 0
    cdef float[::1] grad = buffers[0]
    cdef int64_t step = 0
    cdef int epoch
    with nogil:
        for epoch in range(epochs):
            first = 0
            while first < rows:
                last = min(first + batch, rows)
                gradient(inputs, targets, weights, first, last, grad)
                step += 1
                adam_float32(&weights[0], &grad[0], &buffers[1, 0], &buffers[2, 0], size, step,
                             lr, 0.9, 0.999, 1e-8, 0.0, False, False, last - first)
                first = last
    return step
