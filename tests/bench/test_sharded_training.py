"""`fastopt.bench.sharded_training`: a killed rank, and the same losses from one rank less."""

from __future__ import annotations

import re

import pytest

from fastopt.bench import memory, sharded_training


@pytest.mark.slow
@pytest.mark.skipif(memory.unavailable() is not None, reason="Linux only")
def test_the_losses_are_those_of_a_run_that_nobody_disturbed(capsys: pytest.CaptureFixture[str]) -> None:
    sharded_training.main(["--quick"])
    printed = capsys.readouterr().out
    assert "199,361 parameters, 2 ranks, of which one is killed, then 1" in printed
    found = re.search(r"largest relative difference after the checkpoint: (\S+)", printed)
    assert found is not None
    assert float(found[1]) < 1e-5  # 2e-7 measured: processes add up gradients in another order
    assert re.search(r"fastopt.torch.AdamW, float8 .* ms a step, \d", printed)
