"""Every variant of every optimizer beside its peers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .cases import FLAT, TENSOR_LISTS, VARIANTS, Variant, Workload, identifier

variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=identifier)


@variants
@pytest.mark.parametrize("workload", FLAT, ids=identifier)
def test_flat_tensor(compare: Callable[..., None], variant: Variant, workload: Workload) -> None:
    compare("Flat tensors", variant, workload)


@variants
@pytest.mark.parametrize("workload", TENSOR_LISTS, ids=identifier)
def test_list_of_tensors(compare: Callable[..., None], variant: Variant, workload: Workload) -> None:
    compare("Lists of tensors", variant, workload)
