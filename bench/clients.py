"""`python -m fastopt.bench.clients [PACKAGE ...]`: what the optimizer takes of the time of training, in other packages.

Each package (the extra `clients` has them) trains a small model in turns: with torch's optimizer as it is made by
default, with `fused=True`, and with that of `fastopt.torch`. Printed is the share of the time that `step` took, and how
long training took with torch's two in units of fastopt's time: medians over the turns. All is on one thread, unless
`--threads` says otherwise. It takes five minutes on a processor that does nothing else. `--quick` trains once, for a
moment.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import io
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TURNS = 9

# --- what is measured -------------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """The seconds that steps of an optimizer took, and how many there were."""

    seconds: float = 0.0
    steps: int = 0


def timed(optimizer_class: type, watch: Watch, **options: Any) -> Callable[..., Any]:
    """A class that adds the time of each `step` to the watch, and has these arguments by default."""

    class Timed(optimizer_class):
        def __init__(self, params: Any, **given: Any) -> None:
            super().__init__(params, **{**options, **given})

        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            """A closure is the forward and the backward pass, whose time is not counted."""
            started = time.perf_counter()
            result = super().step(closure and without(closure, watch))
            watch.seconds += time.perf_counter() - started
            watch.steps += 1
            return result

        step.hooked = True  # type: ignore[attr-defined]  # torch need not wrap it once more

    return Timed


def without(closure: Callable[[], Any], watch: Watch) -> Callable[[], Any]:
    def timed_closure() -> Any:
        started = time.perf_counter()
        try:
            return closure()
        finally:
            watch.seconds -= time.perf_counter() - started

    return timed_closure


# --- the packages: each function makes a model and returns what trains it ---------------------------------------------

Train = Callable[[], Any]


def _digits() -> tuple[Any, Any]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype("float32"), labels.astype("int64")


def _network() -> Any:
    from torch import nn

    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def _batches() -> Any:
    import torch

    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(*map(torch.from_numpy, _digits())), batch_size=64, shuffle=True
    )


def skorch(optimizer: Any, times: int) -> Train:
    from skorch import NeuralNetClassifier
    from torch import nn

    model = NeuralNetClassifier(
        _network, criterion=nn.CrossEntropyLoss, optimizer=optimizer, lr=1e-3, max_epochs=8 * times, verbose=0
    )
    return functools.partial(model.fit, *_digits())


def stable_baselines3(optimizer: Any, times: int, name: str) -> Train:
    import stable_baselines3

    policy = dict(optimizer_class=optimizer, optimizer_kwargs=dict(eps=1e-5))
    environment, options = "CartPole-v1", dict(seed=0, device="cpu", policy_kwargs=policy)
    if name == "PPO":
        model = stable_baselines3.PPO("MlpPolicy", environment, n_steps=max(128, 512 * times), **options)
        return functools.partial(model.learn, 512 * times)
    model = stable_baselines3.DQN("MlpPolicy", environment, **options)
    return functools.partial(model.learn, 150 + 600 * times)


def torch_geometric(optimizer: Any, times: int) -> Train:
    import torch
    from torch_geometric.datasets import FakeDataset
    from torch_geometric.nn import GCN

    data = FakeDataset(num_graphs=1, avg_num_nodes=500, avg_degree=4, num_channels=64, num_classes=7, task="node")[0]
    model = GCN(64, 16, 2, 7, dropout=0.5)
    made = optimizer(model.parameters(), lr=1e-2, weight_decay=5e-4)

    def train() -> None:
        for _ in range(60 * times):
            made.zero_grad()
            torch.nn.functional.cross_entropy(model(data.x, data.edge_index), data.y).backward()
            made.step()

    return train


def accelerate(optimizer: Any, times: int) -> Train:
    import torch
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    network = _network()
    model, made, batches = accelerator.prepare(network, optimizer(network.parameters(), lr=1e-3), _batches())

    def train() -> None:
        for _ in range(3 * times):
            for x, y in batches:
                accelerator.backward(torch.nn.functional.cross_entropy(model(x), y))
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
                made.step()
                made.zero_grad()

    return train


def lightning(optimizer: Any, times: int) -> Train:
    import torch
    from lightning import LightningModule, Trainer

    class Digits(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = _network()

        def configure_optimizers(self) -> Any:
            return optimizer(self.parameters(), lr=1e-3)

        def training_step(self, batch: Any, _: int) -> Any:
            x, y = batch
            return torch.nn.functional.cross_entropy(self.model(x), y)

    quiet: Mapping[str, Any] = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False
    )
    trainer = Trainer(accelerator="cpu", devices=1, max_epochs=3 * times, **quiet)
    return functools.partial(trainer.fit, Digits(), _batches())


def opacus(optimizer: Any, times: int) -> Train:
    import torch
    from opacus import PrivacyEngine

    network = _network()
    model, made, batches = PrivacyEngine().make_private(
        module=network,
        optimizer=optimizer(network.parameters(), lr=1e-3),
        data_loader=_batches(),
        noise_multiplier=1.0,
        max_grad_norm=1.0,
    )

    def train() -> None:
        for _ in range(2 * times):
            for x, y in batches:
                made.zero_grad()
                torch.nn.functional.cross_entropy(model(x), y).backward()
                made.step()

    return train


def _tokens(n: int) -> list[dict[str, Any]]:
    import torch

    rows = torch.randint(1000, (n, 64), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in rows]


def transformers(optimizer: Any, times: int) -> Train:
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

    config = LlamaConfig(
        vocab_size=1000, hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4
    )
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),
        max_steps=8 * times,
        per_device_train_batch_size=8,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    chosen = (optimizer, {"lr": 1e-4})
    data: Any = _tokens(64)
    trainer = Trainer(LlamaForCausalLM(config), arguments, train_dataset=data, optimizer_cls_and_kwargs=chosen)
    return functools.partial(trainer.train)


def sentence_transformers(optimizer: Any, times: int) -> Train:
    """An embedding for each word, and no network after it: the models that are trained on CPUs."""
    import random

    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
        losses,
    )
    from sentence_transformers.models import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = [f"w{number}" for number in range(10_000)]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=128)], device="cpu")
    rng = random.Random(0)
    texts = [rng.sample(words, 20) for _ in range(1024)]
    pairs = {"anchor": [" ".join(text[:10]) for text in texts], "positive": [" ".join(text[10:]) for text in texts]}
    arguments = SentenceTransformerTrainingArguments(
        output_dir=tempfile.gettempdir(),
        max_steps=15 * times,
        per_device_train_batch_size=64,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(pairs),
        loss=losses.MultipleNegativesRankingLoss(model),
        optimizer_cls_and_kwargs=(optimizer, {"lr": 1e-2}),
    )
    return functools.partial(trainer.train)


@dataclass(frozen=True)
class Client:
    """What is trained, with which class of torch's; whether the package asks for `fused` if nothing is said."""

    name: str
    package: str
    start: Callable[[Any, int], Train]
    optimizer: str = "Adam"
    fused: bool = False


CLIENTS = (
    Client("stable-baselines3, PPO", "stable_baselines3", functools.partial(stable_baselines3, name="PPO")),
    Client("stable-baselines3, DQN", "stable_baselines3", functools.partial(stable_baselines3, name="DQN")),
    Client("skorch", "skorch", skorch),
    Client("PyTorch Geometric", "torch_geometric", torch_geometric),
    Client("accelerate", "accelerate", accelerate, "AdamW"),
    Client("Lightning", "lightning", lightning, "AdamW"),
    Client("Opacus", "opacus", opacus),
    Client("Hugging Face Trainer", "transformers", transformers, "AdamW", fused=True),
    Client("sentence-transformers", "sentence_transformers", sentence_transformers, "AdamW", fused=True),
)

SIDES = ("torch", "fused", "fastopt")


@dataclass(frozen=True)
class Turn:
    """One training: how long it took, and which part of that was in steps."""

    seconds: float
    in_steps: float
    steps: int


def take_turn(client: Client, side: str, times: int) -> Turn:
    import torch

    import fastopt.torch

    watch = Watch()
    module: Any = fastopt.torch if side == "fastopt" else torch.optim
    options = {"fused": True} if side == "fused" else {}
    torch.manual_seed(0)
    train = client.start(timed(getattr(module, client.optimizer), watch, **options), times)
    start = time.perf_counter()
    train()
    return Turn(time.perf_counter() - start, watch.seconds, watch.steps)


def measure(client: Client, turns: int, times: int) -> dict[str, list[Turn]]:
    found: dict[str, list[Turn]] = {side: [] for side in SIDES}
    for number in range(turns + (turns > 1)):  # The first is not counted: it imports and warms up.
        for side in SIDES:
            turn = take_turn(client, side, times)
            if number or turns == 1:
                found[side].append(turn)
    if len({turn.steps for each in found.values() for turn in each}) > 1:
        raise AssertionError(f"{client.name}: the numbers of steps differ")
    return found


# --- the table --------------------------------------------------------------------------------------------------------


def row(client: Client, found: Mapping[str, Sequence[Turn]]) -> str:
    """Shares, with the package's own choice marked, and the ratios of whole times."""
    cells = [client.name]
    for side in SIDES:
        share = statistics.median(turn.in_steps / turn.seconds for turn in found[side])
        own = " *" if side == ("fused" if client.fused else "torch") else ""
        cells.append(f"{100 * share:.1f} %{own}")
    for side in SIDES[:2]:
        pairs = zip(found[side], found["fastopt"], strict=True)
        cells.append(f"{statistics.median(theirs.seconds / ours.seconds for theirs, ours in pairs):.2f}")
    per_step = statistics.median(turn.seconds / max(turn.steps, 1) for turn in found["fastopt"])
    return "| " + " | ".join([*cells, f"{1e3 * per_step:.2f} ms"]) + " |"


HEADER = (
    "| package | torch | torch, fused | fastopt | time, torch / fastopt | fused / fastopt | an iteration |",
    "| --- | --- | --- | --- | --- | --- | --- |",
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m fastopt.bench.clients", description=__doc__)
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help="such as skorch; all that are installed if none")
    parser.add_argument("--quick", action="store_true", help="train once, for a moment: is everything there?")
    parser.add_argument("--turns", type=int, default=TURNS, help=f"how often each is trained ({TURNS})")
    parser.add_argument("--threads", type=int, default=1, help="for torch and fastopt alike (1)")
    options = parser.parse_args(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.disable(logging.WARNING)
    import torch

    torch.set_num_threads(options.threads)  # the most that a step of fastopt.torch takes, too
    print("\n".join(HEADER))
    for client in CLIENTS:
        if options.packages and client.package not in options.packages:
            continue
        if importlib.util.find_spec(client.package) is None:
            print(f"| {client.name} | not installed |")
            continue
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            found = measure(client, 1 if options.quick else options.turns, 1 if options.quick else 2)
        print(row(client, found), flush=True)


if __name__ == "__main__":
    main()
