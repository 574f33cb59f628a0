"""The update rules, each written once.

A rule is a scalar function `(param, grad, *state, *coefficients) -> (param, *state)`. The names that it returns after
`param` are its states; its remaining arguments are its coefficients. It is straight-line code (see `dialect`): + - * /,
comparisons inside `select`, the functions of `vocabulary`, and other functions of this file. Called with arrays, it is
the NumPy reference. Numba and the compiled module run code rendered from this source.

The functions of `coefficients` compute the coefficients once per step, on the host, in float64. Frameworks differ in
where a number enters: `eps_in` under the root or `eps_out` outside of it, the rate inside the momentum buffer or
outside. Each place has its own coefficient, so each framework's convention is a set of coefficients and needs no other
rule: adding 0 and multiplying by 1 are exact.

`regularize` runs before every rule; all updates share it. With the coefficients `registry.IDLE` it changes nothing, so
a loop may leave it out: which of its two renderings runs is a matter of speed alone, see `registry.Loop.alone`.
"""

from .vocabulary import clip, maximum, select, sign, sqrt


def regularize(param, grad, grad_factor, weight_decay, param_decay):
    """Scale the gradient; apply coupled weight decay to the gradient, and decoupled weight decay to the parameter.

    Without weight decay nothing is added, as in torch: 0 times an infinite parameter is NaN, and -0.0 + 0.0 is 0.0.
    """
    grad = grad_factor * grad
    grad = select(weight_decay == 0, grad, grad + weight_decay * param)
    param = param_decay * param
    return param, grad


def lerp(start, end, weight):
    """An exponential moving average, as torch.lerp computes it."""
    return start + (end - start) * weight


def average_square(square_avg, grad, beta, one_minus_beta):
    return beta * square_avg + one_minus_beta * grad * grad


def begun(state, param, is_first):
    """A state that starts as the parameter, as it is before its first update; `is_first` is 1 there, and then 0.

    Until then its memory has 0. A `select` would double the loops of a rule: compilers make one for each outcome of a
    condition on coefficients.
    """
    return (1 - is_first) * state + is_first * param


def root(square, eps_in, eps_out):
    return sqrt(square + eps_in) + eps_out


def sgd(param, grad, step_size):
    param = param - step_size * grad
    return param


def sgd_momentum(param, grad, momentum_buffer, momentum, grad_weight, param_step_size):
    momentum_buffer = momentum * momentum_buffer + grad_weight * grad
    param = param - param_step_size * momentum_buffer
    return param, momentum_buffer


def sgd_nesterov(
    param, grad, momentum_buffer, momentum, grad_weight, nesterov_momentum, nesterov_grad_weight, param_step_size
):
    momentum_buffer = momentum * momentum_buffer + grad_weight * grad
    param = param - param_step_size * (nesterov_grad_weight * grad + nesterov_momentum * momentum_buffer)
    return param, momentum_buffer


def adam(param, grad, exp_avg, exp_avg_sq, one_minus_beta1, beta2, one_minus_beta2, step_size, eps_in, eps_out):
    exp_avg = lerp(exp_avg, grad, one_minus_beta1)
    exp_avg_sq = average_square(exp_avg_sq, grad, beta2, one_minus_beta2)
    param = param - step_size * exp_avg / root(exp_avg_sq, eps_in, eps_out)
    return param, exp_avg, exp_avg_sq


def adam_amsgrad(
    param,
    grad,
    exp_avg,
    exp_avg_sq,
    max_exp_avg_sq,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    max_correction,
    step_size,
    eps_in,
    eps_out,
):
    exp_avg = lerp(exp_avg, grad, one_minus_beta1)
    exp_avg_sq = average_square(exp_avg_sq, grad, beta2, one_minus_beta2)
    max_exp_avg_sq = maximum(max_correction * exp_avg_sq, max_exp_avg_sq)
    param = param - step_size * exp_avg / root(max_exp_avg_sq, eps_in, eps_out)
    return param, exp_avg, exp_avg_sq, max_exp_avg_sq


def nadam(
    param,
    grad,
    exp_avg,
    exp_avg_sq,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    grad_step_size,
    exp_avg_step_size,
    eps_in,
    eps_out,
):
    exp_avg = lerp(exp_avg, grad, one_minus_beta1)
    exp_avg_sq = average_square(exp_avg_sq, grad, beta2, one_minus_beta2)
    param = param - (grad_step_size * grad + exp_avg_step_size * exp_avg) / root(exp_avg_sq, eps_in, eps_out)
    return param, exp_avg, exp_avg_sq


def common_sign(x, y):
    """Positive if two numbers have the same sign, negative if they have different ones, and 0 if one of them is 0.

    It is their product. The factor 2**100 keeps that from being 0 where both are tiny; it may be infinite.
    """
    return 1267650600228229401496703205376.0 * x * y


def caution(direction, grad, agreeing, opposing):
    """A direction, scaled by one factor where it agrees with the gradient, and by another elsewhere."""
    return select(common_sign(direction, grad) > 0, agreeing, opposing) * direction


def decayed_with(param, update, aligned_decay):
    """Decay a parameter, except where the update, which is subtracted from it, has the other sign."""
    return select(common_sign(update, param) < 0, param, aligned_decay * param)


def adam_direction(grad, exp_avg, grad_step_size, exp_avg_step_size):
    """What Adam (without the gradient itself) and NAdam divide by the root."""
    return grad_step_size * grad + exp_avg_step_size * exp_avg


def adam_cautious(
    param,
    grad,
    exp_avg,
    exp_avg_sq,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    grad_step_size,
    exp_avg_step_size,
    agreeing,
    opposing,
    aligned_decay,
    eps_in,
    eps_out,
):
    exp_avg = lerp(exp_avg, grad, one_minus_beta1)
    exp_avg_sq = average_square(exp_avg_sq, grad, beta2, one_minus_beta2)
    direction = adam_direction(grad, exp_avg, grad_step_size, exp_avg_step_size)
    update = caution(direction, grad, agreeing, opposing)
    param = decayed_with(param, update, aligned_decay) - update / root(exp_avg_sq, eps_in, eps_out)
    return param, exp_avg, exp_avg_sq


def adam_cautious_amsgrad(
    param,
    grad,
    exp_avg,
    exp_avg_sq,
    max_exp_avg_sq,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    max_correction,
    grad_step_size,
    exp_avg_step_size,
    agreeing,
    opposing,
    aligned_decay,
    eps_in,
    eps_out,
):
    exp_avg = lerp(exp_avg, grad, one_minus_beta1)
    exp_avg_sq = average_square(exp_avg_sq, grad, beta2, one_minus_beta2)
    max_exp_avg_sq = maximum(max_correction * exp_avg_sq, max_exp_avg_sq)
    direction = adam_direction(grad, exp_avg, grad_step_size, exp_avg_step_size)
    update = caution(direction, grad, agreeing, opposing)
    param = decayed_with(param, update, aligned_decay) - update / root(max_exp_avg_sq, eps_in, eps_out)
    return param, exp_avg, exp_avg_sq, max_exp_avg_sq


def adam_cautious_sums(grad, exp_avg, one_minus_beta1, grad_step_size, exp_avg_step_size):
    exp_avg = lerp(exp_avg, grad, one_minus_beta1)
    direction = adam_direction(grad, exp_avg, grad_step_size, exp_avg_step_size)
    agreeing_sum = select(common_sign(direction, grad) > 0, 1, 0)
    return agreeing_sum


def adabelief(
    param,
    grad,
    exp_avg,
    exp_avg_var,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    eps_kept,
    step_size,
    eps_in,
    eps_out,
):
    exp_avg = lerp(exp_avg, grad, one_minus_beta1)
    exp_avg_var = average_square(exp_avg_var, grad - exp_avg, beta2, one_minus_beta2) + eps_kept
    param = param - step_size * exp_avg / root(exp_avg_var, eps_in, eps_out)
    return param, exp_avg, exp_avg_var


def ademamix(
    param,
    grad,
    exp_avg_fast,
    exp_avg_slow,
    exp_avg_sq,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    one_minus_beta3,
    fast_step_size,
    slow_step_size,
    eps_in,
    eps_out,
):
    exp_avg_fast = lerp(exp_avg_fast, grad, one_minus_beta1)
    exp_avg_slow = lerp(exp_avg_slow, grad, one_minus_beta3)
    exp_avg_sq = average_square(exp_avg_sq, grad, beta2, one_minus_beta2)
    mixed = fast_step_size * exp_avg_fast + slow_step_size * exp_avg_slow
    param = param - mixed / root(exp_avg_sq, eps_in, eps_out)
    return param, exp_avg_fast, exp_avg_slow, exp_avg_sq


def adopt(param, grad, exp_avg, exp_avg_sq, one_minus_beta1, beta2, one_minus_beta2, started, largest, eps, step_size):
    # Divided by the average of the earlier gradients, without this one; in the first step there are none.
    normed = clip(grad / maximum(sqrt(exp_avg_sq), eps), -largest, largest)
    exp_avg = lerp(exp_avg, select(started != 0, normed, 0), one_minus_beta1)
    param = param - step_size * exp_avg
    exp_avg_sq = average_square(exp_avg_sq, grad, beta2, one_minus_beta2)
    return param, exp_avg, exp_avg_sq


def adan(
    param,
    grad,
    exp_avg,
    exp_avg_sq,
    exp_avg_diff,
    neg_pre_grad,
    one_minus_beta1,
    one_minus_beta2,
    beta3,
    one_minus_beta3,
    started,
    diff_weight,
    exp_avg_step_size,
    diff_step_size,
    eps_in,
    eps_out,
    shrinkage,
):
    diff = select(started != 0, grad + neg_pre_grad, 0)
    exp_avg = lerp(exp_avg, grad, one_minus_beta1)
    exp_avg_diff = lerp(exp_avg_diff, diff, one_minus_beta2)
    exp_avg_sq = average_square(exp_avg_sq, grad + diff_weight * diff, beta3, one_minus_beta3)
    mixed = exp_avg_step_size * exp_avg + diff_step_size * exp_avg_diff
    param = shrinkage * (param - mixed / root(exp_avg_sq, eps_in, eps_out))
    neg_pre_grad = -grad
    return param, exp_avg, exp_avg_sq, exp_avg_diff, neg_pre_grad


def rectified_root(square, rectified, eps_in, eps_out):
    """The root, or 1 in the first steps, when the average of squares contains too few of them."""
    return select(rectified != 0, root(square, eps_in, eps_out), 1)


def radam(
    param, grad, exp_avg, exp_avg_sq, one_minus_beta1, beta2, one_minus_beta2, rectified, step_size, eps_in, eps_out
):
    exp_avg = lerp(exp_avg, grad, one_minus_beta1)
    exp_avg_sq = average_square(exp_avg_sq, grad, beta2, one_minus_beta2)
    param = param - step_size * exp_avg / rectified_root(exp_avg_sq, rectified, eps_in, eps_out)
    return param, exp_avg, exp_avg_sq


def adamax(param, grad, exp_avg, exp_inf, one_minus_beta1, beta2, step_size, eps_in, eps_out):
    exp_avg = lerp(exp_avg, grad, one_minus_beta1)
    # The order of the comparison propagates NaN from the gradient; the innermost `select`, from the state.
    size = maximum(grad, -grad) + eps_in
    exp_inf = beta2 * exp_inf
    exp_inf = select(exp_inf > size, exp_inf, select(exp_inf == exp_inf, size, exp_inf))
    param = param - step_size * exp_avg / (exp_inf + eps_out)
    return param, exp_avg, exp_inf


def signed(direction):
    # The sign of NaN is 0. Without this `select`, the parameter would silently stay unchanged.
    return select(direction == direction, sign(direction), direction)


def lion(param, grad, exp_avg, one_minus_beta1, one_minus_beta2, step_size):
    direction = lerp(exp_avg, grad, one_minus_beta1)
    param = param - step_size * signed(direction)
    exp_avg = lerp(exp_avg, grad, one_minus_beta2)
    return param, exp_avg


def lion_cautious(param, grad, exp_avg, one_minus_beta1, one_minus_beta2, agreeing, opposing, aligned_decay, step_size):
    direction = lerp(exp_avg, grad, one_minus_beta1)
    update = caution(signed(direction), grad, agreeing, opposing)
    param = decayed_with(param, update, aligned_decay) - step_size * update
    exp_avg = lerp(exp_avg, grad, one_minus_beta2)
    return param, exp_avg


def lion_cautious_sums(grad, exp_avg, one_minus_beta1):
    direction = lerp(exp_avg, grad, one_minus_beta1)
    agreeing_sum = select(common_sign(direction, grad) > 0, 1, 0)
    return agreeing_sum


def centered_variance(square_avg, grad_avg, grad_avg_correction):
    # In exact arithmetic it is never negative. Rounding can make it negative; torch's root is NaN then.
    return maximum(square_avg - grad_avg_correction * (grad_avg * grad_avg), 0)


def rmsprop(param, grad, square_avg, alpha, one_minus_alpha, eps_in, eps_out, step_size):
    square_avg = average_square(square_avg, grad, alpha, one_minus_alpha)
    param = param - step_size * grad / root(square_avg, eps_in, eps_out)
    return param, square_avg


def rmsprop_momentum(
    param,
    grad,
    square_avg,
    momentum_buffer,
    alpha,
    one_minus_alpha,
    eps_in,
    eps_out,
    momentum,
    buffer_step_size,
    param_step_size,
):
    square_avg = average_square(square_avg, grad, alpha, one_minus_alpha)
    momentum_buffer = momentum * momentum_buffer + buffer_step_size * grad / root(square_avg, eps_in, eps_out)
    param = param - param_step_size * momentum_buffer
    return param, square_avg, momentum_buffer


def rmsprop_nesterov(
    param,
    grad,
    square_avg,
    momentum_buffer,
    alpha,
    one_minus_alpha,
    eps_in,
    eps_out,
    momentum,
    buffer_step_size,
    param_step_size,
):
    square_avg = average_square(square_avg, grad, alpha, one_minus_alpha)
    scaled = buffer_step_size * grad / root(square_avg, eps_in, eps_out)
    momentum_buffer = momentum * momentum_buffer + scaled
    param = param - param_step_size * (scaled + momentum * momentum_buffer)
    return param, square_avg, momentum_buffer


def centered_root(square_avg, grad_avg, grad_avg_correction, eps_in, eps_out):
    return root(centered_variance(square_avg, grad_avg, grad_avg_correction), eps_in, eps_out)


def rmsprop_centered(
    param, grad, square_avg, grad_avg, alpha, one_minus_alpha, grad_avg_correction, eps_in, eps_out, step_size
):
    square_avg = average_square(square_avg, grad, alpha, one_minus_alpha)
    grad_avg = lerp(grad_avg, grad, one_minus_alpha)
    param = param - step_size * grad / centered_root(square_avg, grad_avg, grad_avg_correction, eps_in, eps_out)
    return param, square_avg, grad_avg


def rmsprop_centered_momentum(
    param,
    grad,
    square_avg,
    grad_avg,
    momentum_buffer,
    alpha,
    one_minus_alpha,
    grad_avg_correction,
    eps_in,
    eps_out,
    momentum,
    buffer_step_size,
    param_step_size,
):
    square_avg = average_square(square_avg, grad, alpha, one_minus_alpha)
    grad_avg = lerp(grad_avg, grad, one_minus_alpha)
    scaled = buffer_step_size * grad / centered_root(square_avg, grad_avg, grad_avg_correction, eps_in, eps_out)
    momentum_buffer = momentum * momentum_buffer + scaled
    param = param - param_step_size * momentum_buffer
    return param, square_avg, grad_avg, momentum_buffer


def rmsprop_centered_nesterov(
    param,
    grad,
    square_avg,
    grad_avg,
    momentum_buffer,
    alpha,
    one_minus_alpha,
    grad_avg_correction,
    eps_in,
    eps_out,
    momentum,
    buffer_step_size,
    param_step_size,
):
    square_avg = average_square(square_avg, grad, alpha, one_minus_alpha)
    grad_avg = lerp(grad_avg, grad, one_minus_alpha)
    scaled = buffer_step_size * grad / centered_root(square_avg, grad_avg, grad_avg_correction, eps_in, eps_out)
    momentum_buffer = momentum * momentum_buffer + scaled
    param = param - param_step_size * (scaled + momentum * momentum_buffer)
    return param, square_avg, grad_avg, momentum_buffer


def adagrad(param, grad, sum, step_size, eps_in, eps_out):
    sum = sum + grad * grad
    param = param - step_size * grad / root(sum, eps_in, eps_out)
    return param, sum


def adadelta(param, grad, square_avg, acc_delta, rho, one_minus_rho, eps_in, step_size):
    square_avg = average_square(square_avg, grad, rho, one_minus_rho)
    # One root of a quotient is faster than a quotient of two roots. Without the factor 2**64, which is exact, the
    # quotient of float32 would be 0 where squares of gradients are large and `eps_in` is small.
    ratio = 2.3283064365386963e-10 * sqrt(18446744073709551616.0 * (acc_delta + eps_in) / (square_avg + eps_in))
    delta = ratio * grad
    acc_delta = average_square(acc_delta, delta, rho, one_minus_rho)
    param = param - step_size * delta
    return param, square_avg, acc_delta


def rprop(param, grad, prev, step_size, etaminus, etaplus, step_size_min, step_size_max):
    product = grad * prev
    # The innermost `select` propagates NaN, as torch does.
    factor = select(product > 0, etaplus, select(product < 0, etaminus, select(product == 0, 1, product)))
    step_size = clip(step_size * factor, step_size_min, step_size_max)
    prev = select(product < 0, 0, grad)
    param = param - sign(prev) * step_size
    return param, prev, step_size


def asgd(param, grad, ax, shrinkage, step_size, ax_weight):
    param = shrinkage * param - step_size * grad
    ax = select(ax_weight == 1, param, ax + (param - ax) * ax_weight)
    return param, ax


def decayed_direction(param, exp_avg, exp_avg_sq, direction, eps_in, eps_out, param_weight):
    """Adam's direction, of its average or of a gradient, and the decay of weights; without decay nothing is added."""
    update = direction * exp_avg / root(exp_avg_sq, eps_in, eps_out)
    return select(param_weight == 0, update, update + param_weight * param)


def lamb(
    param,
    grad,
    exp_avg,
    exp_avg_sq,
    one_minus_beta1,
    beta2,
    one_minus_beta2,
    direction,
    eps_in,
    eps_out,
    param_weight,
    step_size,
):
    exp_avg = lerp(exp_avg, grad, one_minus_beta1)
    exp_avg_sq = average_square(exp_avg_sq, grad, beta2, one_minus_beta2)
    update = decayed_direction(param, exp_avg, exp_avg_sq, direction, eps_in, eps_out, param_weight)
    param = param - step_size * update
    return param, exp_avg, exp_avg_sq


def lamb_sums(
    param, grad, exp_avg, exp_avg_sq, one_minus_beta1, beta2, one_minus_beta2, direction, eps_in, eps_out, param_weight
):
    exp_avg = lerp(exp_avg, grad, one_minus_beta1)
    exp_avg_sq = average_square(exp_avg_sq, grad, beta2, one_minus_beta2)
    update = decayed_direction(param, exp_avg, exp_avg_sq, direction, eps_in, eps_out, param_weight)
    param_square_sum = param * param
    update_square_sum = update * update
    return param_square_sum, update_square_sum


def trusted_gradient(param, grad, trust, param_weight):
    """LARS' gradient; without decay nothing is added."""
    return trust * select(param_weight == 0, grad, grad + param_weight * param)


def lars(param, grad, momentum_buffer, trust, param_weight, momentum, grad_weight, step_size):
    grad = trusted_gradient(param, grad, trust, param_weight)
    momentum_buffer = momentum * momentum_buffer + grad_weight * grad
    param = param - step_size * momentum_buffer
    return param, momentum_buffer


def lars_nesterov(param, grad, momentum_buffer, trust, param_weight, momentum, grad_weight, step_size):
    grad = trusted_gradient(param, grad, trust, param_weight)
    momentum_buffer = momentum * momentum_buffer + grad_weight * grad
    param = param - step_size * (grad + momentum * momentum_buffer)
    return param, momentum_buffer


def lars_sums(param, grad):
    param_square_sum = param * param
    grad_square_sum = grad * grad
    return param_square_sum, grad_square_sum


def stable_adamw(
    param, grad, exp_avg, exp_avg_sq, one_minus_beta1, beta2, one_minus_beta2, keep, step_size, eps_in, eps_out
):
    exp_avg = lerp(exp_avg, grad, one_minus_beta1)
    exp_avg_sq = average_square(exp_avg_sq, grad, beta2, one_minus_beta2)
    param = keep * param - step_size * exp_avg / root(exp_avg_sq, eps_in, eps_out)
    return param, exp_avg, exp_avg_sq


def stable_adamw_sums(grad, exp_avg_sq, beta2, one_minus_beta2, least_square):
    exp_avg_sq = average_square(exp_avg_sq, grad, beta2, one_minus_beta2)
    ratio_sum = grad * grad / maximum(exp_avg_sq, least_square)
    return ratio_sum


def prodigy(
    param,
    grad,
    s,
    p0,
    exp_avg,
    exp_avg_sq,
    is_first,
    s_keep,
    s_weight,
    exp_avg_keep,
    exp_avg_weight,
    square_keep,
    square_weight,
    param_weight,
    step_size,
    eps_in,
    eps_out,
):
    p0 = begun(p0, param, is_first)
    s = s_keep * s + s_weight * grad
    exp_avg = exp_avg_keep * exp_avg + exp_avg_weight * grad
    exp_avg_sq = average_square(exp_avg_sq, grad, square_keep, square_weight)
    param = param - param_weight * param
    param = param - step_size * exp_avg / root(exp_avg_sq, eps_in, eps_out)
    return param, s, p0, exp_avg, exp_avg_sq


def prodigy_sums_over_all(param, grad, s, p0, is_first, s_keep, s_weight, distance_weight, is_included):
    p0 = begun(p0, param, is_first)
    s = s_keep * s + s_weight * grad
    distance_sum = select(is_included != 0, distance_weight * (grad * (p0 - param)), 0)
    s_sum = select(is_included != 0, maximum(s, -s), 0)
    return distance_sum, s_sum


def step_beside_average(param, z, update, average_weight, param_step_size):
    """A step from where a parameter is, once the average has taken up the last `z`."""
    return lerp(param, z, average_weight) - param_step_size * update


def schedule_free_adamw(
    param,
    grad,
    z,
    exp_avg_sq,
    is_first,
    beta2,
    one_minus_beta2,
    direction,
    eps_in,
    eps_out,
    param_weight,
    average_weight,
    param_step_size,
    z_step_size,
):
    z = begun(z, param, is_first)
    exp_avg_sq = average_square(exp_avg_sq, grad, beta2, one_minus_beta2)
    update = decayed_direction(param, grad, exp_avg_sq, direction, eps_in, eps_out, param_weight)
    param = step_beside_average(param, z, update, average_weight, param_step_size)
    z = z - z_step_size * update
    return param, z, exp_avg_sq


def schedule_free_sgd(param, grad, z, is_first, average_weight, param_step_size, z_step_size):
    z = begun(z, param, is_first)
    param = step_beside_average(param, z, grad, average_weight, param_step_size)
    z = z - z_step_size * grad
    return param, z
