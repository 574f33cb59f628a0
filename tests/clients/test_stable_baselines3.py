"""stable-baselines3, on-policy and off-policy, with `policy_kwargs=dict(optimizer_class=...)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC
from training import check_agreement, counted_steps, weights

import fastopt.torch

# The algorithm, its environment and options, steps in the environment, and the optimizer's.
CASES: dict[str, tuple[type, str, dict[str, Any], int, int]] = {
    "PPO": (PPO, "CartPole-v1", dict(n_steps=128, batch_size=64, n_epochs=4), 256, 2 * 2 * 4),
    "DQN": (DQN, "CartPole-v1", dict(learning_starts=50, train_freq=4, buffer_size=1000), 300, 63),
    # The actor's and the critic's; that of the entropy's coefficient is always torch's.
    "SAC": (SAC, "Pendulum-v1", dict(learning_starts=50, buffer_size=1000), 150, 2 * 100),
}


def make(case: str, optimizer: type, **options: Any) -> Any:
    algorithm, environment, given, *_ = CASES[case]
    policy = dict(optimizer_class=optimizer, optimizer_kwargs=dict(eps=1e-5), net_arch=[32, 32])
    return algorithm("MlpPolicy", environment, policy_kwargs=policy, seed=0, device="cpu", **given, **options)


@pytest.mark.parametrize("case", CASES)
def test_training(case: str) -> None:
    *_, steps, n_updates = CASES[case]
    with counted_steps() as counts:
        ours = make(case, fastopt.torch.Adam).learn(steps)
    assert counts == {"fastopt.torch.Adam": n_updates}
    theirs = make(case, torch.optim.Adam).learn(steps)
    check_agreement(weights(ours.policy), weights(theirs.policy), weights(make(case, torch.optim.Adam).policy))


@pytest.mark.parametrize("case", CASES)
def test_a_model_is_loaded_with_its_optimizers(case: str, tmp_path: Path) -> None:
    """The file has the class, in `policy_kwargs`, and state dicts."""
    algorithm, _, _, steps, _ = CASES[case]
    saved = make(case, fastopt.torch.Adam).learn(steps)
    saved.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", device="cpu")  # type: ignore[attr-defined]
    for name in ("actor", "critic") if case == "SAC" else ("policy",):
        ours, before = getattr(loaded, name).optimizer, getattr(saved, name).optimizer
        assert type(ours) is fastopt.torch.Adam
        state, expected = ours.state_dict()["state"], before.state_dict()["state"]
        assert state.keys() == expected.keys()
        assert len(state) >= 4
        for index, each in state.items():
            assert all(torch.equal(each[key], expected[index][key]) for key in ("step", "exp_avg", "exp_avg_sq"))
