"""The CUDA backend: kernels rendered from the formulas, compiled by Numba, and the engine that launches them.

`availability` says whether it can be used; `memory` is what an optimizer does with device arrays beside stepping;
`hardware` and `simulated` are the few things that differ between a GPU and Numba's simulator; `render` writes the
kernels, `kernels` compiles them, `tables` lays out what they read, and `engine` steps.
"""
