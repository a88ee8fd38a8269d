# SPDX-License-Identifier: MIT
"""
The extension of the package millrace, with libmillrace in it: pip install ./worker-sdk/python

Nothing has to be built or installed before; the sources of the library are taken from the tree around this folder.
"""
import glob
import os

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.relpath(os.path.join(HERE, "..", ".."), HERE)


def sources(*patterns):
    found = sorted(f for p in patterns for f in glob.glob(os.path.join(HERE, TOP, p)))
    return [os.path.relpath(f, HERE) for f in found]


class BuildBelow(build_ext):
    """Objects of ../../base and so on shall land in the build folder as well."""

    def finalize_options(self):
        super().finalize_options()
        self.build_temp = os.path.join(self.build_temp, "worker-sdk", "python")


setup(cmdclass={"build_ext": BuildBelow}, ext_modules=[Extension(
    "millrace._core",
    sources=["src/core.c", "src/core_frame.c"] + sources("worker-sdk/src/*.c", "proto/*.c", "base/*.c"),
    include_dirs=[TOP, os.path.join(TOP, "worker-sdk", "include")],
    define_macros=[("_GNU_SOURCE", "1"), ("MR_VERSION", '"0.1.0"')],
    extra_compile_args=["-std=gnu17", "-O2", "-fvisibility=hidden", "-fno-strict-aliasing", "-Wno-unused-parameter"],
)])
