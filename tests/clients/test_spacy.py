"""`spacy train` with the optimizer that fastopt registers, in place of thinc's in a config."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spacy
import thinc.optimizers
from spacy.cli.init_config import init_config
from spacy.cli.train import train
from spacy.tokens import Doc, DocBin

import fastopt.thinc

LABELS = ("NN", "VB", "JJ", "DT", "IN")

AGREE = 1e-5
"""How far weights may be apart: 6e-7 was measured, of weights that moved by 0.01."""

PIPELINES: dict[str, dict[str, Any]] = {
    "tagger": {"eps": 1e-6},
    "textcat": {},
}
"""Pipelines of spaCy's quickstart, and what its optimizer has other than there: many gradients of embeddings are as
small as the eps of 1e-8, so that rounding counts. With an eps that is 1 % off, thinc's own results are off by 0.005."""


def documents(n: int, seed: int) -> DocBin:
    """Words that are made up, each of a class; the class is its tag, and that of most words is the document's."""
    vocab, chance = spacy.blank("en").vocab, random.Random(0)
    words = {label: [label.lower() + str(chance.random())[2:6] for _ in range(100)] for label in LABELS}
    chance = random.Random(seed)
    found = DocBin(store_user_data=True)
    for _ in range(n):
        tags = [chance.choice(LABELS) for _ in range(chance.randint(8, 25))]
        doc = Doc(vocab, words=[chance.choice(words[tag]) for tag in tags], tags=tags)
        doc.cats = {label: float(label == max(LABELS, key=tags.count)) for label in LABELS}
        found.add(doc)
    return found


def trained(folder: Path, pipeline: str, optimizer: str) -> dict[tuple[str, int, str], np.ndarray]:
    """The weights after `spacy train` with a config in which only the optimizer's name differs."""
    folder.mkdir(exist_ok=True)
    for name, n in (("train", 60), ("dev", 10)):
        documents(n, seed=n).to_disk(folder / f"{name}.spacy")
    config = init_config(lang="en", pipeline=[pipeline], optimize="efficiency", silent=True)
    config["paths"].update({name: str(folder / f"{name}.spacy") for name in ("train", "dev")})
    config["training"].update(max_epochs=1, eval_frequency=1000)
    config["training"]["optimizer"].update({"@optimizers": optimizer, **PIPELINES[pipeline]})
    config.to_disk(folder / "config.cfg")
    train(folder / "config.cfg", folder / "model")
    nlp = spacy.load(folder / "model" / "model-last")
    return {
        (name, position, param): node.get_param(param).copy()
        for name, component in nlp.pipeline
        for position, node in enumerate(component.model.walk())
        for param in node.param_names
        if node.has_param(param)
    }


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[type]:
    """The number of updates by the class that did them."""
    counts: Counter[type] = Counter()
    for each in (thinc.optimizers.Optimizer, fastopt.thinc.Optimizer):

        def called(self: Any, *arguments: Any, _each: Any = each, _own: Any = each.__call__, **named: Any) -> Any:
            counts[_each] += 1
            return _own(self, *arguments, **named)

        monkeypatch.setattr(each, "__call__", called)
    return counts


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_one_line_of_a_config(pipeline: str, tmp_path: Path, calls: Counter[type]) -> None:
    """8 seconds for the tagger: spaCy loads, trains, and loads again, twice."""
    theirs = trained(tmp_path / "theirs", pipeline, "Adam.v1")
    assert set(calls) == {thinc.optimizers.Optimizer}
    calls.clear()
    ours = trained(tmp_path / "ours", pipeline, "fastopt.Adam.v1")
    assert set(calls) == {fastopt.thinc.Optimizer}
    assert ours.keys() == theirs.keys()
    for key, expected in theirs.items():
        np.testing.assert_allclose(ours[key], expected, rtol=0, atol=AGREE, err_msg=str(key))
    output = [weights for (name, _, param), weights in theirs.items() if name == pipeline and param == "W"][-1]
    assert np.abs(output).max() > 500 * AGREE  # it began with zeros
