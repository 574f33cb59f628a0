"""sentence-transformers, with a small BERT made from a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
    models,
)
from training import Weights, check_agreement, counted_steps, weights
from transformers import BertConfig, BertModel, BertTokenizerFast, get_scheduler

import fastopt.torch

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
STEPS, BATCH = 6, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and a tokenizer, as a download would have them."""
    folder = tmp_path_factory.mktemp("model")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "and", *NUMBERS]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    BertModel(config).save_pretrained(folder)
    return folder


def model(folder: Path) -> SentenceTransformer:
    words = models.Transformer(str(folder), max_seq_length=8)
    return SentenceTransformer(modules=[words, models.Pooling(32)], device="cpu")


def pairs() -> Dataset:
    both = [(first, second) for first in NUMBERS for second in NUMBERS][: STEPS * BATCH]
    return Dataset.from_dict(
        {"anchor": [f"{a} and {b}" for a, b in both], "positive": [f"{b} and {a}" for a, b in both]}
    )


def train(folder: Path, output: Path, optimizer_class: type, way: str) -> Weights:
    network = model(folder)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(output),
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        learning_rate=1e-3,
    )
    given = {}
    if way == "optimizers":
        optimizer = optimizer_class(network.parameters(), lr=1e-3)
        given["optimizers"] = (optimizer, get_scheduler("linear", optimizer, 0, STEPS))
    else:
        given["optimizer_cls_and_kwargs"] = (optimizer_class, dict(lr=1e-3))
    trainer = SentenceTransformerTrainer(
        model=network, args=arguments, train_dataset=pairs(), loss=losses.MultipleNegativesRankingLoss(network), **given
    )
    trainer.train()
    return weights(network)


@pytest.mark.parametrize("way", ["optimizers", "optimizer_cls_and_kwargs"])
def test_training(way: str, folder: Path, tmp_path: Path) -> None:
    with counted_steps() as counts:
        ours = train(folder, tmp_path, fastopt.torch.AdamW, way)
    assert counts == {"fastopt.torch.AdamW": STEPS}
    theirs = train(folder, tmp_path, torch.optim.AdamW, way)
    check_agreement(ours, theirs, weights(model(folder)))
