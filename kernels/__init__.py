"""Update rules and everything that runs them: arrays and scalars only, no optimizer classes.

=====================  ==================================================================
`rules`                the update rules, once each, as scalar Python functions
`coefficients`         hyperparameters and step count -> the scalars that a rule takes
`vocabulary`           the few functions that a rule may call, as NumPy understands them
`dialect`              reads and checks such functions
`formulas`             every formula as a syntax tree; the loops over elements
`render_cython`, `render_numba`   write them as Cython (at build time), as Numba source
`engine.pyx`           the native step: segment table, threads, floating-point mode
`python_engine`        the same step in plain Python, for the reference
`reference`, `numba_loops`, `cython_loops`   one rule -> one loop over flat memory
`numba_compile`, `machine_code`, `object_cache`   what `numba_loops` compiles: to LLVM, to this processor, kept on disk
`own_rules`, `rule_costs`   a user's rule: read from its source, registered with `formulas`; what it costs
`backends`             the table of backends, by name
`cpu`                  instruction sets, processors that this process may use
=====================  ==================================================================
"""
