#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Shows that check_layers.py finds what it is there to find."""

import tempfile
import unittest
from pathlib import Path

from check_layers import Checker


class CheckLayers(unittest.TestCase):
    def errors(self, files: dict[str, str]) -> list[str]:
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            checker = Checker(Path(folder).resolve())
            checker.check()
            return checker.errors

    def test_downward_includes_pass(self):
        files = {
            "include/qwen3_mlx/error.h": "#include <string>\n",
            "src/base/file.h": '#include "qwen3_mlx/error.h"\n',
            "src/formats/gguf.cpp": '#include "base/file.h"\n',
            "src/nn/linear.cpp": "#include <mlx/mlx.h>\n",
        }
        self.assertEqual(self.errors(files), [])

    def test_upward_include_is_named(self):
        files = {
            "src/formats/gguf.h": "",
            "src/base/file.cpp": '\n#include "formats/gguf.h"\n',
        }
        [error] = self.errors(files)
        self.assertIn("src/base/file.cpp:2: base includes", error)

    def test_upward_include_through_public_header(self):
        files = {
            "include/qwen3_mlx/model.h": "",
            "src/weights/plan.cpp": '#include "qwen3_mlx/model.h"\n',
        }
        [error] = self.errors(files)
        self.assertIn("of models", error)

    def test_text_code_does_without_mlx(self):
        [error] = self.errors({"src/chat/a.cpp": "#include <mlx/mlx.h>\n"})
        self.assertIn("chat must not use MLX", error)

    def test_private_mlx_headers(self):
        text = "#include <mlx/backend/cpu/encoder.h>\n"
        [error] = self.errors({"src/nn/a.cpp": text})
        self.assertIn("not public in MLX", error)
        self.assertEqual(self.errors({"src/kernels/mlx_internals.h": text}), [])

    def test_internals_only_in_backends(self):
        files = {"src/kernels/mlx_internals.h": ""}
        text = '#include "kernels/mlx_internals.h"\n'
        self.assertEqual(self.errors(files | {"src/kernels/cpu/a.cpp": text}), [])
        [error] = self.errors(files | {"src/kernels/ops.cpp": text})
        self.assertIn("only src/kernels/cpu and cuda", error)

    def test_public_headers_are_plain(self):
        text = "#include <nlohmann/json.hpp>\n"
        [error] = self.errors({"include/qwen3_mlx/config.h": text})
        self.assertIn("only std, MLX and public headers", error)

    def test_public_header_must_be_listed(self):
        [error] = self.errors({"include/qwen3_mlx/novel.h": ""})
        self.assertIn("add it to PUBLIC", error)

    def test_missing_file_and_name(self):
        files = {"src/base/BadName.cpp": '#include "base/gone.h"\n'}
        errors = self.errors(files)
        self.assertEqual(len(errors), 2)


if __name__ == "__main__":
    unittest.main()
