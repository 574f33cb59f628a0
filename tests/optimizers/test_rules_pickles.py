"""Custom rules of a script or a notebook in other processes: a pickle by value brings the rule's source along."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from custom_momentum import Momentum

import fastopt
from fastopt.kernels.formulas import registry

SCRIPT = """
import sys
import numpy as np
import fastopt
from fastopt.rules import select

def mean(old, new, beta):
    return beta * old + (1 - beta) * new

def corrections(step, lr, beta):
    step_size = lr / (1 - beta**step)
    return step_size, beta

@fastopt.rule(state=("exp_avg",), hyper=dict(lr=0.5, beta=0.75), coefficients=corrections, domain={"beta": "[0, 1)"})
def Corrected(param, grad, exp_avg, step_size, beta):
    exp_avg = mean(exp_avg, select(grad > -1.0, grad, -grad), beta)
    param = param - step_size * exp_avg
    return param, exp_avg

def train(optimizer, first, last):
    for number in range(first, last):
        optimizer.step(np.linspace(-2, number, 5))
    return optimizer

def result(optimizer):
    return optimizer.param_groups[0]["params"][0].tolist(), optimizer.state[0]["exp_avg"].tolist()

if __name__ == "__main__":
    optimizer = train(Corrected(np.zeros(5), lr=0.25), 0, 2)
    if sys.argv[1] == "cloudpickle":
        import cloudpickle
        with open("rule.pickle", "wb") as file:
            cloudpickle.dump((Corrected, optimizer, result(train(Corrected(np.zeros(5), lr=0.25), 0, 4))), file)
    else:
        import joblib
        with joblib.parallel_config("loky", n_jobs=1 + 1):
            resumed, trained = joblib.Parallel()(
                joblib.delayed(lambda each: result(train(*each)))(each)
                for each in [(optimizer, 2, 4), (Corrected(np.zeros(5), lr=0.25), 0, 4)]
            )
        assert resumed == trained == result(train(optimizer, 2, 4)), (resumed, trained)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def run(script: Path, how: str) -> None:
    pytest.importorskip(how)
    subprocess.run([sys.executable, script.name, how], cwd=script.parent, check=True, timeout=300)


def test_a_rule_of_a_script_is_read_in_another_process(script: Path) -> None:
    run(script, "cloudpickle")
    rule, optimizer, expected = pickle.loads((script.parent / "rule.pickle").read_bytes())
    assert type(optimizer) is rule
    assert rule.__module__ == "__main__"
    for number in (2, 3):
        optimizer.step(np.linspace(-2, number, 5))
    assert expected == (optimizer.param_groups[0]["params"][0].tolist(), optimizer.state[0]["exp_avg"].tolist())
    # All else that a rule has is there, too.
    param = np.zeros(5)
    for backend in ("numba", "reference"):
        rule(param.copy(), beta=0.5, backend=backend).step(np.ones(5))
    rule(param).describe()
    with pytest.raises(ValueError, match="Invalid beta value: 1"):
        rule(param, beta=1.0)
    # Here the same rule as one that is read a second time.
    again, *_ = pickle.loads((script.parent / "rule.pickle").read_bytes())
    assert again.spec.custom_rule is rule.spec.custom_rule


def test_a_rule_of_a_script_is_known_to_joblibs_workers(script: Path) -> None:
    run(script, "joblib")


def test_a_pickle_registers_the_rule_where_it_is_not_known() -> None:
    custom = Momentum.spec.custom_rule
    assert custom is not None
    name = custom.rule.name
    pickled = pickle.dumps(custom)
    assert pickle.loads(pickled) is custom
    del registry.CUSTOM_RULES[name]
    try:
        again = pickle.loads(pickled)
        assert registry.CUSTOM_RULES[name] is again
        assert again.rule.states == custom.rule.states
        assert [each.name for each in again.loop.functions] == [each.name for each in custom.loop.functions]
        param, expected = np.zeros(3), np.zeros(3)
        Momentum(param).step(np.ones(3))
        fastopt.SGD(expected, lr=1e-2).step(np.ones(3))
        assert param.tolist() == expected.tolist()
    finally:
        registry.CUSTOM_RULES[name] = custom
