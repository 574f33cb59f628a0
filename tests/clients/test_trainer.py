"""Hugging Face Trainer, with a small Llama made from a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training import Weights, check_agreement, counted_steps, distance, weights
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, get_scheduler

import fastopt.torch

STEPS = 6


class Tokens(torch.utils.data.Dataset):
    """Sequences in which each token is the one before plus a number that is fixed for the sequence."""

    def __init__(self, n: int = 64, length: int = 16) -> None:
        generator = torch.Generator().manual_seed(0)
        start, step = torch.randint(50, (2, n, 1), generator=generator)
        self.rows = (start + step * torch.arange(length)) % 50

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def model(dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    return LlamaForCausalLM(config).to(dtype)


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    return TrainingArguments(
        **{
            "output_dir": str(folder),
            "max_steps": STEPS,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-2,
            "weight_decay": 0.1,
            "report_to": [],
            "save_strategy": "no",
            "disable_tqdm": True,
            "use_cpu": True,
            "lr_scheduler_type": "cosine",
            **options,
        }
    )


def trainer(
    folder: Path,
    optimizer: type,
    way: str,
    dtype: torch.dtype = torch.float32,
    fused: bool | None = None,
    **options: Any,
) -> Trainer:
    network = model(dtype)
    kwargs = {"lr": 1e-2, "weight_decay": 0.1, "fused": fused}
    given: dict[str, Any]
    if way == "optimizers":
        made = optimizer(network.parameters(), **kwargs)
        given = dict(optimizers=(made, get_scheduler("cosine", made, num_warmup_steps=1, num_training_steps=STEPS)))
    else:
        given = dict(optimizer_cls_and_kwargs=(optimizer, kwargs))
    return Trainer(model=network, args=arguments(folder, **options), train_dataset=Tokens(), **given)


def trained(*args: Any, **options: Any) -> Weights:
    made = trainer(*args, **options)
    made.train()
    return weights(made.model)


WAYS = ("optimizers", "optimizer_cls_and_kwargs")
CASES: dict[str, dict[str, Any]] = {
    "plain": dict(),
    "accumulation": dict(gradient_accumulation_steps=4, per_device_train_batch_size=2),
    "clipping": dict(max_grad_norm=0.1),
    "no clipping": dict(max_grad_norm=0.0),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_training(case: str, way: str, tmp_path: Path) -> None:
    with counted_steps() as counts:
        ours = trained(tmp_path, fastopt.torch.AdamW, way, **CASES[case])
    assert counts == {"fastopt.torch.AdamW": STEPS}
    check_agreement(ours, trained(tmp_path, torch.optim.AdamW, way, **CASES[case]), weights(model()))


@pytest.mark.parametrize("way", WAYS)
def test_training_with_autocast(way: str, tmp_path: Path) -> None:
    """Where a weight is rounded to another bfloat16 than torch's, gradients differ: by 7e-4 the weights did."""
    ours = trained(tmp_path, fastopt.torch.AdamW, way, bf16=True)
    check_agreement(ours, trained(tmp_path, torch.optim.AdamW, way, bf16=True), weights(model()), 3e-3, 10)


@pytest.mark.parametrize("way", WAYS)
def test_a_checkpoint_in_bfloat16_is_trained_as_it_comes(way: str, tmp_path: Path) -> None:
    """torch's fused loop rounds once a step, too: few weights differ from its."""
    bf16 = torch.bfloat16
    with counted_steps() as counts:
        ours = trained(tmp_path, fastopt.torch.AdamW, way, bf16)
    assert counts == {"fastopt.torch.AdamW": STEPS}
    assert all(each.dtype == bf16 for each in ours.values())
    theirs = trained(tmp_path, torch.optim.AdamW, way, bf16, fused=True)
    check_agreement(ours, theirs, weights(model(bf16)), 2e-3, 10)  # 0 measured, 5e-4 with transformers 4.56


def test_master_weights_train_a_checkpoint_in_bfloat16(tmp_path: Path) -> None:
    network = model(torch.bfloat16)
    kwargs = {"lr": 1e-2, "master_weights": True}
    options: Any = dict(args=arguments(tmp_path), train_dataset=Tokens())
    made = Trainer(model=network, optimizer_cls_and_kwargs=(fastopt.torch.AdamW, kwargs), **options)
    made.train()
    optimizer = made.optimizer.optimizer
    masters = optimizer.master_params()
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for master, param in zip(masters, params, strict=True):
        torch.testing.assert_close(param.float(), master, rtol=2**-8, atol=0)  # half the distance between neighbours
    assert any(not torch.equal(param.float(), master) for master, param in zip(masters, params, strict=True))


SAVED: dict[str, Any] = dict(way="optimizer_cls_and_kwargs", save_strategy="steps", save_steps=3, max_grad_norm=0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_training_goes_on_from_a_checkpoint(dtype: torch.dtype, tmp_path: Path) -> None:
    whole = trained(tmp_path, fastopt.torch.AdamW, dtype=dtype, **SAVED)
    resumed = trainer(tmp_path / "again", fastopt.torch.AdamW, dtype=dtype, **SAVED)
    with counted_steps() as counts:
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert counts == {"fastopt.torch.AdamW": STEPS - 3}
    assert distance(weights(resumed.model), whole) == 0


@pytest.mark.parametrize(("first", "second"), [(torch.optim, fastopt.torch), (fastopt.torch, torch.optim)])
def test_training_goes_on_from_a_checkpoint_of_the_other_class(first: Any, second: Any, tmp_path: Path) -> None:
    whole = trained(tmp_path, first.AdamW, **SAVED)
    resumed = trainer(tmp_path / "again", second.AdamW, **SAVED)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    check_agreement(weights(resumed.model), whole, weights(model()))
