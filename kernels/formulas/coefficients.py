"""Computes the coefficients of a rule from hyperparameters and step count, once per step and group, in float64.

Each optimizer and convention has one function, named `<optimizer>_<framework>` (without a framework if all agree), in
the same dialect as `rules`. Its arguments are hyperparameters, `step`, which counts from 1, and numbers carried from
step to step, which it also returns. It returns variables; a rule takes the ones named like its own arguments. Called
from Python, these are plain functions of floats. The compiled module runs code rendered from this source, so a step
needs no Python.
"""

from .vocabulary import clip, floor, log, maximum, select, sqrt


def regularize(lr, weight_decay, decoupled_weight_decay, maximize, update_divisor, clip_coefficient):
    grad_factor = (1 - 2 * maximize) * clip_coefficient / update_divisor
    param_decay = 1 - select(decoupled_weight_decay != 0, lr * weight_decay, 0)
    weight_decay = select(decoupled_weight_decay != 0, 0, weight_decay)
    return grad_factor, weight_decay, param_decay


def regularize_after_first(step, lr, weight_decay, decoupled_weight_decay, maximize, update_divisor, clip_coefficient):
    """As `regularize`, without decoupled weight decay in the first step: the parameter stays as it is."""
    grad_factor = (1 - 2 * maximize) * clip_coefficient / update_divisor
    param_decay = 1 - select(step == 1, 0, select(decoupled_weight_decay != 0, lr * weight_decay, 0))
    weight_decay = select(decoupled_weight_decay != 0, 0, weight_decay)
    return grad_factor, weight_decay, param_decay


def regularize_adan(lr, weight_decay, no_prox, maximize, update_divisor, clip_coefficient):
    """With no_prox, decays the parameter before the update; otherwise the rule itself decays it after the update."""
    grad_factor = (1 - 2 * maximize) * clip_coefficient / update_divisor
    param_decay = 1 - select(no_prox != 0, lr * weight_decay, 0)
    weight_decay = 0
    return grad_factor, weight_decay, param_decay


def regularize_without_decay(maximize, update_divisor, clip_coefficient):
    """For rules that decay weights themselves."""
    grad_factor = (1 - 2 * maximize) * clip_coefficient / update_divisor
    param_decay = 1
    weight_decay = 0
    return grad_factor, weight_decay, param_decay


def regularize_prodigy(weight_decay, decouple, maximize, update_divisor, clip_coefficient):
    """With decouple, the rule itself decays the parameter."""
    grad_factor = (1 - 2 * maximize) * clip_coefficient / update_divisor
    param_decay = 1
    weight_decay = select(decouple != 0, 0, weight_decay)
    return grad_factor, weight_decay, param_decay


def first(step):
    """1 in the first update of a parameter, then 0: for states that start as the parameter, see `begun` in `rules`."""
    return select(step == 1, 1, 0)


def regularize_cautious(
    lr, weight_decay, decoupled_weight_decay, cautious_weight_decay, maximize, update_divisor, clip_coefficient
):
    """For cautious rules, which decay weights themselves with cautious_weight_decay."""
    grad_factor = (1 - 2 * maximize) * clip_coefficient / update_divisor
    decay = 1 - select(decoupled_weight_decay != 0, lr * weight_decay, 0)
    param_decay = select(cautious_weight_decay != 0, 1, decay)
    aligned_decay = select(cautious_weight_decay != 0, decay, 1)
    weight_decay = select(decoupled_weight_decay != 0, 0, weight_decay)
    return grad_factor, weight_decay, param_decay, aligned_decay


def caution(cautious, agreeing_sum, numel):
    """The factors of elements whose update agrees with the gradient, and of all others."""
    fraction = agreeing_sum / maximum(numel, 1)
    agreeing = select(cautious != 0, 1 / maximum(fraction, 1e-3), 1)
    opposing = select(cautious != 0, 0, 1)
    return agreeing, opposing


def decayed_rate(step, lr, decay):
    """Inverse time decay: the first step is not decayed."""
    return lr / (1 + (step - 1) * decay)


def sgd_torch(step, lr, momentum, dampening):
    # torch starts the buffer with the first gradient, undampened.
    step_size = lr
    param_step_size = lr
    nesterov_momentum = momentum
    nesterov_grad_weight = 1
    grad_weight = select(step == 1, 1, 1 - dampening)
    momentum = select(step == 1, 0, momentum)
    return momentum, grad_weight, nesterov_momentum, nesterov_grad_weight, param_step_size, step_size


def sgd_keras(lr, momentum, negated):
    # The buffer accumulates gradients times their rates, so a new rate leaves earlier contributions unchanged.
    # It is negated where it is Keras' own, to which Keras adds what it takes off the parameter.
    direction = 1 - 2 * negated
    step_size = lr
    param_step_size = direction
    nesterov_momentum = momentum
    nesterov_grad_weight = direction * lr
    grad_weight = direction * lr
    return momentum, grad_weight, nesterov_momentum, nesterov_grad_weight, param_step_size, step_size


def adam_torch(step, lr, beta1, beta2, eps):
    # torch divides every element of sqrt(exp_avg_sq) by sqrt(bias_correction2). These coefficients multiply
    # both sides of the fraction by sqrt(bias_correction2) instead, once per step.
    bias_correction1 = 1 - beta1**step
    bias_correction2_sqrt = sqrt(1 - beta2**step)
    one_minus_beta1 = 1 - beta1
    one_minus_beta2 = 1 - beta2
    step_size = lr * bias_correction2_sqrt / bias_correction1
    grad_step_size = 0
    exp_avg_step_size = step_size
    max_correction = 1
    eps_in = 0
    eps_out = eps * bias_correction2_sqrt
    return (
        one_minus_beta1,
        beta2,
        one_minus_beta2,
        max_correction,
        step_size,
        grad_step_size,
        exp_avg_step_size,
        eps_in,
        eps_out,
    )


def adam_keras(step, lr, beta1, beta2, eps):
    # Keras adds eps to the root before its bias correction, so eps has more effect in the first steps.
    one_minus_beta1 = 1 - beta1
    one_minus_beta2 = 1 - beta2
    max_correction = 1
    step_size = lr * sqrt(1 - beta2**step) / (1 - beta1**step)
    eps_in = 0
    eps_out = eps
    return one_minus_beta1, beta2, one_minus_beta2, max_correction, step_size, eps_in, eps_out


def adam_optax(step, lr, beta1, beta2, eps, eps_root, amsgrad):
    # optax.amsgrad takes the maximum of the corrected averages, and does not correct the maximum again.
    bias_correction1 = 1 - beta1**step
    bias_correction2 = 1 - beta2**step
    one_minus_beta1 = 1 - beta1
    one_minus_beta2 = 1 - beta2
    max_correction = 1 / bias_correction2
    correction = select(amsgrad != 0, 1, bias_correction2)
    step_size = lr * sqrt(correction) / bias_correction1
    # optax.adam(nesterov=True): the momentum of NAdam without its schedule
    grad_step_size = one_minus_beta1 * step_size
    exp_avg_step_size = lr * sqrt(bias_correction2) * beta1 / (1 - beta1 ** (step + 1))
    eps_in = eps_root * correction
    eps_out = eps * sqrt(correction)
    return (
        one_minus_beta1,
        beta2,
        one_minus_beta2,
        max_correction,
        step_size,
        grad_step_size,
        exp_avg_step_size,
        eps_in,
        eps_out,
    )


def momentum_at(step, beta1, momentum_decay, base):
    """The momentum of NAdam at a step; it grows from about half of beta1 to beta1."""
    return beta1 * (1 - 0.5 * base ** (step * momentum_decay))


def nadam(step, lr, beta1, beta2, eps, momentum_decay, mu_product, base, product_base):
    # Both bases are 0.96. Keras rounds both to float32; Keras 3 rounds only one of them.
    bias_correction2_sqrt = sqrt(1 - beta2**step)
    mu = momentum_at(step, beta1, momentum_decay, base)
    mu_next = momentum_at(step + 1, beta1, momentum_decay, base)
    mu_product = mu_product * momentum_at(step, beta1, momentum_decay, product_base)
    one_minus_beta1 = 1 - beta1
    one_minus_beta2 = 1 - beta2
    grad_step_size = lr * bias_correction2_sqrt * (1 - mu) / (1 - mu_product)
    exp_avg_step_size = lr * bias_correction2_sqrt * mu_next / (1 - mu_product * mu_next)
    step_size = grad_step_size + exp_avg_step_size
    eps_in = 0
    eps_out = eps * bias_correction2_sqrt
    return (
        one_minus_beta1,
        beta2,
        one_minus_beta2,
        grad_step_size,
        exp_avg_step_size,
        step_size,
        eps_in,
        eps_out,
        mu_product,
    )


def adabelief_torch(step, lr, beta1, beta2, eps):
    # eps is used twice: each step also adds it to the variance, where it stays and accumulates.
    bias_correction2_sqrt = sqrt(1 - beta2**step)
    one_minus_beta1 = 1 - beta1
    one_minus_beta2 = 1 - beta2
    eps_kept = eps
    step_size = lr * bias_correction2_sqrt / (1 - beta1**step)
    eps_in = 0
    eps_out = eps * bias_correction2_sqrt
    return one_minus_beta1, beta2, one_minus_beta2, eps_kept, step_size, eps_in, eps_out


def adabelief_optax(step, lr, beta1, beta2, eps, eps_root):
    bias_correction2_sqrt = sqrt(1 - beta2**step)
    one_minus_beta1 = 1 - beta1
    one_minus_beta2 = 1 - beta2
    eps_kept = eps_root
    step_size = lr * bias_correction2_sqrt / (1 - beta1**step)
    eps_in = 0
    eps_out = eps * bias_correction2_sqrt
    return one_minus_beta1, beta2, one_minus_beta2, eps_kept, step_size, eps_in, eps_out


def progress(step, length):
    """The fraction of a warmup of `length` steps that is done; 1 after the warmup, and if there is none."""
    return select(length > 0, clip(step / maximum(length, 1), 0, 1), 1)


def logarithm(x):
    """The logarithm; of 0, the logarithm of 1e-300 instead."""
    return log(maximum(x, 1e-300))


def ademamix(step, lr, beta1, beta2, beta3, alpha, beta3_warmup, alpha_warmup, eps, eps_root):
    # The half-life of the slow average grows linearly, from that of the fast average to its own.
    bias_correction2 = 1 - beta2**step
    bias_correction2_sqrt = sqrt(bias_correction2)
    half_lives = logarithm(beta3) / logarithm(beta1)
    grown = progress(step, beta3_warmup)
    one_minus_beta1 = 1 - beta1
    one_minus_beta2 = 1 - beta2
    one_minus_beta3 = 1 - beta3 ** (1 / ((1 - grown) * half_lives + grown))
    fast_step_size = lr * bias_correction2_sqrt / (1 - beta1**step)
    slow_step_size = lr * bias_correction2_sqrt * alpha * progress(step, alpha_warmup)
    step_size = fast_step_size + slow_step_size
    eps_in = eps_root * bias_correction2
    eps_out = eps * bias_correction2_sqrt
    return (
        one_minus_beta1,
        beta2,
        one_minus_beta2,
        one_minus_beta3,
        fast_step_size,
        slow_step_size,
        step_size,
        eps_in,
        eps_out,
    )


def adopt(step, lr, beta1, beta2, eps, use_clipping):
    # The first step only initializes the average of squares, by adding the square of the gradient.
    started = select(step == 1, 0, 1)
    one_minus_beta1 = select(step == 1, 0, 1 - beta1)
    one_minus_beta2 = select(step == 1, 1, 1 - beta2)
    beta2 = select(step == 1, 1, beta2)
    infinity = 1e300 * 1e300
    largest = select(use_clipping != 0, (step - 1) ** 0.25, infinity)
    step_size = select(step == 1, 0, lr)
    return one_minus_beta1, beta2, one_minus_beta2, started, largest, eps, step_size


def adan_torch(step, lr, beta1, beta2, beta3, eps, weight_decay, no_prox):
    bias_correction3_sqrt = sqrt(1 - beta3**step)
    started = select(step == 1, 0, 1)
    one_minus_beta1 = 1 - beta1
    one_minus_beta2 = 1 - beta2
    one_minus_beta3 = 1 - beta3
    diff_weight = beta2
    exp_avg_step_size = lr * bias_correction3_sqrt / (1 - beta1**step)
    diff_step_size = lr * bias_correction3_sqrt * beta2 / (1 - beta2**step)
    step_size = exp_avg_step_size + diff_step_size
    eps_in = 0
    eps_out = eps * bias_correction3_sqrt
    shrinkage = 1 / (1 + select(no_prox != 0, 0, lr * weight_decay))
    return (
        one_minus_beta1,
        one_minus_beta2,
        beta3,
        one_minus_beta3,
        started,
        diff_weight,
        exp_avg_step_size,
        diff_step_size,
        step_size,
        eps_in,
        eps_out,
        shrinkage,
    )


def adan_optax(step, lr, beta1, beta2, beta3, eps, eps_root):
    # optax weights differences by 1 - beta2; the paper weights them by the number called beta2 here.
    bias_correction3 = 1 - beta3**step
    started = select(step == 1, 0, 1)
    one_minus_beta1 = 1 - beta1
    one_minus_beta2 = 1 - beta2
    one_minus_beta3 = 1 - beta3
    diff_weight = one_minus_beta2
    exp_avg_step_size = lr * sqrt(bias_correction3) / (1 - beta1**step)
    diff_step_size = lr * sqrt(bias_correction3) * one_minus_beta2 / (1 - beta2**step)
    step_size = exp_avg_step_size + diff_step_size
    eps_in = eps_root * bias_correction3
    eps_out = eps * sqrt(bias_correction3)
    shrinkage = 1
    return (
        one_minus_beta1,
        one_minus_beta2,
        beta3,
        one_minus_beta3,
        started,
        diff_weight,
        exp_avg_step_size,
        diff_step_size,
        step_size,
        eps_in,
        eps_out,
        shrinkage,
    )


def average_length(step, beta2):
    """The length, in steps, of a simple moving average that varies as much as the average of squares."""
    return 2 / (1 - beta2) - 1 - 2 * step * beta2**step / (1 - beta2**step)


def rectification(rho, rho_inf):
    """The factor that corrects an average of squares of length `rho` to that of infinitely many steps, `rho_inf`; 0 if
    there is none."""
    return sqrt(maximum((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho), 0))


def radam_torch(step, lr, beta1, beta2, eps):
    bias_correction1 = 1 - beta1**step
    bias_correction2_sqrt = sqrt(1 - beta2**step)
    rho = average_length(step, beta2)
    rectified = select(rho > 5, 1, 0)
    one_minus_beta1 = 1 - beta1
    one_minus_beta2 = 1 - beta2
    factor = select(rectified != 0, rectification(rho, 2 / (1 - beta2) - 1) * bias_correction2_sqrt, 1)
    step_size = lr * factor / bias_correction1
    eps_in = 0
    eps_out = eps
    return one_minus_beta1, beta2, one_minus_beta2, rectified, step_size, eps_in, eps_out


def radam_optax(step, lr, beta1, beta2, eps, eps_root, threshold):
    bias_correction1 = 1 - beta1**step
    bias_correction2 = 1 - beta2**step
    rho = average_length(step, beta2)
    rectified = select(rho >= threshold, 1, 0)
    one_minus_beta1 = 1 - beta1
    one_minus_beta2 = 1 - beta2
    factor = select(rectified != 0, rectification(rho, 2 / (1 - beta2) - 1) * sqrt(bias_correction2), 1)
    step_size = lr * factor / bias_correction1
    eps_in = eps_root * bias_correction2
    eps_out = eps * sqrt(bias_correction2)
    return one_minus_beta1, beta2, one_minus_beta2, rectified, step_size, eps_in, eps_out


def adamax_torch(step, lr, beta1, beta2, eps):
    one_minus_beta1 = 1 - beta1
    step_size = lr / (1 - beta1**step)
    eps_in = eps
    eps_out = 0
    return one_minus_beta1, beta2, step_size, eps_in, eps_out


def adamax_keras(step, lr, beta1, beta2, eps):
    one_minus_beta1 = 1 - beta1
    step_size = lr / (1 - beta1**step)
    eps_in = 0
    eps_out = eps
    return one_minus_beta1, beta2, step_size, eps_in, eps_out


def lion(lr, beta1, beta2):
    one_minus_beta1 = 1 - beta1
    one_minus_beta2 = 1 - beta2
    step_size = lr
    return one_minus_beta1, one_minus_beta2, step_size


def rmsprop_torch(lr, alpha, eps, momentum):
    one_minus_alpha = 1 - alpha
    grad_avg_correction = 1
    eps_in = 0
    eps_out = eps
    step_size = lr
    buffer_step_size = 1
    param_step_size = lr
    return (
        alpha,
        one_minus_alpha,
        grad_avg_correction,
        eps_in,
        eps_out,
        step_size,
        momentum,
        buffer_step_size,
        param_step_size,
    )


def rmsprop_tensorflow(lr, alpha, eps, momentum, eps_outside):
    """Keras 3, TensorFlow 1 and legacy Keras; legacy Keras adds eps outside of the root if there is no momentum."""
    one_minus_alpha = 1 - alpha
    grad_avg_correction = 1
    eps_out = select(momentum == 0, eps_outside * eps, 0)
    eps_in = eps - eps_out
    step_size = lr
    buffer_step_size = lr
    param_step_size = 1
    return (
        alpha,
        one_minus_alpha,
        grad_avg_correction,
        eps_in,
        eps_out,
        step_size,
        momentum,
        buffer_step_size,
        param_step_size,
    )


def rmsprop_optax(step, lr, alpha, eps, momentum, eps_in_sqrt, bias_correction):
    correction = select(bias_correction != 0, 1 - alpha**step, 1)
    one_minus_alpha = 1 - alpha
    grad_avg_correction = 1 / correction
    eps_in = select(eps_in_sqrt != 0, eps * correction, 0)
    eps_out = select(eps_in_sqrt != 0, 0, eps * sqrt(correction))
    step_size = lr * sqrt(correction)
    buffer_step_size = step_size
    param_step_size = 1
    return (
        alpha,
        one_minus_alpha,
        grad_avg_correction,
        eps_in,
        eps_out,
        step_size,
        momentum,
        buffer_step_size,
        param_step_size,
    )


def adagrad_torch(step, lr, lr_decay, eps):
    step_size = decayed_rate(step, lr, lr_decay)
    eps_in = 0
    eps_out = eps
    return step_size, eps_in, eps_out


def adagrad_keras(lr, eps):
    step_size = lr
    eps_in = eps
    eps_out = 0
    return step_size, eps_in, eps_out


def adadelta(lr, rho, eps):
    one_minus_rho = 1 - rho
    step_size = lr
    eps_in = eps
    return rho, one_minus_rho, eps_in, step_size


def rprop_torch(etaminus, etaplus, step_size_min, step_size_max):
    return etaminus, etaplus, step_size_min, step_size_max


def asgd(step, lr, lambd, alpha, t0, eta, mu):
    # As in torch, both carried numbers were computed by the step before; `eta` is negative where there was none.
    step_size = select(eta < 0, lr, eta)
    shrinkage = 1 - lambd * step_size
    ax_weight = mu
    eta = lr / (1 + lambd * lr * step) ** alpha
    mu = 1 / maximum(step - t0, 1)
    return shrinkage, step_size, ax_weight, eta, mu


# --- around the update: coefficients of `operations` ------------------------------------------------------------------


def trust_ratio(param_square_sum, other_square_sum):
    """The norm of a parameter divided by another norm; 1 if one of them is 0 or NaN."""
    ratio = sqrt(param_square_sum) / sqrt(select(other_square_sum > 0, other_square_sum, 1))
    return select(param_square_sum > 0, select(other_square_sum > 0, ratio, 1), 1)


def lamb(step, lr, beta1, beta2, eps, weight_decay, bias_correction, always_adapt, param_square_sum, update_square_sum):
    one_minus_beta1 = 1 - beta1
    one_minus_beta2 = 1 - beta2
    bias_correction1 = select(bias_correction != 0, 1 - beta1**step, 1)
    bias_correction2_sqrt = select(bias_correction != 0, sqrt(1 - beta2**step), 1)
    direction = bias_correction2_sqrt / bias_correction1
    eps_in = 0
    eps_out = eps * bias_correction2_sqrt
    param_weight = weight_decay
    ratio = trust_ratio(param_square_sum, update_square_sum)
    step_size = lr * select(weight_decay == 0, select(always_adapt != 0, ratio, 1), ratio)
    return one_minus_beta1, beta2, one_minus_beta2, direction, eps_in, eps_out, param_weight, step_size


def lars(
    step, lr, momentum, dampening, weight_decay, trust_coeff, eps, always_adapt, param_square_sum, grad_square_sum
):
    param_norm = sqrt(param_square_sum)
    grad_norm = sqrt(grad_square_sum)
    divisor = grad_norm + weight_decay * param_norm + eps
    ratio = trust_coeff * param_norm / select(divisor == 0, 1, divisor)
    ratio = select(param_norm > 0, select(grad_norm > 0, ratio, 1), 1)
    trust = select(weight_decay == 0, select(always_adapt != 0, ratio, 1), ratio)
    param_weight = weight_decay
    step_size = lr
    grad_weight = select(step == 1, 1, 1 - dampening)
    return trust, param_weight, step_size, grad_weight, momentum


def debiased(beta, step):
    """The decay of an average that needs no other correction of its start: 0 in the first step."""
    return beta * (1 - beta ** (step - 1)) / (1 - beta**step)


def stable_adamw(step, lr, beta1, beta2, eps, weight_decay, ratio_sum, numel):
    one_minus_beta1 = 1 - debiased(beta1, step)
    beta2 = debiased(beta2, step)
    one_minus_beta2 = 1 - beta2
    least_square = eps * eps
    step_size = lr / maximum(sqrt(ratio_sum / numel), 1)
    keep = 1 - step_size * weight_decay
    eps_in = 0
    eps_out = eps
    return one_minus_beta1, beta2, one_minus_beta2, least_square, keep, step_size, eps_in, eps_out


def prodigy(
    step,
    lr,
    beta1,
    beta2,
    beta3,
    eps,
    weight_decay,
    decouple,
    use_bias_correction,
    safeguard_warmup,
    d0,
    d_coef,
    growth_rate,
    distance_sum,
    s_sum,
    d,
    d_max,
    d_numerator,
    k,
):
    # As in the authors' code: averages, rate and decay use the distance before this step, eps the one that it finds.
    # A step whose gradients and those before are all 0 counts for nothing, and neither does a group whose rate is 0.
    is_first = first(step)
    is_included = select(lr > 0, 1, 0)
    correction = select(use_bias_correction != 0, sqrt(1 - beta2 ** (k + 1)) / (1 - beta1 ** (k + 1)), 1)
    rate = d * lr * correction
    distance_weight = d / d0 * rate
    numerator_keep = select(beta3 < 0, sqrt(beta2), beta3)
    s_keep = select(is_included != 0, numerator_keep, 1)
    s_weight = select(is_included != 0, select(safeguard_warmup != 0, d / d0 * d, distance_weight), 0)
    exp_avg_keep = select(is_included != 0, beta1, 1)
    exp_avg_weight = select(is_included != 0, d * (1 - beta1), 0)
    square_keep = select(is_included != 0, beta2, 1)
    square_weight = select(is_included != 0, d * d * (1 - beta2), 0)
    param_weight = select(s_sum == 0, 0, select(decouple != 0, weight_decay * rate, 0))
    numerator = numerator_keep * d_numerator + distance_sum
    d_hat = select(s_sum == 0, 0, d_coef * numerator / select(s_sum == 0, 1, s_sum))
    d_max = select(d_hat > d_max, d_hat, d_max)
    grown = growth_rate * select(d == d0, select(d_hat > d, d_hat, d), d)
    found = select(s_sum == 0, d, select(grown < d_max, grown, d_max))
    step_size = rate * select(beta1 == 0, found / d, 1)
    d = found
    d_numerator = select(s_sum == 0, d_numerator, numerator)
    k = select(s_sum == 0, k, k + 1)
    eps_in = 0
    eps_out = select(s_sum == 0, 1, d * eps)
    return (
        is_first,
        is_included,
        distance_weight,
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
        d,
        d_max,
        d_numerator,
        k,
    )


def warmed_up(step, lr, warmup_steps):
    """The rate with a linear warm-up, from lr / warmup_steps in the first step."""
    return lr * select(warmup_steps == 0, 1, clip(step / maximum(warmup_steps, 1), 0, 1))


def share_of(weight, weight_sum):
    """The share of one weight in the sum of all; 0 while all are 0, as with a rate of 0."""
    return select(weight_sum > 0, weight / weight_sum, 0)


def weight_in_average(step, lr_max, r, weight_lr_power):
    return step**r * lr_max**weight_lr_power


def step_of_param(z_step_size, momentum, average_weight):
    """The step size of a point between `z`, which moves by its own, and the average, which moves by a share of that."""
    return z_step_size * (1 - momentum * (1 - average_weight))


def schedule_free_adamw(
    step, lr, beta1, beta2, eps, weight_decay, warmup_steps, r, weight_lr_power, weight_sum, lr_max
):
    is_first = first(step)
    z_step_size = warmed_up(step, lr, warmup_steps)
    lr_max = maximum(z_step_size, lr_max)
    weight = weight_in_average(step, lr_max, r, weight_lr_power)
    weight_sum = weight_sum + weight
    average_weight = share_of(weight, weight_sum)
    param_step_size = step_of_param(z_step_size, beta1, average_weight)
    one_minus_beta2 = 1 - beta2
    direction = sqrt(1 - beta2**step)
    eps_in = 0
    eps_out = eps * direction
    param_weight = weight_decay
    return (
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
        weight_sum,
        lr_max,
    )


def schedule_free_sgd(step, lr, momentum, warmup_steps, r, weight_lr_power, weight_sum, lr_max):
    is_first = first(step)
    z_step_size = warmed_up(step, lr, warmup_steps)
    lr_max = maximum(z_step_size, lr_max)
    weight = weight_in_average(step, lr_max, r, weight_lr_power)
    weight_sum = weight_sum + weight
    average_weight = share_of(weight, weight_sum)
    param_step_size = step_of_param(z_step_size, momentum, average_weight)
    return is_first, average_weight, param_step_size, z_step_size, weight_sum, lr_max


def preparation(gather_divisor, value_divisor, clip_value):
    """Factors that unscale the gradient, in the operation that reads the gradient first."""
    gather_factor = 1 / gather_divisor
    value_factor = 1 / value_divisor
    return gather_factor, value_factor, clip_value


def averaging(step, averaged, ema_decay, ema_warmup, ema_overwrite_frequency):
    # As in Keras, the average starts as the parameters after the first step in which there is one.
    # The warmup is that of TensorFlow's ExponentialMovingAverage(num_updates=step), and of thinc.
    grown = (1 + step) / (10 + step)
    ema_decay = select(ema_warmup != 0, select(grown < ema_decay, grown, ema_decay), ema_decay)
    ema_weight = select(averaged == 0, 0, ema_decay)
    averaged = 1
    ema_rest = 1 - ema_weight
    overwrite = select(floor(step / ema_overwrite_frequency) * ema_overwrite_frequency == step, 1, 0)
    return ema_weight, ema_rest, overwrite, averaged


def constraint(l1, l2, low, high):
    return l1, l2, low, high


def clipping_torch(sum_of_squares, divisor, max_norm):
    """torch.nn.utils.clip_grad_norm_, for gradients that are still to be divided by `divisor`."""
    ratio = max_norm / (sqrt(sum_of_squares) / divisor + 1e-6)
    clip_coefficient = select(ratio > 1, 1, ratio)
    return clip_coefficient


def clipping_exact(sum_of_squares, divisor, max_norm):
    """Keras, TensorFlow and optax clip to exactly `max_norm`. A NaN norm fails the `<=`, so the result is NaN."""
    norm = sqrt(sum_of_squares) / divisor
    clip_coefficient = select(norm <= max_norm, 1, max_norm / norm)
    return clip_coefficient


def evaluation(step, momentum, tolerance, smallest):
    """For the operations that show the average of parameters that train between it and `z`, which starts in step 1."""
    average_weight = select(step == 1, 0, 1 - 1 / momentum)
    train_weight = select(step == 1, 0, 1 - momentum)
    return average_weight, train_weight, tolerance, smallest


# --- whole rows: (sum, count, own arguments) -> the coefficient of the row operation ---------------------------------


def l2_ball(sum_of_squares, count, radius, lr):
    norm = sqrt(sum_of_squares)
    factor = select(norm > radius, radius / norm, 1)
    return factor


def group_lasso(sum_of_squares, count, strength, lr):
    # A NaN norm fails the `<=`, so the factor is NaN.
    norm = sqrt(sum_of_squares)
    factor = select(norm <= lr * strength, 0, 1 - lr * strength / norm)
    return factor


def simplex(sum_above, count, total, lr):
    threshold = (sum_above - total) / count
    return threshold


def l1_ball(sum_above, count, radius, lr):
    threshold = maximum((sum_above - radius) / count, 0)
    return threshold
