"""Update rules and everything that runs them: arrays and scalars only, no optimizer classes.

=============  ======================================================================================
`formulas`     what is computed: rules, operations, sums, coefficients, once each, and what reads them
`render`       writes the formulas as Cython (at build time), Numba and C source
`engine`       what an engine is given and must do: the contract, plans, limits
`native`       the compiled engine and its loops
`python`       the same engine in plain Python over NumPy: the reference
`numba`        loops that Numba compiles, and the cache that keeps them
`cuda`         the engine on a CUDA device
`backends`     the table of backends, by name
`constants`    numbers and names that engines and renderers agree on
`cpu`          instruction sets, and the processors that this process may use
=============  ======================================================================================
"""
