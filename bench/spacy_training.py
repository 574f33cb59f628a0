"""Whole epochs of a text classifier of spaCy, with thinc's Adam and with the one that fastopt registers."""

from __future__ import annotations

import importlib
import random
from typing import Any

from .cases import Problem, Workload
from .runner import Peer, Runner

LABELS = ("NN", "VB", "JJ", "DT", "IN")
DOCUMENTS, BATCH, DROPOUT = 200, 20, 0.1

BUCKETS = 1 << 18
"""Hash buckets of n-grams in spaCy's bag of words."""

BAG_OF_WORDS = {
    "@architectures": "spacy.TextCatBOW.v3",
    "exclusive_classes": True,
    "ngram_size": 1,
    "no_output_layer": False,
    "length": BUCKETS,
}

EPOCH = Workload(f"spaCy textcat, {DOCUMENTS} documents", ((len(LABELS) * BUCKETS,), (len(LABELS),)))

ERROR = 1e-5
"""How much parameters may differ after some epochs. Measured: 2e-8 after 40 updates."""


def make_documents(seed: int = 0) -> list[tuple[list[str], str]]:
    """Words that are made up, each of a class, and the class that most of a document's words are of."""
    chance = random.Random(seed)
    words = {label: [label.lower() + str(chance.random())[2:6] for _ in range(300)] for label in LABELS}
    found = []
    for _ in range(DOCUMENTS):
        classes = [chance.choice(LABELS) for _ in range(chance.randint(8, 25))]
        found.append(([chance.choice(words[each]) for each in classes], max(LABELS, key=classes.count)))
    return found


def make_pipeline() -> tuple[Any, list[Any]]:
    """A new pipeline, the same each time, and its examples."""
    spacy = importlib.import_module("spacy")
    tokens, training = importlib.import_module("spacy.tokens"), importlib.import_module("spacy.training")
    spacy.util.fix_random_seed(0)
    pipeline = spacy.blank("en")
    pipeline.add_pipe("textcat", config={"model": BAG_OF_WORDS})
    examples = []
    for words, label in make_documents():
        cats = {each: float(each == label) for each in LABELS}
        examples.append(training.Example.from_dict(tokens.Doc(pipeline.vocab, words=words), {"cats": cats}))
    pipeline.initialize(lambda: examples)
    return pipeline, examples


def trained(name: str, registered: str) -> Peer:
    """A peer whose steps are epochs, with an optimizer of thinc's registry and the settings of spaCy's quickstart."""

    def start(problem: Problem) -> Runner:
        optimizers = importlib.import_module("thinc.api").registry.optimizers
        util = importlib.import_module("spacy.util")
        importlib.import_module("fastopt").set_num_threads(problem.n_threads)
        pipeline, examples = make_pipeline()
        optimizer = optimizers.get(registered)(0.001, L2=0.01, use_averages=False)
        epochs = [0]

        def train() -> None:
            util.fix_random_seed(epochs[0])  # of dropout
            epochs[0] += 1
            for batch in util.minibatch(examples, BATCH):
                pipeline.update(batch, sgd=optimizer, drop=DROPOUT)
                optimizer.step_schedules()

        nodes = list(pipeline.get_pipe("textcat").model.walk())
        params = [(node, each) for node in nodes for each in node.param_names if node.has_param(each)]
        by_size = sorted(params, key=lambda pair: -int(pair[0].get_param(pair[1]).size))
        return Runner(train, lambda: [node.get_param(each) for node, each in by_size])

    return Peer(name, start, absolute=ERROR)


FASTOPT = trained("fastopt.thinc", "fastopt.Adam.v1")
THINC = trained("thinc", "Adam.v1")
