"""fastopt.keras and Keras' own optimizers: steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .cases import ADAM, MANY, SMALL, Workload, identifier
from .peers import keras


@pytest.mark.parametrize("workload", [SMALL, MANY], ids=identifier)
def test_steps(compare: Callable[..., None], workload: Workload) -> None:
    compare("Keras: steps", ADAM, workload, subject=keras.FASTOPT_IN_KERAS, peers=(keras.KERAS,))
