"""The CUDA backend: Numba compiles kernels that are rendered from the formulas, and an engine launches them.

`availability` says whether CUDA can be used. `memory` allocates, fills and copies device arrays outside of steps.
`hardware` and `simulated` hold the differences between a GPU and Numba's simulator. `structures` describes groups to
the kernels. `render_update`, `render_sums` and `render_prepare` write the kernels, from the pieces in `source`, loads
and stores of `render_operands` and the words in `words`; `kernels` compiles them. `table_format` lays out the tables
that kernels read, and `tables` fills them. `engine` runs the steps.
"""
