"""Who has the memory of tensors."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import torch
from torch import Tensor


def are_storages_held(own: Sequence[Tensor]) -> bool:
    """Whether anything beside these tensors refers to one of their storages; True without the compiled extension,
    which counts."""
    try:
        from . import native_walk  # type: ignore[attr-defined]
    except ImportError:
        return True
    count_uses = torch._C._storage_Use_Count
    least_references, least_uses = native_walk.storage_references(torch.empty(1), count_uses)
    found = [native_walk.storage_references(each, count_uses) for each in own]
    known = collections.Counter(each.untyped_storage()._cdata for each in own)
    return any(
        references > least_references or uses > least_uses - 1 + known[each.untyped_storage()._cdata]
        for each, (references, uses) in zip(own, found, strict=True)
    )
