"""Building fastopt in copies of the checkout, and environments that have what was built."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("fastopt", "kernels", "examples", "bench")
COPIED = (*FOLDERS, "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")


def copy_of_sources(folder: Path) -> Path:
    """What a build needs, without what was built here."""
    folder.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def start(command: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600
    )


def build_wheel(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "-w"]
    return start([sys.executable, *command, str(checkout / "dist"), "."], checkout, **environment)


def build_editable(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The wheel that `pip install -e` installs."""
    code = "from setuptools import build_meta; build_meta.build_editable('editable')"
    (checkout / "editable").mkdir()
    return start([sys.executable, "-c", code], checkout, **environment)


def python_with(wheel_folder: Path, folder: Path) -> Path:
    """An interpreter of a new environment that has this wheel, and this environment's other packages."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    target = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    (wheel,) = wheel_folder.glob("*.whl")
    shutil.unpack_archive(wheel, target, "zip")
    outside = [path for path in sys.path if path.endswith("site-packages")]
    # Our own editable installation is a finder in these folders' .pth files, which are not read for plain paths.
    (Path(target) / "outside.pth").write_text("\n".join(outside) + "\n")
    return python


def run(python: Path, code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return start([str(python), "-c", code], cwd, **environment)
