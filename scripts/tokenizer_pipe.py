# SPDX-License-Identifier: MIT
"""The other end of tests/tokenizer/tokenizer_pipe.cpp."""

import struct
import subprocess
from pathlib import Path

import numpy as np

ENCODE, DECODE, STREAM, TIME, TIME_ALL_CORES = range(5)


class TokenizerPipe:
    """Our tokenizer in a process of its own."""

    def __init__(self, program: Path, tokenizer: Path):
        self.process = subprocess.Popen(
            [program, tokenizer], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def encode(self, texts: list[bytes], add_special=False, plain_special=False):
        """Ids of each text, as uint32 arrays."""
        flags = int(add_special) | 2 * int(plain_special)
        self._ask(ENCODE, flags, texts, 1)
        return [np.frombuffer(item, "<u4") for item in self._answer(len(texts), 4)]

    def decode(self, batch, skip_special=False, streaming=False) -> list[bytes]:
        items = [np.asarray(ids, dtype="<u4").tobytes() for ids in batch]
        self._ask(STREAM if streaming else DECODE, int(skip_special), items, 4)
        return self._answer(len(items), 1)

    def seconds(self, texts: list[bytes], rounds: int, all_cores=False) -> float:
        """The fastest of `rounds` encodings of all texts."""
        self._ask(TIME_ALL_CORES if all_cores else TIME, rounds, texts, 1)
        low, high = struct.unpack("<II", self._answer(1, 4)[0])
        return (low | high << 32) / 1e9

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _ask(self, operation, flags, items, width) -> None:
        parts = [struct.pack("<III", operation, flags, len(items))]
        for item in items:
            parts.append(struct.pack("<I", len(item) // width))
            parts.append(item)
        self.process.stdin.write(b"".join(parts))
        self.process.stdin.flush()

    def _answer(self, count, width) -> list[bytes]:
        answer = []
        for _ in range(count):
            (size,) = struct.unpack("<I", self.process.stdout.read(4))
            answer.append(self.process.stdout.read(size * width))
        return answer
