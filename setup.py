"""Builds the compiled modules: renders the rules as Cython, then compiles them once per instruction set.

Environment variables
---------------------
FASTOPT_BUILD_OPENMP=0      compile without OpenMP: the result works on one thread. Without it, a compiler that
                            lacks OpenMP fails the build.
FASTOPT_BUILD_EXTENSION=0   compile nothing: only the numba and reference backends.

What is compiled is kept in `build/compiled`: the next build, of any kind, compiles what has changed since.
"""

import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import kernels  # noqa: E402
from kernels import constants, cpu  # noqa: E402  (these import the standard library alone)
from kernels.render import codecs_source, constants_source, cython_source, updates_source  # noqa: E402

NATIVE = HERE / "kernels" / "native"
TORCH = HERE / "fastopt" / "torch" / "stepping"
GENERATED = HERE / "build" / "generated"
INCLUDE = GENERATED / "include"
"""Where Cython finds constants, and the declarations of compiled modules by the names they are installed under."""
COMPILED = HERE / "build" / "compiled"
"""The modules that were compiled last, each with a fingerprint of all that it was made from in its name."""
WHERE_NUMPY_IS = re.compile(r"/\* BEGIN: Cython Metadata.*?END: Cython Metadata \*/", re.DOTALL)
"""A comment in what Cython writes. pip builds with a NumPy in another folder each time."""
MOST_COMPILED = 3
"""How many are kept of each module: built with other flags or from other text."""
PACKAGE = HERE / "fastopt"
"""Where Cython and C find the declarations of `fastopt.updates`, and type checkers those of classes."""
TARGET = sysconfig.get_platform().rpartition("-")[2]
"""The processor to compile for: not this one where Python cross-compiles (_PYTHON_HOST_PLATFORM)."""
if TARGET == "universal2":  # Python's for two processors, but loops are compiled for instruction sets of one.
    TARGET = platform.machine()
    os.environ.setdefault("ARCHFLAGS", f"-arch {TARGET}")
IS_X86 = TARGET.lower() in ("x86_64", "amd64")
LEVELS = cpu.LEVELS if IS_X86 else (cpu.OTHER,)

# The same bits on every instruction set: no fused multiply-add but those that square_root.h asks for, nothing that
# reorders. The two relaxations concern errno and trap handlers only, not values; without them sqrt is a call and
# `select` a branch, and neither vectorises. No debugging information, which is five times as large as everything else.
COMPILE = ["-O3", "-g0", "-fno-fast-math", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
VECTORS = {"x86-64": [], "x86-64-v3": [], "x86-64-v4": ["-mprefer-vector-width=512", "-funroll-loops"], cpu.OTHER: []}
OPENMP = {
    "darwin": (["-Xpreprocessor", "-fopenmp"], ["-lomp"]),
    "linux": (["-fopenmp"], ["-fopenmp"]),
}

INSTEAD = "or install a wheel of fastopt, or set FASTOPT_BUILD_EXTENSION=0 to build without the compiled module."

NO_COMPILER = (
    "fastopt cannot be built: the C compiler `{compiler}` {problem}. Install one (Debian, Ubuntu: `apt install gcc "
    "python3-dev`; Fedora: `dnf install gcc python3-devel`; macOS: `xcode-select --install && brew install libomp`; "
    f"Windows: Visual Studio Build Tools), {INSTEAD}"
)

NO_HEADERS = (
    "fastopt cannot be built: `{compiler}` does not find Python.h, of Python's development files. Install them "
    f"(Debian, Ubuntu: `apt install python3-dev`; Fedora: `dnf install python3-devel`), {INSTEAD}"
)

NO_OPENMP = (
    "fastopt cannot be built: `{compiler}` cannot compile and link an OpenMP program with {flags}. Install OpenMP "
    "(Debian, Ubuntu: `apt install gcc`, which brings libgomp; Fedora: `dnf install gcc`; macOS: `brew install "
    f"libomp`), or set FASTOPT_BUILD_OPENMP=0 to build for one thread, {INSTEAD}"
)

NOT_WRITABLE = (
    f"fastopt cannot be built in {HERE}: {{error.filename}}: {{error.strerror}}. A build writes into the folders "
    "`build` and `fastopt`; copy the checkout to where you may write."
)

FIRST = (
    "import sys; "
    'sys.meta_path.sort(key=lambda each: not getattr(each, "__module__", "").startswith("__editable___fastopt_"))\n'
)
"""Looks for an editable installation of fastopt first.

setuptools looks for it last. Python started beside a checkout named `fastopt` would take that folder for a package
without modules, and Python started in the checkout would find `fastopt` without `fastopt.kernels`.
"""


def enabled(variable: str) -> bool:
    value = os.environ.get(variable, "1")
    if value not in ("0", "1"):
        raise SystemExit(f"{variable}={value!r}: expected 0 or 1")
    return value == "1"


def write(path: Path, text: str) -> None:
    """Write a file, unless it is so already."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SystemExit(NOT_WRITABLE.format(error=error)) from None


def definitions(name: str) -> ModuleType:
    """A module of `fastopt.definitions`; `fastopt` itself needs installed kernels to be imported."""
    bare = ModuleType("fastopt")
    bare.__path__ = [str(PACKAGE)]
    sys.modules |= {"fastopt": bare, "fastopt.kernels": kernels}
    return importlib.import_module(f"fastopt.definitions.{name}")


def module_at(path: Path) -> ModuleType:
    """A module of the standard library alone, imported without the packages that it is in."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def extensions() -> list[Extension]:
    if not enabled("FASTOPT_BUILD_EXTENSION"):
        return []
    import Cython
    import numpy as np
    from Cython.Build import cythonize

    sources = {"_coefficients": cython_source.coefficients_source()}
    sources |= {cpu.module_name(level): cython_source.loops_source(level) for level in LEVELS}
    table = list(definitions("signatures").signatures().values())
    sources |= {"updates": updates_source.updates_source(table)}
    write(PACKAGE / "updates.pxd", updates_source.updates_pxd(table))
    for name, text in sources.items():
        write(GENERATED / f"{name}.pyx", text)
    found = module_at(TORCH / "found.py")
    codes = {each.name: each.value for kind in (found.Found, found.NoSegment) for each in kind}
    write(INCLUDE / "constants.pxi", constants_source.constants_source(vars(constants)))
    write(INCLUDE / "codec_keys.pxi", codecs_source.keys_source())
    write(INCLUDE / "found.pxi", constants_source.constants_source(codes))
    for source in NATIVE.glob("*.pxd"):
        write(INCLUDE / "fastopt" / "kernels" / "native" / source.name, source.read_text(encoding="utf-8"))

    def extension(name: str, source: Path, flags: list[str]) -> Extension:
        relative = os.path.relpath(source, HERE)
        return Extension(
            name,
            [relative],
            include_dirs=[np.get_include(), "kernels/native"],
            depends=[
                str(path.relative_to(HERE))
                for folder in (NATIVE, TORCH, INCLUDE)
                for path in sorted(folder.glob("*.[ph]*"))
                if path.suffix in (".pxd", ".pxi", ".h")
            ],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
            extra_compile_args=[*COMPILE, *flags],
        )

    modules = [
        extension("fastopt.kernels.native.engine", NATIVE / "engine.pyx", []),
        extension("fastopt.kernels.native._coefficients", GENERATED / "_coefficients.pyx", []),
        extension("fastopt.torch.stepping.native_walk", TORCH / "native_walk.pyx", []),
        extension("fastopt.updates", GENERATED / "updates.pyx", []),
    ]
    for level in LEVELS:
        march = [f"-march={level}"] if IS_X86 else []
        name = cpu.module_name(level)
        modules.append(
            extension(f"fastopt.kernels.native.{name}", GENERATED / f"{name}.pyx", [*march, *VECTORS[level]])
        )
    c_sources = GENERATED / f"cython-{Cython.__version__}-numpy-{np.__version__}"  # Others would write other text.
    compiled = cythonize(
        modules,
        build_dir=os.path.relpath(c_sources, HERE),
        include_path=[str(INCLUDE), str(HERE)],
        language_level=3,
        quiet=True,
    )
    write(PACKAGE / "updates_api.h", next(c_sources.rglob("updates_api.h")).read_text(encoding="utf-8"))
    return compiled


class BuildExtensions(build_ext):
    """Compiles on all cores; adds OpenMP to the engine. What is missing is said in one line, and first."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or True  # as many as there are cores
        self.force = True  # What need not be compiled again is known by its fingerprint, not by its date.

    def build_extensions(self) -> None:
        self.require("int main(void) { return 0; }", NO_COMPILER)
        folders = [f"-I{folder}" for folder in (*self.compiler.include_dirs, *self.include_dirs)]
        self.require("#include <Python.h>\nint main(void) { return 0; }", NO_HEADERS, folders)
        if enabled("FASTOPT_BUILD_OPENMP"):
            compile_flags, link_flags = OPENMP.get(sys.platform, OPENMP["linux"])
            program = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }"
            self.require(program, NO_OPENMP, [*compile_flags, *link_flags])
            for extension in self.extensions:
                if extension.name.endswith(".engine"):
                    extension.extra_compile_args += compile_flags
                    extension.extra_link_args += link_flags
        super().build_extensions()

    def require(self, program: str, message: str, flags: list[str] | None = None) -> None:
        """End the build with a message, after what the compiler said, unless it can compile and link a program."""
        compiler = getattr(self.compiler, "compiler", None)
        if compiler is None:
            return  # Microsoft's, which setuptools looks for, and says so
        flags = flags or []
        link = shlex.split(os.environ.get("LDFLAGS", ""))  # which setuptools gives the linker alone
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "check.c"
            source.write_text(program + "\n")
            command = [*compiler, str(source), "-o", str(Path(folder) / "check"), *flags, *link]
            try:
                result = subprocess.run(command, capture_output=True, text=True, check=False)
            except OSError as error:
                problem = "is not there" if isinstance(error, FileNotFoundError) else f"cannot run ({error.strerror})"
            else:
                if not result.returncode:
                    return
                print(result.stderr.strip(), file=sys.stderr)
                problem = "cannot compile and link a program"
        words = dict(compiler=" ".join(compiler[: 2 if "cache" in compiler[0] else 1]), problem=problem)
        raise SystemExit(message.format(**words, flags=" ".join(flags)))

    def build_extension(self, extension: Extension) -> None:
        """Compile a module, unless the same has been compiled before."""
        built = Path(self.get_ext_fullpath(extension.name))
        fingerprint = self.fingerprint(extension)
        kept = COMPILED / f"{fingerprint}-{built.name}"
        if fingerprint and kept.exists():
            built.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(kept, built)
            kept.touch()  # The oldest are removed.
            return
        super().build_extension(extension)
        if fingerprint:
            COMPILED.mkdir(parents=True, exist_ok=True)
            unfinished = kept.with_suffix(f".{os.getpid()}")
            shutil.copy(built, unfinished)
            unfinished.replace(kept)
            earlier = sorted(COMPILED.glob(f"*-{built.name}"), key=lambda path: path.stat().st_mtime)
            for path in earlier[:-MOST_COMPILED]:
                path.unlink(missing_ok=True)

    def fingerprint(self, extension: Extension) -> str:
        """A digest of the text, the compiler, its flags, Python and NumPy; "" where that does not say all."""
        import numpy as np

        commands = [getattr(self.compiler, name, None) for name in ("compiler", "compiler_so", "linker_so")]
        flags = [*extension.extra_compile_args, *extension.extra_link_args]
        if None in commands or "-march=native" in flags + commands[1]:
            return ""
        version = subprocess.run([*commands[0], "--version"], capture_output=True, text=True, check=False).stdout
        paths = {name: os.environ.get(name) for name in ("CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH")}
        texts = [Path(each).read_text(encoding="utf-8") for each in (*extension.sources, *sorted(NATIVE.glob("*.h")))]
        texts = [WHERE_NUMPY_IS.sub("", text) for text in texts]
        numpy = np.__version__ if any('#include "numpy/' in text for text in texts) else None
        described = (sys.version, numpy, commands, version, flags, extension.define_macros, paths, texts)
        return hashlib.sha256(repr(described).encode()).hexdigest()[:20]


class BuildPackages(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:
            Path(self.get_finalized_command("install").install_lib, "fastopt_first.pth").write_text(FIRST)


class Build(build):
    """Compiles first, so that what is missing is said under no list of copied files; leaves nothing of other builds."""

    sub_commands = sorted(build.sub_commands, key=lambda row: row[0] != "build_ext")

    def run(self) -> None:
        if Path(self.build_base) in Path(self.build_lib).parents:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


def readme() -> str:
    """README with links that also work elsewhere, as on PyPI: into the repository, as it was at this version."""
    metadata = (HERE / "pyproject.toml").read_text(encoding="utf-8")
    (repository,) = re.findall(r'^Repository = "(.*)"$', metadata, re.MULTILINE)
    (version,) = re.findall(r'^__version__ = "(.*)"$', (PACKAGE / "_version.py").read_text("utf-8"), re.MULTILINE)
    text = (HERE / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[([^]]*)\]\((?!https?:|#)", rf"![\1]({repository}/raw/v{version}/", text)
    return re.sub(r"(?<=\]\()(?!https?:|#)", f"{repository}/blob/v{version}/", text)


for path, text in definitions("stubs").stubs().items():
    write(PACKAGE / path, text)
enabled("FASTOPT_BUILD_OPENMP")  # An error now, rather than after rendering everything.
setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    ext_modules=extensions(),
    cmdclass={"build": Build, "build_ext": BuildExtensions, "build_py": BuildPackages},
)
