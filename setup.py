"""Builds the compiled modules: renders the rules as Cython, then compiles them once per instruction set.

Environment variables
---------------------
FASTOPT_BUILD_OPENMP=0      compile without OpenMP: the result works on one thread. Without it, a compiler that
                            lacks OpenMP fails the build.
FASTOPT_BUILD_EXTENSION=0   compile nothing: only the numba and reference backends.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import kernels  # noqa: E402
from kernels import constants, cpu  # noqa: E402  (these import the standard library alone)
from kernels.render import constants_source, cython_source, updates_source  # noqa: E402

NATIVE = HERE / "kernels" / "native"
TORCH = HERE / "fastopt" / "torch" / "stepping"
GENERATED = HERE / "build" / "generated"
INCLUDE = GENERATED / "include"
"""Where Cython finds constants, and the declarations of compiled modules by the names they are installed under."""
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
# `select` a branch, and neither vectorises.
COMPILE = ["-O3", "-fno-fast-math", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
VECTORS = {"x86-64": [], "x86-64-v3": [], "x86-64-v4": ["-mprefer-vector-width=512", "-funroll-loops"], cpu.OTHER: []}
OPENMP = {
    "darwin": (["-Xpreprocessor", "-fopenmp"], ["-lomp"]),
    "linux": (["-fopenmp"], ["-fopenmp"]),
}

NO_OPENMP = """
The C compiler ({compiler}) cannot compile and link an OpenMP program with {flags}:

{output}

fastopt's compiled module runs on several threads through OpenMP. Install it (Debian, Ubuntu: `apt install gcc`, which
brings libgomp; macOS: `brew install libomp`), or set FASTOPT_BUILD_OPENMP=0 to build for one thread.
"""


def enabled(variable: str) -> bool:
    value = os.environ.get(variable, "1")
    if value not in ("0", "1"):
        raise SystemExit(f"{variable}={value!r}: expected 0 or 1")
    return value == "1"


def write(path: Path, text: str) -> None:
    """Write a file, unless it is so already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


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
    compiled = cythonize(
        modules,
        build_dir=os.path.relpath(GENERATED, HERE),
        include_path=[str(INCLUDE), str(HERE)],
        language_level=3,
        quiet=True,
    )
    shutil.copy(next(GENERATED.rglob("updates_api.h")), PACKAGE)
    return compiled


class BuildExtensions(build_ext):
    """Compiles on all cores; adds OpenMP to the engine, or says loudly why it cannot."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or True  # as many as there are cores

    def build_extensions(self) -> None:
        if enabled("FASTOPT_BUILD_OPENMP"):
            compile_flags, link_flags = OPENMP.get(sys.platform, OPENMP["linux"])
            self.require_openmp(compile_flags, link_flags)
            for extension in self.extensions:
                if extension.name.endswith(".engine"):
                    extension.extra_compile_args += compile_flags
                    extension.extra_link_args += link_flags
        super().build_extensions()

    def require_openmp(self, compile_flags: list[str], link_flags: list[str]) -> None:
        compiler = list(self.compiler.compiler)
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "check.c"
            source.write_text("#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n")
            command = [*compiler, str(source), "-o", str(Path(folder) / "check"), *compile_flags, *link_flags]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            flags = " ".join([*compile_flags, *link_flags])
            raise SystemExit(NO_OPENMP.format(compiler=compiler[0], flags=flags, output=result.stderr.strip()))


for path, text in definitions("stubs").stubs().items():
    write(PACKAGE / path, text)
enabled("FASTOPT_BUILD_OPENMP")  # An error now, rather than after rendering everything.
setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildExtensions},
)
