"""The sections of a report, in order, and what each measures."""

from __future__ import annotations

SECTIONS = {
    "Flat tensors": "One tensor; gradients are bound to the optimizer, or held by the tensor.",
    "One thread": "Flat tensors, with one thread for fastopt and for every peer.",
    "Lists of tensors": "Separate tensors in one optimizer; fastopt gets a list, as torch does.",
    "Ways to call": "Gradients bound at construction or passed to step(); memory aligned to cache lines or not.",
    "Fewer bits": (
        "States of 8 bits, bfloat16 parameters and master weights, compared with packages that have them, or with "
        "float32. Three steps are compared first: rounding may change them by a quarter. The roofline moves as many "
        "bytes as fastopt; fractions of peers are of the time that their own bytes would take at that rate."
    ),
    "Fewer bits beside float32": "States of 8 bits, compared with fastopt's own step over float32.",
    "Loops of 100 updates": (
        "100 updates inside one njit function with fastopt.jit (its parallel form from 1,000,000 parameters on), "
        "compared with 100 calls of step() from Python. Times are of the whole loop."
    ),
    "Numba and Cython": "The same rules compiled by Numba and by Cython. A ratio below 1 means that Numba is slower.",
    "Loops of a custom rule": "The same loops, for Adam written with fastopt.rule.",
    "A custom rule": (
        "Adam written with fastopt.rule, compared with the built-in Adam. A ratio below 1 means that the custom "
        "rule is slower."
    ),
    "A custom rule with a sum": (
        "StableAdamW written with fastopt.rule, compared with the built-in one, compiled by Numba and by Cython. A "
        "ratio below 1 means that the custom rule is slower."
    ),
    "Threads": "The number of threads that fastopt chooses, compared with one thread and with all threads.",
    "Clip, step, zero": (
        "AdamW, with gradients clipped by norm and zeroed. fastopt needs one call; torch needs clip_grad_norm_, "
        "step and zero_grad(set_to_none=False). optax clips inside its step and zeroes nothing."
    ),
    "Finite checks": "The time of a plain step divided by the time of a step with nonfinite='skip'.",
    "Norms": "The norm of one array by fastopt.global_norm and by torch.linalg.vector_norm, with the error of each.",
    "NumPy: whole training iterations": (
        "Forward pass, cross-entropy and backward pass in NumPy, then a step of Adam. All optimizers update the "
        "same flat buffers."
    ),
    "NumPy: lower bound of an iteration": (
        "Forward and backward pass without an optimizer, divided by the whole iteration with fastopt: the part "
        "that no optimizer can shorten."
    ),
    "torch: whole training iterations": (
        "zero_grad, forward pass, cross-entropy, backward pass and step, with a class of fastopt.torch in place "
        "of torch's."
    ),
    "torch: lower bound of an iteration": (
        "Forward and backward pass without an optimizer, divided by the whole iteration with fastopt.torch: the "
        "part that no optimizer can shorten."
    ),
    "torch: steps": (
        "Classes of fastopt.torch and of torch.optim on torch's parameters. Gradients are the same tensors in "
        "every step, or new tensors (their creation is not timed)."
    ),
    "torch: optimizers of other packages": (
        "Optimizers that torch.optim does not have: classes of fastopt.torch and those of pytorch_optimizer, or of "
        "their authors, on torch's parameters. pytorch_optimizer's LAMB takes norms beyond 10 as 10."
    ),
    "torch: sharded parameters": (
        "DTensors: the shards that a process has, in a world of one process, where nobody waits for others. A ratio to "
        "plain tensors below 1 is what DTensors cost fastopt."
    ),
    "torch: clip, step, zero": "One call with max_grad_norm and zero_grads, compared with clip_grad_norm_, step and "
    "zero_grad(set_to_none=False). Gradients are refilled before each (not timed).",
    "torch: clip_grad_norm_": (
        "fastopt.torch's function and torch's, clipping to half of the norm. Gradients are refilled before each "
        "call (not timed)."
    ),
    "torch: step in backward": (
        "Whole training iterations with step_in_backward, compared with a backward pass followed by a step."
    ),
    "torch: memory of gradients": (
        "The peak size of all gradients during a training iteration, counted tensor by tensor."
    ),
    "Keras: steps": "optimizer.apply on Keras' torch backend: classes of fastopt.keras and of keras.optimizers.",
    "spaCy: whole epochs": (
        "nlp.update over all documents with a text classifier of the architecture of spaCy's quickstart, and thinc's "
        "Adam with its settings there. The optimizers are found by their names in thinc's registry."
    ),
    "CUDA: flat tensors": (
        "One tensor on a GPU, with bound gradients. The roofline is a copy of the same number of bytes on the "
        "GPU. Steps are launched back to back, and synchronized at the end of each turn."
    ),
    "CUDA: lists of tensors": "Separate tensors on a GPU; fastopt updates a whole list in one launch.",
    "CUDA: replayed graphs": (
        "A step captured into a CUDA graph and replayed: fastopt's, and torch's with capturable=True."
    ),
    "CUDA: torch: steps": "Classes of fastopt.torch and of torch.optim on torch's parameters on a GPU.",
    "Half-dead gradients": (
        "Half of the gradients are zero from the second step on, as with dead ReLU units, and averages of them "
        "become denormal numbers after about 800 steps. All sides take the same steps; those from step 10, 1,000 "
        "and 3,000 on are timed in turns."
    ),
    "Half-dead gradients: growth": "The time of such a step divided by the time of step 10.",
    "Cold start": (
        "A fresh process, after `import numpy`: the import alone, and the import and Adam's first step with 1,000 "
        "parameters. Files that packages compile and keep on disk exist already, except in the last column."
    ),
    "Memory per parameter": (
        "Bytes, each measured in its own process: kept between steps (with 4 bytes of the parameter and 4 of its "
        "gradient, fewer if a package uses the array that it is given), and the additional peak during a step."
    ),
    "A million steps": "Memory that is still held after a million steps.",
}
