from Cython.Build import cythonize
from setuptools import Extension, setup

import fastopt

setup(
    ext_modules=cythonize(
        [Extension("logistic", ["logistic.pyx"], extra_compile_args=["-O3"])],
        include_path=[fastopt.get_include()],  # where fastopt/updates.pxd is
    )
)
