"""Every variant of every optimizer and its peers, on flat tensors and lists of tensors."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .cases import FLAT, LISTS, VARIANTS, Variant, Workload, identifier


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=identifier)
@pytest.mark.parametrize("workload", FLAT, ids=identifier)
def test_flat_tensor(compare: Callable[..., None], variant: Variant, workload: Workload) -> None:
    compare("Flat tensors", variant, workload)


@pytest.mark.parametrize(
    ("workload", "variant"), LISTS, ids=[f"{identifier(workload)}-{identifier(variant)}" for workload, variant in LISTS]
)
def test_list_of_tensors(compare: Callable[..., None], workload: Workload, variant: Variant) -> None:
    compare("Lists of tensors", variant, workload)
