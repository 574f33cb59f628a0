"""Training loops around the optimizers: schedulers, scalers, hooks, closures, options changed on the way."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import Case, each_pair
from processes import in_a_fresh_process
from torch.nn import Parameter
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch_pairs import CLASSES, MODULES, by_case, by_class, check_same, parameters, set_gradients, train
from torch_peers import TORCH

import fastopt
import fastopt.torch

# --- schedulers -----------------------------------------------------------------------------------------------------

SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.8),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 3, 4]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.3, total_iters=4),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.7),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 5, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, 2, cycle_momentum=cycles_momentum(o)),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=10, cycle_momentum=cycles_momentum(o)),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.05, 4),
}


def cycles_momentum(optimizer: torch.optim.Optimizer) -> bool:
    return "betas" in optimizer.defaults or "momentum" in optimizer.defaults


def test_every_scheduler_is_tested() -> None:
    known = {name for name in lr_scheduler.__all__ if name not in ("LRScheduler", "LRSchedulerBase")}
    assert known <= set(SCHEDULERS)


@by_case
@pytest.mark.parametrize("scheduled", SCHEDULERS.values(), ids=SCHEDULERS)
def test_schedulers(case: Case, scheduled: Callable[[Any], Any]) -> None:
    def situation(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> list[Any]:
        scheduler = scheduled(optimizer)
        used = []
        for seed in range(8):
            set_gradients(params, seed)
            optimizer.step()
            group = optimizer.param_groups[0]
            used.append([group[name] for name in ("lr", "momentum", "betas") if name in group])
            scheduler.step(*([1.0] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
        return used

    mine, theirs = check_same(case, situation)
    assert mine == theirs
    assert len({str(each) for each in mine}) > 1


# --- hyperparameters ------------------------------------------------------------------------------------------------

CHANGES: list[tuple[str, list[Any]]] = [
    ("lr", [0.5, 0.0, 1e-3]),
    ("weight_decay", [0.2, 0.0, 0.1]),
    ("momentum", [0.0, 0.8, 0.9]),
    ("dampening", [0.1, 0.0, 0.2]),
    ("betas", [(0.5, 0.6, 0.4), [0.7, 0.8, 0.9], (0.0, 0.0, 0.0)]),
    ("eps", [1e-3, 1e-2, 1e-1]),
    ("alpha", [0.5, 0.9, 0.99]),
    ("lr_decay", [0.5, 0.0, 0.1]),
    ("etas", [(0.4, 1.3), (0.5, 1.1), (0.9, 1.8)]),
    ("step_sizes", [(1e-3, 0.02), (1e-2, 0.1), (1e-6, 50)]),
    ("maximize", [True, False, True]),
    ("rho", [0.5, 0.0, 0.99]),
    ("momentum_decay", [0.1, 0.0, 1.0]),
    ("beta3_warmup", [20.0, 0.0, 5.0]),
    ("alpha_warmup", [20.0, 0.0, 5.0]),
    ("use_clipping", [False, True, False]),
    ("no_prox", [True, False, True]),
]
CHANGE_TOLERANCES = {("Lion", "maximize"): 1e-5}
"""Gradients of both signs leave little of Lion's average, but their rounding."""


@by_case
@pytest.mark.parametrize(("name", "values"), CHANGES, ids=[name for name, _ in CHANGES])
def test_hyperparameters_change_by_assignment(case: Case, name: str, values: list[Any]) -> None:
    if name == "momentum" and case.options.get("nesterov"):
        values = [0.5, 0.8, 0.9]
    if name == "betas":
        values = [value[: len(case.spec.defaults.get("betas", ()))] for value in values]
    if name == "dampening" and case.options.get("nesterov"):
        pytest.skip("Nesterov's momentum has none")

    def situation(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
        group = optimizer.param_groups[0]
        if name not in group:
            pytest.skip("no such hyperparameter")
        for value in values:
            train(optimizer, params)
            group[name] = value
            train(optimizer, params)
        if isinstance(group.get("betas"), list):
            group["betas"][0] = 0.1
            train(optimizer, params)

    check_same(case, situation, tolerance=CHANGE_TOLERANCES.get((case.optimizer, name), 0))


def test_values_in_a_list_or_tensor_change_in_place() -> None:
    def situation(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
        group = optimizer.param_groups[0]
        group["betas"] = [0.9, 0.99]
        for beta in (0.5, 0.1):
            train(optimizer, params)
            group["betas"][0] = beta
        group["betas"] = (torch.tensor(0.9), torch.tensor(0.99))
        for beta in (0.5, 0.1):
            train(optimizer, params)
            group["betas"][0].fill_(beta)
        train(optimizer, params)

    check_same(Case("Adam", {"lr": 0.01}), situation)


@by_class
@pytest.mark.parametrize("scheduled", [False, True])
def test_a_rate_that_is_a_tensor(name: str, scheduled: bool) -> None:
    def situation(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
        rate = optimizer.param_groups[0]["lr"] = torch.tensor(1e-2, dtype=torch.float64)
        scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5) if scheduled else None
        for seed in range(5):
            set_gradients(params, seed)
            optimizer.step()
            if scheduler is None:
                rate.fill_(0.1 / (seed + 1))
            else:
                scheduler.step()
        assert optimizer.param_groups[0]["lr"] is rate

    check_same(Case(name, {}), situation)


# --- GradScaler -----------------------------------------------------------------------------------------------------


@by_case
@pytest.mark.parametrize("unscales", [False, True])
def test_grad_scaler(case: Case, unscales: bool) -> None:
    """Gradients stay scaled unless the scaler's `unscale_` was called; all else is torch's, which divides them."""

    def situation(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> list[float]:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        scales = []
        for seed in range(7):
            optimizer.zero_grad()
            generator = torch.Generator().manual_seed(seed)
            inputs = [torch.randn(param.shape, generator=generator) for param in params]
            loss = sum((param * each).sum() for param, each in zip(params, inputs, strict=True))
            scaler.scale(loss).backward()
            if seed == 4:
                params[1].grad[0, 0] = torch.inf  # type: ignore[index]
            if unscales:
                scaler.unscale_(optimizer)
            scaled = [param.grad.clone() for param in params if param.grad is not None]
            scaler.step(optimizer)
            if isinstance(optimizer, fastopt.torch.NativeOptimizer):
                for param, gradient in zip(params, scaled, strict=True):
                    assert torch.equal(param.grad, gradient)  # type: ignore[arg-type]
            scales.append(scaler.get_scale())
            scaler.update()
        set_gradients(params, 7)
        optimizer.step()  # without the scaler
        return scales

    mine, theirs = check_same(case, situation)
    assert mine == theirs
    assert len(set(mine)) > 2


def test_grad_scaler_with_clipping() -> None:
    """`max_grad_norm` counts in unscaled gradients."""
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    param = Parameter(torch.tensor([1.0, 1.0]))
    optimizer = fastopt.torch.SGD([param], lr=1.0, max_grad_norm=1.0)
    scaler.scale((param * torch.tensor([3.0, 4.0])).sum()).backward()
    scaler.step(optimizer)
    assert optimizer.grad_norm == 5.0
    torch.testing.assert_close(param.detach(), torch.tensor([0.4, 0.2]))


def test_the_product_of_two_scales() -> None:
    def situation(optimizer: Any, params: list[Parameter]) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
        for seed in range(3):
            set_gradients(params, seed)
            optimizer.grad_scale = torch.tensor(4.0)
            scaler.scale(torch.tensor(1.0))
            scaler.step(optimizer)
            scaler.update()
        optimizer.zero_grad()  # torch's fused kernel has unscaled them

    check_same(Case("Adam", {"lr": 0.01}), situation, fused=True)


# --- hooks ----------------------------------------------------------------------------------------------------------


@by_class
def test_hooks(name: str) -> None:
    def situation(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> list[Any]:
        seen: list[Any] = []

        def note(when: str) -> Callable[..., None]:
            return lambda own, args, kwargs: seen.append((when, own is optimizer, len(args), kwargs))

        handles = [
            optimizer.register_step_pre_hook(note("pre")),
            optimizer.register_step_post_hook(note("post")),
            register_optimizer_step_pre_hook(lambda *_: seen.append("global pre")),
            register_optimizer_step_post_hook(lambda *_: seen.append("global post")),
            optimizer.register_state_dict_pre_hook(lambda *_: seen.append("state dict pre")),
            optimizer.register_state_dict_post_hook(lambda o, state: seen.append("state dict post")),
            optimizer.register_load_state_dict_pre_hook(lambda o, state: seen.append("load pre")),
            optimizer.register_load_state_dict_post_hook(lambda o: seen.append("load post")),
        ]
        set_gradients(params, 0)
        optimizer.step()
        optimizer.step(lambda: 3.0)
        optimizer.load_state_dict(optimizer.state_dict())
        for handle in handles:
            handle.remove()
        train(optimizer, params)
        return seen

    mine, theirs = check_same(Case(name, {}), situation)
    assert mine == theirs
    assert len(mine) == 12


def test_a_pre_hook_changes_gradients_and_arguments() -> None:
    def situation(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> Any:
        def halve(*_: Any) -> None:
            for param in params:
                param.grad = param.grad / 2  # type: ignore[operator]

        def give_a_closure(o: Any, args: Any, kwargs: Any) -> Any:
            return args, {"closure": lambda: 5.0}

        optimizer.register_step_pre_hook(halve)
        optimizer.register_step_pre_hook(give_a_closure)
        set_gradients(params, 0)
        return optimizer.step()

    mine, theirs = check_same(Case("Adam", {}), situation)
    assert mine == theirs == 5.0


@by_class
def test_the_profiler_shows_steps(name: str) -> None:
    params = parameters()
    optimizer = getattr(fastopt.torch, name)(params)
    set_gradients(params, 0)
    with torch.autograd.profiler.profile() as profile:
        optimizer.step()
        optimizer.zero_grad()
    shown = {event.name for event in profile.function_events}
    assert f"Optimizer.step#{name}.step" in shown
    assert f"Optimizer.zero_grad#{name}.zero_grad" in shown


# --- closures -------------------------------------------------------------------------------------------------------


@by_case
def test_closures(case: Case) -> None:
    def situation(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> list[float]:
        def closure() -> torch.Tensor:
            assert torch.is_grad_enabled()
            optimizer.zero_grad()
            loss = sum(((param - 1) ** 2).sum() for param in params)
            loss.backward()  # type: ignore[union-attr]
            return loss  # type: ignore[return-value]

        losses = []
        for context in (contextlib.nullcontext, torch.no_grad, torch.enable_grad):
            with context():
                enabled = torch.is_grad_enabled()
                losses.append(optimizer.step(closure).item())  # type: ignore[union-attr]
                assert torch.is_grad_enabled() == enabled
        return losses

    mine, theirs = check_same(case, situation)
    assert mine == pytest.approx(theirs, rel=1e-5)


def test_an_error_in_a_closure_changes_nothing() -> None:
    params = parameters()
    optimizer = fastopt.torch.Adam(params)
    set_gradients(params, 0)
    before = [param.tolist() for param in params]
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    assert [param.tolist() for param in params] == before
    assert not optimizer.state


# --- models ---------------------------------------------------------------------------------------------------------


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(10, 6)
        self.conv = torch.nn.Conv1d(6, 6, 3, padding=1)
        self.head = torch.nn.Linear(6, 10, bias=False)
        self.head.weight = self.embedding.weight
        self.unused = torch.nn.Linear(2, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.conv(self.embedding(tokens).transpose(1, 2)).transpose(1, 2)
        result: torch.Tensor = self.head(torch.relu(hidden))
        return result


class Tokens(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.randint(10, (5,), generator=torch.Generator().manual_seed(index))


def trained(module: Any, name: str, n_workers: int = 0, named: bool = False, **options: Any) -> torch.nn.Module:
    model = Tied()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn(param.shape, generator=generator) / 3)
    params = model.named_parameters() if named else model.parameters()
    optimizer = getattr(module, name)(params, lr=1e-3, **options)
    for tokens in torch.utils.data.DataLoader(Tokens(), batch_size=4, num_workers=n_workers):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()
    return model


def check_models(mine: torch.nn.Module, theirs: torch.nn.Module, tolerance: float = 2e-5) -> None:
    for (label, my), (_, their) in zip(mine.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(
            my, their, rtol=tolerance, atol=tolerance, msg=lambda text, at=label: f"{at}: {text}"
        )


@each_pair(name=CLASSES, named=[False, True], maximize=[False, True])
def test_a_model_with_tied_weights(name: str, named: bool, maximize: bool) -> None:
    check_models(*(trained(module, name, named=named, maximize=maximize) for module in MODULES))


def train_with_workers() -> None:
    check_models(*(trained(module, "Adam", n_workers=2) for module in MODULES))


def test_a_data_loader_with_workers() -> None:
    """It forks, after steps were done with threads."""
    assert in_a_fresh_process("import test_torch_training\ntest_torch_training.train_with_workers()") == ""


def test_a_forked_process_steps_on() -> None:
    code = """
import os
import torch, fastopt
from fastopt.kernels import native
from fastopt.torch import Adam
native.set_thread_policy(1e-6, False)
param = torch.nn.Parameter(torch.zeros(100_000))
optimizer = Adam([param], lr=1.0, betas=(0.0, 0.0), eps=0.0, n_threads=2)
for _ in range(3):
    param.grad = torch.ones(100_000)
    optimizer.step()
child = os.fork()
optimizer.step()
right = set(param.tolist()) == {-4.0} and float(optimizer.state[param]["step"]) == 4
if child == 0:
    os._exit(0 if right else 1)
print(right and os.waitpid(child, 0)[1] == 0)
"""
    assert in_a_fresh_process(code) == "True\n"


def test_torchs_number_of_threads_is_respected() -> None:
    optimizer = fastopt.torch.Adam(parameters())
    fastopt.set_num_threads(64)
    before = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert optimizer._host.n_threads() == count
    finally:
        torch.set_num_threads(before)
    assert fastopt.torch.Adam(parameters(), n_threads=3)._host.n_threads() == 3


@pytest.mark.slow
@pytest.mark.usefixtures("threads_always")
@pytest.mark.parametrize("name", CLASSES)
def test_threads_that_train_models_of_their_own(name: str) -> None:
    expected = trained(fastopt.torch, name)
    models: list[torch.nn.Module] = []
    threads = [threading.Thread(target=lambda: models.append(trained(fastopt.torch, name))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(models) == 3
    for model in models:
        check_models(model, expected, 1e-6)


def test_threads_that_step_one_optimizer_get_an_error_or_a_step() -> None:
    """Never half of one: the count of steps says how many were done, and each moves all elements by the rate."""
    params = [Parameter(torch.zeros(400_000)), Parameter(torch.zeros(3))]
    optimizer = fastopt.torch.Adam(params, lr=1.0, betas=(0.0, 0.0), eps=0.0)
    for param in params:
        param.grad = torch.ones_like(param)
    done: list[int] = []
    barrier = threading.Barrier(2)

    def step_often() -> None:
        barrier.wait()
        for number in range(60):
            if number % 7 == 0:
                optimizer.param_groups[0]["weight_decay"] = 0.0 if number % 2 else 0
            try:
                optimizer.step()
            except RuntimeError as error:
                assert "another thread" in str(error)  # noqa: PT017
            else:
                done.append(1)

    threads = [threading.Thread(target=step_often) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for param in params:
        assert float(optimizer.state[param]["step"]) == len(done)
        assert param.unique().tolist() == [-len(done)]


# --- torch.compile --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@by_class
def test_torch_compile_leaves_steps_alone(name: str) -> None:
    """A step within a compiled function is a break of its graph; there is nothing to compile anew each time."""
    torch._dynamo.reset()

    def run(module: Any, compiles: bool) -> torch.nn.Module:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3)
        optimizer = getattr(module, name)(model.parameters())
        inputs = torch.randn(5, 4)

        def iteration() -> None:
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()

        if compiles:
            iteration = torch.compile(iteration, backend="eager")
        for _ in range(4):
            iteration()
        return model

    check_models(run(fastopt.torch, True), run(TORCH, False))


@pytest.mark.slow
def test_a_step_in_a_full_graph_says_what_to_do() -> None:
    torch._dynamo.reset()
    param = torch.nn.Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    optimizer = fastopt.torch.Adam([param])
    step = torch.compile(lambda: optimizer.step(), fullgraph=True, backend="eager")
    with pytest.raises(RuntimeError, match="native code, which no graph can hold; compile the model, or the loss"):
        step()
    assert torch.equal(param.detach(), torch.ones(2))
