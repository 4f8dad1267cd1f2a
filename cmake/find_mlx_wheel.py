#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Prints where the CMake package lies that MLX's wheel has brought; fails without one.

`python -m mlx --cmake-dir` says so too, but imports MLX, and MLX made for NVIDIA GPUs
needs their driver, which a machine that only builds has not.
"""

import importlib.util
import sys
from pathlib import Path

spec = importlib.util.find_spec("mlx")
for folder in spec.submodule_search_locations if spec else []:
    package = Path(folder) / "share/cmake/MLX"
    if package.is_dir():
        print(package)
        sys.exit()
sys.exit("MLX is not installed in this Python")
