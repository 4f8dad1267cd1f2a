#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks the include rule: components include only downwards.

    check_layers.py [ROOT]

Looks at every #include of include/ and src/ and reports, as file:line,
 - an include of a component that is not among those allowed below,
 - MLX in a component that must do without it,
 - MLX's non-public headers outside src/kernels/mlx_internals.h, and that one
   outside src/kernels/cpu and src/kernels/cuda,
 - anything but std, MLX and public headers in a public header,
 - an #include "..." that names no file, and source files that are not
   snake_case.
"""

import re
import sys
from pathlib import Path

LAYERS = {
    "base": set(),
    "formats": {"base"},
    "hub": {"base"},
    "tokenizer": {"base", "formats"},
    "chat": {"base", "formats"},
    "kernels": {"base"},
    "weights": {"base", "formats", "kernels"},
    "sampling": {"base", "formats", "kernels"},
    "nn": {"base", "weights", "kernels"},
    "models": {"base", "weights", "kernels", "nn"},
    # Prompt caches are safetensors files bound to a model's arguments.
    "generate": {"base", "formats", "weights", "nn", "models", "sampling"},
}
LAYERS["engine"] = {
    "base", "formats", "tokenizer", "chat", "kernels", "weights", "sampling",
    "nn", "models", "generate",
}  # fmt: skip
LAYERS["convert"] = LAYERS["engine"] - {"engine"}
LAYERS["server"] = set(LAYERS)
LAYERS["cli"] = set(LAYERS)

WITHOUT_MLX = {"base", "formats", "hub", "tokenizer", "chat"}

# A public header belongs to the component that implements it. Folders come
# before files; a header that is in neither list is an error, so that the list
# stays whole.
PUBLIC = {
    "models/": "models",
    "nn/": "nn",
    "error.h": "base",
    "device_error.h": "base",
    "config.h": "base",
    "matrix.h": "kernels",
    "most_likely.h": "kernels",
    "quant_format.h": "kernels",
    "quantization.h": "kernels",
    "tokenizer.h": "tokenizer",
    "streaming_detokenizer.h": "tokenizer",
    "chat.h": "chat",
    "messages.h": "chat",
    "chat_template.h": "chat",
    "chat_parser.h": "chat",
    "convert.h": "convert",
    "model_args.h": "weights",
    "generation_config.h": "weights",
    "sampling.h": "sampling",
    "kernels.h": "kernels",
    "step_input.h": "nn",
    "kv_cache.h": "nn",
    "prompt_cache.h": "generate",
    "load_options.h": "models",
    "load_model.h": "models",
    "model.h": "models",
    "generate.h": "generate",
}

# MLX's public C++ API: what its documentation has programs include. All else
# under mlx/ changes without notice.
MLX_PUBLIC = {
    "mlx/" + name + ".h"
    for name in """allocator array compile compile_impl device distributed/distributed
    distributed/ops dtype dtype_utils einsum event export fast fft io linalg memory
    mlx ops primitives random stream threadpool transforms transforms_impl types/half_types
    utils version backend/metal/metal backend/cuda/cuda""".split()
}
PUBLIC_THIRD_PARTY = ("mlx/",)
INTERNALS = "kernels/mlx_internals.h"
# What the CUDA backend needs of them, in one file.
CUDA_INTERNALS = "src/kernels/mlx_cuda_internals.cpp"
BACKENDS = re.compile(r"/src/kernels/(cpu|cuda)/")

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
SNAKE_CASE = re.compile(r"^[a-z0-9_]+\.(h|cpp|cu|cuh|metal|inc|h\.in)$")


def public_component(name: str) -> str | None:
    for prefix, component in PUBLIC.items():
        if prefix.endswith("/") and name.startswith(prefix):
            return component
    return PUBLIC.get(name)


class Checker:
    def __init__(self, root: Path):
        self.root = root
        self.errors: list[str] = []
        self.num_includes = 0

    def check(self) -> int:
        for path in sorted((self.root / "include" / "qwen3_mlx").rglob("*")):
            if path.is_file():
                name = path.relative_to(self.root / "include" / "qwen3_mlx")
                self.check_public(path, name.as_posix())
        for path in sorted((self.root / "src").rglob("*")):
            if path.is_file() and path.suffix in {".h", ".cpp", ".cu", ".cuh"}:
                name = path.relative_to(self.root / "src").as_posix()
                self.check_source(path, name)
        return len(self.errors)

    def error(self, path: Path, line: int, message: str):
        self.errors.append(f"{path.relative_to(self.root)}:{line}: {message}")

    def includes(self, path: Path):
        text = path.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            if match := INCLUDE.match(line):
                self.num_includes += 1
                yield number, match[1] == "<", match[2]

    def check_name(self, path: Path):
        if not SNAKE_CASE.match(path.name):
            self.error(path, 1, "file names are snake_case.{h,cpp,cu,cuh}")

    def check_public(self, path: Path, name: str):
        self.check_name(path)
        component = public_component(name)
        if component is None:
            self.error(
                path, 1, "public header of no component: add it to PUBLIC in "
                "tests/layers/check_layers.py"
            )  # fmt: skip
            return
        for line, angled, target in self.includes(path):
            if target.startswith("qwen3_mlx/"):
                self.check_component(path, line, component, target)
            elif target.startswith("mlx/"):
                self.check_mlx(path, line, component, target)
            elif not angled or "/" in target or target.endswith(".h"):
                self.error(
                    path, line, f'a public header includes "{target}"; only '
                    "std, MLX and public headers are allowed"
                )  # fmt: skip

    def check_source(self, path: Path, name: str):
        self.check_name(path)
        component = name.split("/")[0]
        if component not in LAYERS:
            self.error(path, 1, f'"{component}" is no component of the design')
            return
        for line, angled, target in self.includes(path):
            if target.startswith("mlx/"):
                self.check_mlx(path, line, component, target)
            elif target.startswith("qwen3_mlx/") or not angled:
                self.check_component(path, line, component, target)

    def check_component(self, path: Path, line: int, component: str, target: str):
        """`target` is a path below include/ or src/, or beside `path`."""
        if target.startswith("qwen3_mlx/"):
            found = public_component(target.removeprefix("qwen3_mlx/"))
            exists = (self.root / "include" / target).is_file()
        elif (path.parent / target).is_file():
            return
        else:
            found = target.split("/")[0]
            exists = (self.root / "src" / target).is_file()
            if found not in LAYERS:
                if not (path.parent / target).is_file():
                    self.error(path, line, f'"{target}" is no file of this project')
                return
        if target == INTERNALS and not BACKENDS.search(path.as_posix()):
            self.error(path, line, f"only src/kernels/cpu and cuda include {INTERNALS}")
        if not exists and not target.endswith(".inc"):
            self.error(path, line, f'"{target}" does not exist')
        elif found != component and found not in LAYERS[component]:
            allowed = ", ".join(sorted(LAYERS[component])) or "nothing"
            self.error(
                path, line, f'{component} includes "{target}" of {found}; '
                f"allowed: {allowed}"
            )  # fmt: skip

    def check_mlx(self, path: Path, line: int, component: str, target: str):
        if component in WITHOUT_MLX:
            self.error(path, line, f"{component} must not use MLX ({target})")
        elif target not in MLX_PUBLIC and not path.as_posix().endswith(
            (INTERNALS, CUDA_INTERNALS)
        ):
            self.error(
                path, line, f"{target} is not public in MLX; only src/{INTERNALS} "
                "includes such headers"
            )  # fmt: skip

def main() -> int:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    checker = Checker(root)
    checker.check()
    for error in checker.errors:
        print(error)
    print(f"{checker.num_includes} includes, {len(checker.errors)} errors")
    return 1 if checker.errors or checker.num_includes == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
