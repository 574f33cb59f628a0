"""thinc's optimizers with a native step, for spaCy and thinc: `pip install 'fastopt[thinc]'`.

They are registered with thinc under names of their own, so a config needs one changed line:

    [training.optimizer]
    @optimizers = "fastopt.Adam.v1"

Arguments, defaults and arithmetic are those of thinc's functions of the same names.
"""

from .functions import SGD, Adam, RAdam
from .optimizer import Optimizer

__all__ = ["SGD", "Adam", "Optimizer", "RAdam"]
