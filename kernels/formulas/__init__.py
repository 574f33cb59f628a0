"""The formulas: update rules, operations around them, sums, coefficient functions, and the code that reads them.

=================  ====================================================================================
`rules`            the update rules, each written once as a scalar Python function
`operations`       operations around an update, in the same pass: clipping, averages, constraints
`sums`             the terms of sums over arrays
`coefficients`     functions from hyperparameters and step count to the scalars that a rule takes
`vocabulary`       the few functions that a formula may call, as NumPy understands them
`dialect`          reads and checks the functions of these files
`registry`         every formula by name, as a syntax tree, and the loop over elements that calls it
`custom_rules`     reads a custom rule from its source, checks it, and adds it to the registry
`costs`            estimates the time that a custom rule takes per element
=================  ====================================================================================

Only `vocabulary` and the formulas themselves import NumPy at run time, because `setup.py` reads this package.
"""
