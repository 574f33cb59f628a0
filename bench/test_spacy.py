"""Whole epochs of spaCy. It is in the extra `clients`, with a thinc that is older than the one of `bench`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from . import spacy_training
from .cases import ADAM

pytest.importorskip("spacy")


def test_textcat(compare: Callable[..., None]) -> None:
    subject, peers = spacy_training.FASTOPT, (spacy_training.THINC,)
    compare("spaCy: whole epochs", ADAM, spacy_training.EPOCH, subject=subject, peers=peers, only_moves=False)
