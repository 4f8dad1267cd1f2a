#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compares our chat templates with transformers' own renderer.

Every template in the llama-cpp-python sdist (fetched by pip, pinned by hash)
is rendered for a set of conversations and arguments by transformers'
render_jinja_template and by the test program template_batch; the texts must be
equal byte for byte, and where one fails the other must fail too.

  python scripts/parity_templates.py --program build/text/tests/chat/template_batch
  ... --write    also writes the table and the goldens (hashes of the texts)

Needs transformers and jinja2 (scripts/requirements-oracle.txt).
"""

import argparse
import copy
import datetime
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tarfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "llama-cpp-python==0.3.36"
SDIST = "llama_cpp_python-0.3.36.tar.gz"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
FOLDER = "vendor/llama.cpp/models/templates/"
TABLE = "benchmarks/results/template_parity.md"
NOW = datetime.datetime(2026, 11, 23, 4, 5, 6)


def fetch_templates():
    cache = pathlib.Path(
        os.environ.get("QWEN3_MLX_CACHE", ROOT / ".cache" / "downloads")
    )
    path = cache / SDIST
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary",
             PACKAGE.split("==")[0], "-d", str(cache), PACKAGE],
            check=True,
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"{path}: expected sha256 {SHA256}, found {digest}")
    out = {}
    with tarfile.open(path) as tar:
        for member in tar:
            if FOLDER in member.name and member.name.endswith(".jinja"):
                name = pathlib.PurePosixPath(member.name).name
                out[name] = tar.extractfile(member).read().decode()
    return dict(sorted(out.items()))


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a place — now & \"here\" <fast>",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Name, as in 'Zürich'"},
                    "days": {"type": "integer", "minimum": 1, "default": 3},
                    "units": {"type": "string", "enum": ["C", "F"]},
                    "scale": {"type": ["number", "null"], "default": 1.5},
                    "tags": {"type": "array", "items": {"type": "string"}},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "now",
            "description": "The time",
            "parameters": {"type": "object", "properties": {}},
        },
    },
]
SYSTEM = {"role": "system", "content": "You are terse.\nAnd kind. "}
USER = {"role": "user", "content": "Hello, who are you?"}


def call(name, arguments, call_id="abcdef123"):
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def conversations():
    weather = call("get_weather", {"city": "Zürich", "days": 2, "scale": 0.1})
    asked = {"role": "user", "content": "Weather in Zürich?"}
    called = {"role": "assistant", "content": "", "tool_calls": [weather]}
    result = {
        "role": "tool",
        "name": "get_weather",
        "tool_call_id": "abcdef123",
        "content": '{"temp": 3, "sky": "grey ☁"}',
    }
    return {
        "user": [USER],
        "system": [SYSTEM, USER],
        "turns": [
            SYSTEM,
            USER,
            {"role": "assistant", "content": "  A model.\n"},
            {"role": "user", "content": "Which?"},
            {"role": "assistant", "content": "Yours."},
            {"role": "user", "content": "Good."},
        ],
        "ends with assistant": [USER, {"role": "assistant", "content": "I am"}],
        "unicode": [
            {"role": "system", "content": "Ünïcödé \u00a0\u2028 系统 \U0001f600"},
            {"role": "user", "content": "\u0085a\u1680b\ufeffc \x1c\x00\x7f \\n \"q\" 'q' <b>&amp;</b>"},
        ],
        "empty": [{"role": "system", "content": ""}, {"role": "user", "content": ""}],
        "null content": [USER, {"role": "assistant", "content": None}, USER],
        "no messages": [],
        "parts": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "One. "},
                    {"type": "text", "text": "Two."},
                ],
            }
        ],
        "image": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "url": "x.png"},
                    {"type": "text", "text": "What is it?"},
                ],
            }
        ],
        "tool round": [SYSTEM, asked, called, result],
        "tool answered": [
            SYSTEM, asked, called, result,
            {"role": "assistant", "content": "3 degrees, grey."}, USER,
        ],
        "tool null": [
            asked, dict(called, content=None), result, USER,
        ],
        "two calls": [
            asked,
            {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [weather, call("now", {}, "fedcba321")],
            },
            result,
            {"role": "tool", "name": "now", "tool_call_id": "fedcba321", "content": "noon"},
        ],
        "string arguments": [
            asked,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [call("get_weather", '{"city": "Zürich"}')],
            },
            result,
        ],
        "nested arguments": [
            asked,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    call(
                        "get_weather",
                        {"city": "A\"b\\c\n", "tags": ["x", {"y": [1, 2.5, True, None]}], "n": -1e-7},
                    )
                ],
            },
            result,
        ],
        "reasoning": [
            USER,
            {
                "role": "assistant",
                "content": "Four.",
                "reasoning_content": "2 + 2\nis four.",
            },
            {"role": "user", "content": "And 3 + 3?"},
        ],
        "reasoning last": [
            USER,
            {"role": "assistant", "content": "Four.", "reasoning": "2 + 2"},
        ],
        "reasoning inside": [
            USER,
            {"role": "assistant", "content": "<think>\nhm\n</think>\n\nFour."},
            {"role": "user", "content": "Sure?"},
        ],
        "reasoning and call": [
            asked,
            dict(called, reasoning_content="I should look."),
            result,
        ],
        "thinking field": [
            USER, {"role": "assistant", "content": "x", "thinking": "deep"}, USER,
        ],
        "late system": [USER, SYSTEM, USER],
        "unknown role": [{"role": "narrator", "content": "Once"}, USER],
        "developer": [{"role": "developer", "content": "Obey."}, USER],
        "no content": [{"role": "user"}],
        "no role": [{"content": "x"}],
    }


def cases():
    """(name, request) for every conversation and arguments."""
    variants = {
        "": {},
        "prompt": {"add_generation_prompt": True},
        "prompt, thinking": {
            "add_generation_prompt": True,
            "chat_template_kwargs": {"enable_thinking": True, "thinking": True},
        },
        "prompt, no thinking": {
            "add_generation_prompt": True,
            "chat_template_kwargs": {"enable_thinking": False, "thinking": False},
        },
        "tools": {"tools": TOOLS, "add_generation_prompt": True},
        "tools, extras": {
            "tools": TOOLS,
            "documents": [{"title": "T", "text": "Some text."}],
            "chat_template_kwargs": {
                "enable_thinking": True,
                "reasoning_effort": "high",
                "custom_tools": None,
                "tools_in_user_message": False,
                "add_vision_id": True,
                "date_string": "26 Jul 2024",
            },
        },
        "no tools": {"tools": [], "add_generation_prompt": True},
    }
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    for conversation, messages in conversations().items():
        for variant, arguments in variants.items():
            request = {"messages": copy.deepcopy(messages), **arguments, **tokens}
            yield f"{conversation} | {variant}", request


def reference(template, request):
    import transformers.utils.chat_template_utils as utils

    class FixedTime(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return NOW

    utils.datetime = FixedTime
    request = copy.deepcopy(request)
    kwargs = {
        k: request[k] for k in ("bos_token", "eos_token")
    } | request.get("chat_template_kwargs", {})
    try:
        rendered, _ = utils.render_jinja_template(
            [request["messages"]],
            tools=request.get("tools"),
            documents=request.get("documents"),
            chat_template=template,
            add_generation_prompt=request.get("add_generation_prompt", False),
            **kwargs,
        )
        return {"ok": rendered[0]}
    except Exception as e:  # noqa: BLE001 - any failure is the answer
        return {"error": f"{type(e).__name__}: {e}"}


def write_table(report, table):
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True,
    ).stdout.strip()
    rows = [
        f"| {name} | {row['equal']} | {row['both fail']} | {row['differ']} |"
        for name, row in table.items()
    ]
    lines = [
        "# Chat templates against transformers",
        "",
        f"{datetime.date.today()}, commit {commit}. Each template is rendered for all",
        "conversations and arguments of the script: the texts are equal byte for byte, or",
        "both sides fail.",
        "",
        f"    python3 {pathlib.Path(sys.argv[0]).as_posix()} --program PROGRAM --write",
        "",
        *(f"    {line}" for line in report),
        "",
        "| template | equal | both fail | differ |",
        "|---|---|---|---|",
        *rows,
    ]
    (ROOT / TABLE).write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", required=True, type=pathlib.Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--show", type=int, default=5, help="differences to print")
    args = parser.parse_args()

    import jinja2
    import transformers

    templates = fetch_templates()
    jobs = [
        (template, case, request)
        for template in templates
        for case, request in cases()
    ]
    lines = "".join(
        json.dumps({"template": templates[t], "request": r}) + "\n"
        for t, _, r in jobs
    )
    ours = subprocess.run(
        [args.program], input=lines.encode(), stdout=subprocess.PIPE, check=True
    ).stdout.decode().split("\n")[:-1]
    assert len(ours) == len(jobs)

    table = {t: {"equal": 0, "both fail": 0, "differ": 0} for t in templates}
    goldens = {t: hashlib.sha256() for t in templates}
    shown = 0
    for (name, case, request), line in zip(jobs, ours):
        expected = reference(templates[name], request)
        got = json.loads(line)
        if "ok" in expected and expected == got:
            kind = "equal"
        elif "error" in expected and "error" in got:
            kind = "both fail"
        else:
            kind = "differ"
            if shown < args.show:
                shown += 1
                print(f"--- {name} | {case}\nexpected {expected}\ngot      {got}")
        table[name][kind] += 1
        text = expected.get("ok")
        goldens[name].update(b"-" if text is None else text.encode() + b"\0")
    total = {k: sum(row[k] for row in table.values()) for k in table[next(iter(table))]}
    renderable = sum(1 for row in table.values() if row["equal"])
    report = [
        f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}, "
        f"{PACKAGE}",
        f"{len(templates)} templates, {renderable} of them rendered by "
        f"transformers; {len(jobs)} renderings: {total['equal']} equal, "
        f"{total['both fail']} fail in both, {total['differ']} differ",
    ]
    print("\n".join(report))
    if args.write:
        write_table(report, table)
        goldens_file = ROOT / "tests" / "goldens" / "chat" / "template_goldens.json"
        goldens_file.write_text(
            json.dumps({t: h.hexdigest() for t, h in goldens.items()}, indent=1) + "\n"
        )
    sys.exit(1 if total["differ"] else 0)


if __name__ == "__main__":
    main()
