# SPDX-License-Identifier: MIT
"""Starts the program's server for a test and talks to it."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def is_whole(reply):
    head, end, body = reply.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    return bool(end and length) and len(body) >= int(length[1])


class Server:
    """`qwen3-mlx serve` on a free port, for the length of a with block."""

    def __init__(self, program, model, *options):
        self.command = [str(program), "serve", "--model", str(model)]
        self.command += ["--port", "0", *map(str, options)]
        self.lines = []

    def __enter__(self):
        self.process = subprocess.Popen(
            self.command, stderr=subprocess.PIPE, text=True, errors="replace")
        for line in self.process.stderr:
            self.lines.append(line)
            found = re.search(r"listening address=http://([^:]+):(\d+)", line)
            if found:
                self.host, self.port = found[1], int(found[2])
                break
        else:
            raise RuntimeError("no server: " + "".join(self.lines))
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        return self

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
        self.reader.join(5)

    @property
    def url(self):
        return f"http://{self.host}:{self.port}"

    @property
    def alive(self):
        return self.process.poll() is None

    def memory(self):
        """Resident bytes."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) * 1024

    def request(self, method, path, body=None, headers=None, timeout=300):
        """Status, headers and body."""
        connection = http.client.HTTPConnection(
            self.host, self.port, timeout=timeout)
        try:
            headers = dict(headers or {})
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
                headers.setdefault("Content-Type", "application/json")
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def json(self, method, path, body=None, headers=None):
        status, _, text = self.request(method, path, body, headers)
        return status, json.loads(text)

    def raw(self, data, timeout=15):
        """The first response to these bytes, or what came until a silence."""
        with socket.create_connection((self.host, self.port), timeout) as link:
            out = b""
            try:
                link.sendall(data)
                while not is_whole(out):
                    piece = link.recv(65536)
                    if not piece:
                        break
                    out += piece
            except (TimeoutError, ConnectionError):
                pass
            return out

    def metric(self, name, headers=None):
        _, _, text = self.request("GET", "/metrics", headers=headers)
        found = re.search(rf"^qwen3_mlx_{name} (\S+)$", text.decode(), re.M)
        return float(found[1])


def find_program():
    for preset in (os.environ.get("QWEN3_MLX_PROGRAM", ""),
                   ROOT / "build/release/src/cli/qwen3-mlx",
                   ROOT / "build/dev/src/cli/qwen3-mlx"):
        if preset and Path(preset).is_file():
            return Path(preset)
    raise SystemExit("build the program first, or set QWEN3_MLX_PROGRAM")


def default_model():
    model = os.environ.get("QWEN3_MLX_DEFAULT_MODEL") or (
        ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    if not Path(model).exists():
        raise SystemExit(f"{model} is not there; scripts/demo fetches it")
    return Path(model)


class Checks:
    """Counts what holds; says what does not."""

    def __init__(self):
        self.passed = 0
        self.failed = []

    def check(self, condition, name, detail=""):
        if condition:
            self.passed += 1
        else:
            self.failed.append(name)
            print(f"FAILED {name} {str(detail)[:400]}", flush=True)

    def report(self, title):
        print(f"{title}: {self.passed} passed, {len(self.failed)} failed",
              flush=True)
        return not self.failed
