"""The CUDA backend: kernels rendered from the formulas, compiled by Numba, and the engine that launches them.

`availability` says whether it can be used; `memory` is what an optimizer does with device arrays beside stepping;
`hardware` and `simulated` are the few things that differ between a GPU and Numba's simulator; `structures` is what
kernels know of groups; `render_update`, `render_sums` and `render_prepare` write the kernels, from the pieces in
`source` and the words in `words`; `kernels` compiles them, `layout` and `tables` are what they read; `engine` steps.
"""
