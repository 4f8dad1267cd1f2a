#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Schemathesis over /openapi.json: valid and invalid requests of every
operation get answers that the document describes, and never a 5xx.

    schema.py --model FOLDER [--examples 100]

A tiny model makes it fast: build/release/tests/testing/write_tiny_chat_model
FOLDER writes one.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from harness import Server, find_program


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--examples", type=int, default=100)
    arguments = parser.parse_args()
    options = ["--max-memory", "512M", "--max-tokens", "4", "--timeout", "20"]
    tool = Path(sys.executable).parent / "schemathesis"
    with Server(find_program(), arguments.model, *options) as server:
        done = subprocess.run([
            str(tool), "run", server.url + "/openapi.json",
            "--max-examples", str(arguments.examples),
            "--mode", "all",
            "--phases", "examples,coverage,fuzzing",
            "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,"
            "response_schema_conformance,negative_data_rejection",
            "--request-timeout", "60", "--generation-deterministic",
            "--continue-on-failure", "--no-color",
        ])
        if not server.alive:
            sys.exit("the server is gone")
    sys.exit(done.returncode)


main()
