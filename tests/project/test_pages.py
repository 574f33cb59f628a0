"""README and docs: what they show of commands is what commands print, links lead somewhere, pictures are small."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from threadpoolctl import threadpool_limits

import fastopt
from fastopt.command import main as cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / ".github" / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "api").glob("*.md")),
    *sorted((ROOT / "docs" / "benchmarks").glob("*.md")),
    ROOT / "bench" / "README.md",
    ROOT / "examples" / "cython_package" / "README.md",
)

GENERATED_TABLES = (
    "docs/benchmarks.md",
    *(f"docs/benchmarks/{page.name}" for page in sorted((ROOT / "docs" / "benchmarks").glob("*.md"))),
)
"""Pages whose tables are as wide as their numbers."""

SHORT_LINES = ("README.md", "CHANGELOG.md", "bench/README.md", "docs/performance.md", *GENERATED_TABLES)
"""Pages with lines below 120 columns."""

SHOWN = re.findall(
    r"```\n(fastopt [^\n]*)\n```\n\n```text\n(.*?)```", (ROOT / "docs/learning-rates.md").read_text(), re.DOTALL
)
"""Commands of the guide, and what it shows of their output."""


CHAOTIC = {"fastopt sweep": {"0.1": 3.0, "0.316": 1.5}}
"""Rates at which training is chaotic, by command, and the factor by which losses may differ from the guide's.

At these rates a change in the last bit of a matrix product, which differs from processor to processor, changes the
loss: in 12 sweeps with random changes of every gradient's last bit by factors of up to 2.0 at 0.1 and 1.24 at 0.316.
At all other rates of the sweep the losses differed by a factor of at most 1.0002.
"""


def same(shown: str, printed: str, factor: float) -> bool:
    """Whether two words are equal, or numbers that differ by a factor of at most `factor`."""
    try:
        ratio = float(shown.strip("%.,;")) / float(printed.strip("%.,;"))
    except (ValueError, ZeroDivisionError):
        return shown == printed
    return 1 / factor <= ratio <= factor


def same_line(command: str, shown: list[str], printed: list[str]) -> bool:
    if len(shown) != len(printed) or not same(shown[0], printed[0], 1.1):
        return False
    factor = CHAOTIC.get(command, {}).get(shown[0], 1.1)
    return all(same(*words, factor) for words in zip(shown[1:], printed[1:], strict=True))


@pytest.mark.blas
@pytest.mark.parametrize(("command", "text"), SHOWN, ids=[command for command, _ in SHOWN])
def test_the_guide_shows_what_commands_print(
    command: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "1000")
    with threadpool_limits(1, "blas"):
        assert cli.main(command.split()[1:]) == 0
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    for line in filter(None, text.splitlines()):
        assert any(same_line(command, line.split(), each) for each in printed), line


def test_the_guide_shows_commands() -> None:
    assert {command.split()[1] for command, _ in SHOWN} == {"diagnose", "range-test", "sweep"}


BLOCKS = [
    (page, language, text)
    for page in PAGES
    for language, text in re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
]
"""The blocks of code of all pages: (page, language, text)."""

COMMANDS = [
    (page.name, line.partition("  #")[0].partition(" && ")[0].strip())
    for page, language, text in BLOCKS
    for line in text.splitlines()
    if language in ("", "sh") and line.strip()
]
"""Command lines that pages show, each up to its first `&&`, and what follows that in `FOLLOWING`."""

FOLLOWING = [
    (page.name, command.strip())
    for page, language, text in BLOCKS
    for line in text.splitlines()
    for command in line.partition("  #")[0].split(" && ")[1:]
    if language in ("", "sh")
]


def test_every_block_is_of_a_kind_that_is_run() -> None:
    """`python` by test_quality.py, `py` in clients.md by tests/clients and in cuda.md by test_cuda_pages.py, the others
    here."""
    others = {"learning-rates.md": {"py"}, "cuda.md": {"py"}, "conventions.md": {"text"}, "divergence.md": {"text"}}
    others |= {"thinc.md": {"py", "ini"}, "keras.md": {"py"}}  # by tests/in_thinc and tests/in_keras
    others |= {"learning-rates.md": {"py", "text"}, "README.md": {"cython"}}  # cython_package's
    others |= {"clients.md": {"py", "json"}}
    known = {"", "sh", "python", "cython", "c"}
    unknown = [
        (page.name, language)
        for page, language, _ in BLOCKS
        if not language.startswith("{") and language not in known | others.get(page.name, set())
    ]
    assert unknown == []


@pytest.mark.parametrize(("page", "command"), [*COMMANDS, *FOLLOWING], ids=lambda each: each[:60])
def test_commands_that_pages_show_exist(page: str, command: str) -> None:
    """Options of `fastopt` are those that it has; files are there; nothing else is run than what is known here."""
    words = shlex.split(command)
    if words[0] == "fastopt":
        arguments = words[1:]
        parsed = cli.make_parser(next(word for word in arguments if word in cli.COMMANDS)).parse_args(arguments)
        assert parsed.command in cli.COMMANDS
        return
    if words[:2] in (["python", "-m"], ["python3", "-m"]):
        assert words[2] in ("pip", "pytest", "venv", "bench.report")
        words = words[3:] if words[2] == "pytest" else []
    elif words[0] in ("pip", ".", "cd"):
        return
    files = [word for word in words if "/" in word or word.endswith(".py")]
    assert [word for word in files if not (ROOT / word).exists()] == []


def block(page: str, language: str) -> str:
    (text,) = [text for each, kind, text in BLOCKS if kind == language and each == ROOT / "docs" / page]
    return text


def test_the_cython_code_is_cython(tmp_path: Path) -> None:
    """Translated to C, which checks the arguments' number and types; test_build.py compiles a whole package."""
    first, _, rest = block("your-loop.md", "cython").partition("\n\n")
    body = "".join(f"    {line}\n" for line in rest.splitlines())
    text = (
        f"{first}\n\ndef step_once(float[::1] weights, float[::1] grad, float[::1] exp_avg, float[::1] exp_avg_sq, "
        f"Py_ssize_t size, long step, double lr):\n{body}"
    )
    (tmp_path / "page.pyx").write_text(text)
    include = fastopt.get_include()
    command = [sys.executable, "-m", "cython", "-3", "-I", include, "-Werror", "page.pyx"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_c_code_is_c(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    lines = block("your-loop.md", "c").splitlines()
    body = [line for line in lines if not line.startswith("#include")]
    includes = "\n".join(line for line in lines if line.startswith("#include"))
    function = "void *use(double *param, const double *grad, Py_ssize_t size, int64_t step)"
    (tmp_path / "page.c").write_text("\n".join([includes, function, "{", *body, "return param;", "}"]) + "\n")
    folders = [sysconfig.get_path("include"), fastopt.get_include()]
    options = ["-fsyntax-only", "-Wall", "-Werror", "-Wno-unused-function", "-Wno-unused-variable"]
    command = [compiler, *options, *(f"-I{folder}" for folder in folders), "page.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text)
    for target in (first or second for first, second in links):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if file.parent.name == "generated":  # with the site; `.ci/site` checks these
            continue
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_found_from_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    pages = [page.name for page in (ROOT / "docs").glob("*.md") if page.name != "index.md"]  # the site's README
    assert [name for name in pages if f"(docs/{name}" not in readme] == []


@pytest.mark.parametrize("name", SHORT_LINES)
def test_lines_are_short(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    wide = name in GENERATED_TABLES
    assert [line for line in lines if len(line) >= 120 and not (wide and line.startswith("|"))] == []


def test_pictures_are_small_and_shown() -> None:
    pictures = [file for file in (ROOT / "docs").rglob("*") if file.suffix in (".png", ".svg")]
    text = "".join(page.read_text() for page in PAGES)
    assert [file.name for file in pictures if file.name not in text] == []
    assert [file.name for file in pictures if file.stat().st_size > 200_000] == []
    assert sum(file.stat().st_size for file in pictures) < 2_000_000  # with a plot of the benchmarks for each variant
