"""The formulas: update rules, operations around them, sums and coefficient functions, and what reads them.

=================  ====================================================================================
`rules`            the update rules, once each, as scalar Python functions
`operations`       what runs around an update in the same pass: clipping, averages, constraints
`sums`             the terms of sums over arrays
`coefficients`     hyperparameters and step count -> the scalars that a rule takes
`vocabulary`       the few functions that a formula may call, as NumPy understands them
`dialect`          reads and checks the functions of these files
`registry`         every formula by name, as a syntax tree, and the loop over elements that calls it
`custom_rules`     a user's custom rule: read from its source, checked, and added to the registry
`costs`            estimates what a custom rule costs an element
=================  ====================================================================================

Nothing here imports NumPy at run time but `vocabulary` and the formulas themselves: `setup.py` reads them.
"""
