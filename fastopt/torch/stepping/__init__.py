"""How an optimizer's step runs over torch's tensors; private.

From high to low: `stepper` (a step, and what to do when something has changed), `updates` (the engines for all
parameters), `rounds` (one engine), the walks over tensors (`walks`, `device_tensors`; the native one is compiled), and
what they need to know of tensors, devices, states and hyperparameters. Nothing here knows the optimizer class: `host`
says what is known of an optimizer.
"""
