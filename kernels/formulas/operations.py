"""Operations around an update, in the same pass: each written once, in the dialect of `rules`.

An operation is a function of one element of each array that it reads (its positional arguments) and of coefficients
(its keyword-only arguments); the names that it returns are the arrays that it writes. `prepared` and `clipped` are
short buffers of each thread. The update reads its gradient from them, so the gradient itself is not overwritten.
"""

from .rules import centered_root, lerp, rectified_root, root
from .vocabulary import clip, maximum, select

# --- before the update ----------------------------------------------------------------------------------------------


def gather(grad_accumulator, grad, *, gather_factor):
    prepared = grad_accumulator + gather_factor * grad
    return prepared


def keep(prepared):
    """Keep the gathered gradient for the next call."""
    grad_accumulator = prepared
    return grad_accumulator


def clip_values(grad, *, value_factor, clip_value):
    clipped = clip(value_factor * grad, -clip_value, clip_value)
    return clipped


# --- after the update, in this order --------------------------------------------------------------------------------


def averaged(param_average, param, ema_weight, ema_rest):
    """Without a weight there is no average yet, and its memory may hold anything."""
    return select(ema_weight == 0, param, ema_weight * param_average + ema_rest * param)


def average(param_average, param, *, ema_weight, ema_rest):
    param_average = averaged(param_average, param, ema_weight, ema_rest)
    return param_average


def average_and_overwrite(param_average, param, *, ema_weight, ema_rest, overwrite):
    param_average = averaged(param_average, param, ema_weight, ema_rest)
    param = select(overwrite != 0, param_average, param)
    return param_average, param


def shrink(param, amount):
    """Move `param` towards zero by `amount`, and to exactly zero if it is nearer than that; NaN stays NaN."""
    return select(param > amount, param - amount, select(param < -amount, param + amount, param - param))


def proximal(param, rate, l1, l2):
    """argmin over x of |x - param|^2 / 2 + rate * (l1 * |x| + l2 / 2 * x^2)."""
    return shrink(param, rate * l1) / (1 + rate * l2)


def proximal_plain(param, *, step_size, l1, l2):
    param = proximal(param, step_size, l1, l2)
    return param


def proximal_adaptive(param, square_avg, *, step_size, eps_in, eps_out, l1, l2):
    param = proximal(param, step_size / root(square_avg, eps_in, eps_out), l1, l2)
    return param


def proximal_centered(param, square_avg, grad_avg, *, step_size, grad_avg_correction, eps_in, eps_out, l1, l2):
    rate = step_size / centered_root(square_avg, grad_avg, grad_avg_correction, eps_in, eps_out)
    param = proximal(param, rate, l1, l2)
    return param


def proximal_rectified(param, square_avg, *, step_size, rectified, eps_in, eps_out, l1, l2):
    param = proximal(param, step_size / rectified_root(square_avg, rectified, eps_in, eps_out), l1, l2)
    return param


def proximal_infinity(param, exp_inf, *, step_size, eps_out, l1, l2):
    param = proximal(param, step_size / (exp_inf + eps_out), l1, l2)
    return param


def proximal_rprop(param, step_size, *, l1, l2):
    param = proximal(param, step_size, l1, l2)
    return param


def box(param, *, low, high):
    param = clip(param, low, high)
    return param


def clear_accumulator(grad_accumulator):
    grad_accumulator = 0
    return grad_accumulator


def clear_grad(grad):
    grad = 0
    return grad


# --- on whole rows --------------------------------------------------------------------------------------------------


def scale(param, *, factor):
    param = factor * param
    return param


def lower(param, *, threshold):
    """Subtract the threshold; zero if `param` does not exceed it; NaN stays NaN."""
    param = select(param <= threshold, 0, param - threshold)
    return param


def soften(param, *, threshold):
    param = shrink(param, threshold)
    return param


# --- between steps --------------------------------------------------------------------------------------------------


def swap(param, param_average):
    other = param
    param = param_average
    param_average = other
    return param, param_average


def show_average(param, z, *, average_weight):
    """`y` keeps the parameter as it trains: computed back from its average, it would be off by some roundings."""
    y = param
    param = select(average_weight == 0, param, lerp(param, z, average_weight))
    return param, y


def hide_average(param, z, y, *, average_weight, train_weight, tolerance, smallest):
    """What is not the average any more, apart from how it is rounded, was changed meanwhile, and counts as the average.

    Without an average (`y` is NaN) that is everything.
    """
    shown = lerp(y, z, average_weight)
    change = param - shown
    limit = tolerance * maximum(shown, -shown) + smallest
    param = select(maximum(change, -change) <= limit, y, lerp(param, z, train_weight))
    return param


# --- memory traffic alone: read and write as an update with this number of states does, and compute almost nothing ---


def roofline_0(param, grad):
    param = param + grad
    return param


def roofline_1(param, grad, state):
    param = param + grad
    state = -state
    return param, state


def roofline_2(param, grad, state, second_state):
    param = param + grad
    state = -state
    second_state = -second_state
    return param, state, second_state


def roofline_3(param, grad, state, second_state, third_state):
    param = param + grad
    state = -state
    second_state = -second_state
    third_state = -third_state
    return param, state, second_state, third_state


def roofline_4(param, grad, state, second_state, third_state, fourth_state):
    param = param + grad
    state = -state
    second_state = -second_state
    third_state = -third_state
    fourth_state = -fourth_state
    return param, state, second_state, third_state, fourth_state
