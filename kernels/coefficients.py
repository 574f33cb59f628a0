"""Hyperparameters and step count -> the coefficients of a rule, once per step and group, in float64.

One function per optimizer and convention, named `<optimizer>_<convention>`, in the same dialect as `rules`. Its
arguments are hyperparameters (and `step`, which counts from 1); it returns variables, and a rule takes those that carry
the names of its own arguments. Called from Python these are plain functions of floats; the compiled module runs what is
rendered from this source, so a step needs no Python.
"""

from .vocabulary import floor, maximum, select, sqrt


def regularize(lr, weight_decay, decoupled_weight_decay, maximize, update_divisor, clip_coefficient):
    grad_factor = (1 - 2 * maximize) * clip_coefficient / update_divisor
    param_decay = 1 - select(decoupled_weight_decay != 0, lr * weight_decay, 0)
    weight_decay = select(decoupled_weight_decay != 0, 0, weight_decay)
    return grad_factor, weight_decay, param_decay


def sgd_torch(step, lr, momentum, dampening):
    # torch starts the buffer with the first gradient, undampened.
    step_size = lr
    nesterov_momentum = momentum
    nesterov_grad_weight = 1
    grad_weight = select(step == 1, 1, 1 - dampening)
    momentum = select(step == 1, 0, momentum)
    return momentum, grad_weight, nesterov_momentum, nesterov_grad_weight, step_size


def adam_torch(step, lr, beta1, beta2, eps):
    # torch divides sqrt(exp_avg_sq) by sqrt(bias_correction2), element by element; both sides of the
    # fraction are multiplied by it here instead, once.
    bias_correction1 = 1 - beta1**step
    bias_correction2_sqrt = sqrt(1 - beta2**step)
    one_minus_beta1 = 1 - beta1
    one_minus_beta2 = 1 - beta2
    step_size = lr * bias_correction2_sqrt / bias_correction1
    eps_in = 0
    eps_out = eps * bias_correction2_sqrt
    return one_minus_beta1, beta2, one_minus_beta2, step_size, eps_in, eps_out


def rmsprop_torch(lr, alpha, eps, momentum):
    one_minus_alpha = 1 - alpha
    eps_in = 0
    eps_out = eps
    step_size = lr
    buffer_step_size = 1
    param_step_size = lr
    return alpha, one_minus_alpha, eps_in, eps_out, step_size, momentum, buffer_step_size, param_step_size


def adagrad_torch(step, lr, lr_decay, eps):
    step_size = lr / (1 + (step - 1) * lr_decay)
    eps_in = 0
    eps_out = eps
    return step_size, eps_in, eps_out


def rprop_torch(etaminus, etaplus, step_size_min, step_size_max):
    return etaminus, etaplus, step_size_min, step_size_max


# --- around the update: what `operations` takes -----------------------------------------------------------------------


def preparation(gather_divisor, value_divisor, clip_value):
    """Unscaling, by whichever operation reads the gradient first."""
    gather_factor = 1 / gather_divisor
    value_factor = 1 / value_divisor
    return gather_factor, value_factor, clip_value


def averaging(step, ema_decay, ema_overwrite_frequency):
    # As Keras does, the average begins with the parameters after the first step.
    ema_weight = select(step == 1, 0, ema_decay)
    ema_rest = 1 - ema_weight
    overwrite = select(floor(step / ema_overwrite_frequency) * ema_overwrite_frequency == step, 1, 0)
    return ema_weight, ema_rest, overwrite


def constraint(l1, l2, low, high):
    return l1, l2, low, high


def clipping_torch(sum_of_squares, divisor, max_norm):
    """torch.nn.utils.clip_grad_norm_: of gradients that are to be divided by `divisor`."""
    ratio = max_norm / (sqrt(sum_of_squares) / divisor + 1e-6)
    clip_coefficient = select(ratio > 1, 1, ratio)
    return clip_coefficient


# --- of whole rows: (sum, count, own arguments) -> what the row's operation takes ------------------------------------


def l2_ball(sum_of_squares, count, radius, lr):
    norm = sqrt(sum_of_squares)
    factor = select(norm > radius, radius / norm, 1)
    return factor


def group_lasso(sum_of_squares, count, strength, lr):
    # A NaN norm is not <=, so it is handed on.
    norm = sqrt(sum_of_squares)
    factor = select(norm <= lr * strength, 0, 1 - lr * strength / norm)
    return factor


def simplex(sum_above, count, total, lr):
    threshold = (sum_above - total) / count
    return threshold


def l1_ball(sum_above, count, radius, lr):
    threshold = maximum((sum_above - radius) / count, 0)
    return threshold
