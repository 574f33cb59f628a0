"""Which formula an optimizer runs and with which numbers: specs, conventions, hyperparameters, descriptions."""
