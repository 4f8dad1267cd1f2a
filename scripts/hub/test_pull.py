#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Pulls from a hub of its own on loopback, which fails in every way it can.

    scripts/hub/test_pull.py --program build/release/src/cli/qwen3-mlx

After each case the cache holds a complete snapshot whose bytes are right, or
nothing under a final name and an error that says why. Where the package
huggingface_hub is installed, both sides find what the other has cached.
"""

import argparse
import json
import os
import pty
import random
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from hub_server import COMMIT, File, Hub  # noqa: E402

PROGRAM = None
REPO = "acme/tiny-qwen"


def checkpoint_files(size=300_000):
    numbers = random.Random(7)
    index = {"metadata": {}, "weight_map": {
        "a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    return {
        "config.json": File(b'{"model_type": "qwen3"}\n'),
        "tokenizer.json": File(numbers.randbytes(50_000), lfs=True),
        "tokenizer_config.json": File(b"{}"),
        "additional_chat_templates/tools.jinja": File(b"{{ messages }}"),
        "model.safetensors.index.json": File(json.dumps(index).encode()),
        "model-00001-of-00002.safetensors": File(numbers.randbytes(size), lfs=True),
        "model-00002-of-00002.safetensors": File(numbers.randbytes(size // 2), lfs=True),
        "consolidated.safetensors": File(b"the same again", lfs=True),
        "README.md": File(b"not needed"),
        "onnx/model.safetensors": File(b"not needed"),
        "empty.json": File(b""),
    }  # fmt: skip


NEEDED = {
    "config.json", "tokenizer.json", "tokenizer_config.json",
    "additional_chat_templates/tools.jinja", "model.safetensors.index.json",
    "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
}  # fmt: skip


class PullTest(unittest.TestCase):
    def setUp(self):
        self.hub = Hub()
        self.addCleanup(self.hub.close)
        self.files = checkpoint_files()
        self.hub.repos[REPO] = self.files
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.home = Path(folder.name)
        self.cache = self.home / "hub"

    def environment(self, **more):
        clean = {
            name: value for name, value in os.environ.items()
            if not name.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
            and "proxy" not in name.lower()
        }  # fmt: skip
        return clean | {
            "HF_HOME": str(self.home), "HF_ENDPOINT": self.hub.endpoint,
            "QWEN3_MLX_HUB_DELAY_MS": "20",
        } | more  # fmt: skip

    def start(self, *arguments, **more):
        return subprocess.Popen(
            [PROGRAM, *arguments], env=self.environment(**more), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run_program(self, *arguments, **more):
        process = self.start(*arguments, **more)
        out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def pull(self, name=REPO, **more):
        return self.run_program("pull", name, **more)

    def assert_whole(self, snapshot, names=NEEDED):
        snapshot = Path(snapshot)
        found = {str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if not path.is_dir()}
        self.assertEqual(found, set(names))
        for name in names:
            path = snapshot / name
            self.assertTrue(path.is_symlink(), name)
            self.assertFalse(os.path.isabs(os.readlink(path)), name)
            self.assertEqual(path.read_bytes(), self.files[name].data, name)
        self.assert_blobs_right()
        self.assertEqual(list(self.cache.rglob("*.incomplete")), [])

    def assert_blobs_right(self):
        """Nothing under a final name is anything but the file of that hash."""
        by_etag = {file.etag: file.data for file in self.files.values()}
        for blob in (self.cache / "models--acme--tiny-qwen" / "blobs").glob("*"):
            if blob.suffix != ".incomplete":
                self.assertEqual(blob.read_bytes(), by_etag[blob.name], blob.name)

    def assert_pulls(self, **more):
        code, out, err = self.pull(**more)
        self.assertEqual(code, 0, err)
        self.assert_whole(out.strip())
        return out.strip()

    def assert_fails(self, *words, name=REPO, code=1, **more):
        status, out, err = self.pull(name, **more)
        self.assertEqual(status, code, err)
        self.assertEqual(out, "")
        for word in words:
            self.assertIn(word, err)
        self.assertNotIn(self.hub.token or "no token", err)
        snapshots = self.cache / "models--acme--tiny-qwen" / "snapshots"
        self.assertEqual(list(snapshots.glob("*")), [])
        self.assert_blobs_right()
        return err

    # What should work.

    def test_whole_checkpoint(self):
        snapshot = self.assert_pulls()
        self.assertEqual(Path(snapshot).name, COMMIT)
        ref = self.cache / "models--acme--tiny-qwen" / "refs" / "main"
        self.assertEqual(ref.read_text(), COMMIT)

    def test_second_pull_fetches_nothing(self):
        self.assert_pulls()
        served = self.hub.served
        self.assert_pulls()
        self.assertEqual(self.hub.served, served)

    def test_only_needed_files_are_asked_for(self):
        self.assert_pulls()
        asked = {path.split("/", 5)[5] for _, _, path, _, _ in self.hub.requests() if "/resolve/" in path}
        self.assertEqual(asked, NEEDED)

    def test_hub_cache_variable(self):
        self.cache = self.home / "elsewhere"
        self.assert_pulls(HF_HUB_CACHE=str(self.cache))

    def test_revision(self):
        self.hub.refs["refs/pr/3"] = "f" * 40
        code, out, err = self.pull(REPO + "@refs/pr/3")
        self.assertEqual(code, 0, err)
        self.assert_whole(out.strip())
        self.assertEqual(Path(out.strip()).name, "f" * 40)
        ref = self.cache / "models--acme--tiny-qwen" / "refs" / "refs" / "pr" / "3"
        self.assertEqual(ref.read_text(), "f" * 40)

    def test_commit_as_revision(self):
        code, out, err = self.pull(f"{REPO}@{COMMIT}")
        self.assertEqual(code, 0, err)
        self.assert_whole(out.strip())

    def test_one_file_and_its_parts(self):
        parts = [f"q4/tiny-0000{part}-of-00003.gguf" for part in (1, 2, 3)]
        for part in parts:
            self.files[part] = File(part.encode() * 1000, lfs=True)
        code, out, err = self.pull(f"{REPO}/{parts[1]}")
        self.assertEqual(code, 0, err)
        self.assertTrue(out.strip().endswith(parts[1]))
        self.assert_whole(out.strip().removesuffix("/" + parts[1]), parts)

    def test_relative_redirects(self):
        self.hub.faults.relative_redirects = True
        self.assert_pulls()

    def test_slow_server(self):
        self.hub.faults.bytes_per_second = 400_000
        self.assert_pulls()

    def test_progress_of_each_file_and_of_all(self):
        self.hub.faults.bytes_per_second = 200_000
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            [PROGRAM, "pull", REPO], env=self.environment(), stdout=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 1 << 16):
                shown += data
        except OSError:  # Linux's answer where the other end is closed
            pass
        os.close(ours)
        self.assertEqual(process.wait(timeout=60), 0)
        for words in (b"model", b".safetensors", b" of ", b"all files", b"/s, ", b" left"):
            self.assertIn(words, shown)

    # Tokens.

    def test_token_goes_to_the_hub_and_nowhere_else(self):
        self.hub.token = "hf_secret"
        self.assert_pulls(HF_TOKEN="hf_secret")
        self.assertTrue(self.hub.requests("cdn"))
        self.assertEqual({entry[3] for entry in self.hub.requests("hub")}, {"Bearer hf_secret"})
        self.assertEqual({entry[3] for entry in self.hub.requests("cdn")}, {None})

    def test_token_file(self):
        self.hub.token = "hf_in_a_file"
        (self.home / "token").write_text("hf_in_a_file\n")
        self.assert_pulls()

    def test_token_is_no_header_line(self):
        self.assert_fails("HF_TOKEN", HF_TOKEN="a\r\nX-Evil: 1", code=2)

    def test_no_token(self):
        self.hub.token = "hf_secret"
        self.assert_fails("no such repository", "HF_TOKEN")

    def test_gated(self):
        self.hub.token, self.hub.gated = "hf_secret", True
        self.assert_fails("accept the licence", "HF_TOKEN", HF_TOKEN="hf_other")

    def test_plain_401_and_403(self):
        self.hub.faults.status["list"] = [401, {}, 1]
        self.assert_fails("401", "HF_TOKEN")
        self.hub.faults.status["list"] = [403, {}, 1]
        self.assert_fails("403", "licence", HF_TOKEN="hf_x")

    # What is not there.

    def test_unknown_repository(self):
        self.assert_fails("acme/other", "no such repository", name="acme/other")

    def test_unknown_revision(self):
        self.assert_fails("no such revision", name=REPO + "@nowhere")

    def test_unknown_file_names_the_others(self):
        self.files["a.gguf"] = File(b"x", lfs=True)
        self.assert_fails("no file b.gguf", "acme/tiny-qwen/a.gguf", name=REPO + "/b.gguf")

    def test_repository_of_gguf_files(self):
        self.hub.repos[REPO] = {"a.gguf": File(b"x", lfs=True)}
        self.assert_fails("no config.json", "acme/tiny-qwen/a.gguf")

    def test_bad_name(self):
        for name in ("acme", "acme/../x", "../x", "/etc/passwd", "acme/x@../y", "qwen3:1000b"):
            code, _, err = self.pull(name)
            self.assertEqual(code, 2, err)
            self.assertIn("org/name", err)

    # Failures that pass.

    def test_drops_are_resumed(self):
        self.hub.faults.drop_after, self.hub.faults.drops = 70_000, 4
        self.assert_pulls()
        ranges = [entry[4] for entry in self.hub.requests("cdn", "GET") if entry[4]]
        self.assertGreaterEqual(len(ranges), 4)
        total = sum(len(self.files[name].data) for name in NEEDED)
        self.assertLess(self.hub.served, total + 4 * 70_000)

    def test_drops_without_ranges(self):
        self.hub.faults.drop_after, self.hub.faults.drops = 70_000, 2
        self.hub.faults.no_ranges = True
        self.assert_pulls()

    def test_server_errors_that_pass(self):
        for kind in ("list", "head", "get"):
            self.hub.faults.status[kind] = [503, {}, 1]
        self.assert_pulls()

    def test_rate_limit_is_waited_for(self):
        self.hub.faults.status["list"] = [429, {"Retry-After": "2"}, 1]
        begun = time.monotonic()
        self.assert_pulls()
        self.assertGreaterEqual(time.monotonic() - begun, 2)

    def test_rate_limit_of_the_ratelimit_header(self):
        self.hub.faults.status["get"] = [429, {"RateLimit": '"resolvers";r=0;t=1'}, 2]
        self.assert_pulls()

    def test_stalled_transfer_is_resumed(self):
        self.hub.faults.stall = 1
        self.assert_pulls(HF_HUB_DOWNLOAD_TIMEOUT="2")

    def test_wrong_bytes_once(self):
        self.hub.faults.wrong_bytes = 1
        self.assert_pulls()

    # Failures that stay.

    def test_rate_limit_that_is_too_long(self):
        self.hub.faults.status["list"] = [429, {"Retry-After": "3600"}, 99]
        self.assert_fails("too many requests", "3600 s")

    def test_wrong_bytes_always(self):
        self.hub.faults.wrong_bytes = 999
        self.assert_fails("do not have the hash")

    def test_too_many_bytes(self):
        self.hub.faults.longer = 99
        self.assert_fails("more than the")

    def test_server_names_paths_outside(self):
        for name in ("../../evil", "/etc/evil", "a/../../evil", "a\\b", "", "a//b", "a/\0b"):
            self.hub.listing = json.dumps(
                {"sha": COMMIT, "siblings": [{"rfilename": "config.json"}, {"rfilename": name}]}
            ).encode()
            self.assert_fails("outside of the repository")

    def test_answers_that_make_no_sense(self):
        for listing in (
            b"<html>", b"[]", b"{}", b'{"sha": 1}', b'{"sha": "../../x", "siblings": []}',
            b'{"sha": "%s"}' % COMMIT.encode(),
            b'{"sha": "%s", "siblings": [1]}' % COMMIT.encode(),
            b'{"sha": "%s", "siblings": [{"rfilename": 7}]}' % COMMIT.encode(),
        ):  # fmt: skip
            self.hub.listing = listing
            self.assert_fails("is HF_ENDPOINT a model hub?")

    def test_etags_that_name_no_contents(self):
        for etag in ("../../../evil", "abc", "", "A" * 64):
            self.files["tokenizer.json"].etag = etag
            self.assert_fails("cannot be checked", name=REPO)
        self.files["tokenizer.json"] = checkpoint_files()["tokenizer.json"]

    def test_redirect_loop(self):
        self.hub.faults.redirect_loop = True
        self.assert_fails("redirects more than")

    def test_server_errors_that_stay(self):
        self.hub.faults.status["head"] = [500, {}, 999]
        self.assert_fails("HTTP status 500")

    def test_nobody_there(self):
        err = self.assert_fails("127.0.0.1", HF_ENDPOINT="http://127.0.0.1:9")
        self.assertIn("onnect", err)

    def test_no_space(self):
        self.files["model-00002-of-00002.safetensors"].data = Huge()
        self.assert_fails("needs", "free", "HF_HUB_CACHE")
        self.files["model-00002-of-00002.safetensors"] = File(b"")

    # The network switched off.

    def test_offline(self):
        self.assert_fails("HF_HUB_OFFLINE", HF_HUB_OFFLINE="1")
        self.assertEqual(self.hub.log, [])
        self.assert_pulls()
        n_requests = len(self.hub.log)
        self.assert_pulls(HF_HUB_OFFLINE="1")
        self.assertEqual(len(self.hub.log), n_requests)

    def test_model_option_asks_nobody_for_what_is_cached(self):
        self.assert_pulls()
        n_requests = len(self.hub.log)
        # The checkpoint is none: it is enough that its files are opened.
        code, _, err = self.run_program("info", "--model", REPO)
        self.assertEqual(code, 1)
        self.assertIn(f"snapshots/{COMMIT}/config.json", err)
        self.assertEqual(len(self.hub.log), n_requests)

    def test_model_option_pulls(self):
        code, _, err = self.run_program("info", "--model", REPO)
        self.assertEqual(code, 1)
        self.assertIn("Pulling acme/tiny-qwen", err)
        self.assertIn(f"snapshots/{COMMIT}/config.json", err)

    def test_a_local_path_wins(self):
        folder = self.home / "acme" / "tiny-qwen"
        folder.mkdir(parents=True)
        process = subprocess.run(
            [PROGRAM, "info", "--model", REPO], cwd=self.home, env=self.environment(),
            capture_output=True, text=True,
        )  # fmt: skip
        self.assertEqual(process.returncode, 1)
        self.assertEqual(self.hub.log, [])

    # Stopped and started.

    def test_interrupted_pull_goes_on(self):
        self.hub.faults.bytes_per_second = 100_000
        process = self.start("pull", REPO)
        while self.hub.served < 100_000:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
        self.assertEqual(process.returncode, 130)
        self.assertIn("continues where this one stopped", err)
        partial = sum(path.stat().st_size for path in self.cache.rglob("*.incomplete"))
        self.assertGreater(partial, 20_000)
        self.assertEqual(list(self.cache.glob("*/snapshots/*")), [])
        self.hub.faults.bytes_per_second = 0
        time.sleep(0.5)  # until the server's threads have noticed
        served = self.hub.served
        self.assert_pulls()
        total = sum(len(self.files[name].data) for name in NEEDED)
        self.assertLessEqual(self.hub.served - served, total - partial)

    def test_killed_pulls_go_on(self):
        """kill -9 at many moments: never a wrong file under a final name."""
        self.hub.faults.bytes_per_second = 1_500_000
        numbers = random.Random(1)
        snapshots = self.cache / "models--acme--tiny-qwen" / "snapshots" / COMMIT
        for _ in range(30):
            process = self.start("pull", REPO)
            time.sleep(numbers.uniform(0, 0.12))
            process.kill()
            process.communicate()
            self.assert_blobs_right()
            if (snapshots / "config.json").exists():
                self.assert_whole(snapshots)
        self.hub.faults.bytes_per_second = 0
        self.assert_pulls()

    def test_a_wrong_beginning_is_fetched_again(self):
        blobs = self.cache / "models--acme--tiny-qwen" / "blobs"
        blobs.mkdir(parents=True)
        name = "model-00001-of-00002.safetensors"
        (blobs / (self.files[name].etag + ".incomplete")).write_bytes(b"wrong" * 1000)
        name = "model-00002-of-00002.safetensors"
        (blobs / (self.files[name].etag + ".incomplete")).write_bytes(b"long" * 100_000)
        self.assert_pulls()

    def test_a_link_as_partial_file_is_not_followed(self):
        blobs = self.cache / "models--acme--tiny-qwen" / "blobs"
        blobs.mkdir(parents=True)
        victim = self.home / "victim"
        victim.write_text("mine")
        name = "model-00001-of-00002.safetensors"
        (blobs / (self.files[name].etag + ".incomplete")).symlink_to(victim)
        self.assert_fails(".incomplete")
        self.assertEqual(victim.read_text(), "mine")

    def test_two_at_once(self):
        self.hub.faults.bytes_per_second = 300_000
        processes = [self.start("pull", REPO) for _ in range(3)]
        for process in processes:
            out, err = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 0, err)
            self.assert_whole(out.strip())
        total = sum(len(self.files[name].data) for name in NEEDED)
        self.assertEqual(self.hub.served, total)  # nothing came twice

    # list and rm.

    def test_list_and_rm(self):
        self.assert_pulls()
        self.hub.refs["old"] = "e" * 40
        changed = File(b'{"model_type": "qwen2"}\n')
        self.files["config.json"], kept = changed, self.files["config.json"]
        self.assertEqual(self.pull(REPO + "@old")[0], 0)
        code, out, _ = self.run_program("list", "--json")
        self.assertEqual(code, 0)
        (repo,) = json.loads(out)
        self.assertEqual(repo["repo"], REPO)
        self.assertEqual([entry["refs"] for entry in repo["revisions"]], [["main"], ["old"]])
        self.assertTrue(all(entry["complete"] for entry in repo["revisions"]))
        self.assertIn(REPO, self.run_program("list")[1])

        code, out, err = self.run_program("rm", REPO + "@old")
        self.assertEqual(code, 0, err)
        self.assertIn("24 B", out)  # only config.json differs
        self.files["config.json"] = kept
        self.assert_whole(self.cache / "models--acme--tiny-qwen" / "snapshots" / COMMIT)
        code, _, err = self.run_program("rm", REPO + "@old")
        self.assertEqual(code, 1)
        self.assertIn("no revision old", err)

        self.assertEqual(self.run_program("rm", REPO)[0], 0)
        self.assertFalse((self.cache / "models--acme--tiny-qwen").exists())
        self.assertEqual(json.loads(self.run_program("list", "--json")[1]), [])
        self.assertEqual(self.run_program("rm", REPO)[0], 1)

    # The other program of this cache.

    def python_hub(self, code, **more):
        """Runs `code` in another process, after an import of huggingface_hub."""
        process = subprocess.run(
            [sys.executable, "-c", "import huggingface_hub as hub\n" + code],
            env=self.environment(HF_HUB_DISABLE_XET="1", **more), capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        if "No module named 'huggingface_hub'" in process.stderr:
            self.skipTest("no huggingface_hub")
        self.assertEqual(process.returncode, 0, process.stderr)
        return process.stdout.strip()

    def test_python_finds_what_we_pulled(self):
        snapshot = self.assert_pulls()
        for name in NEEDED:
            found = self.python_hub(f"print(hub.try_to_load_from_cache({REPO!r}, {name!r}))")
            self.assertEqual(found, f"{snapshot}/{name}")
        served = self.hub.served
        patterns = sorted(NEEDED)
        found = self.python_hub(f"print(hub.snapshot_download({REPO!r}, allow_patterns={patterns}))")
        self.assertEqual(found, snapshot)
        self.assertEqual(self.hub.served, served)
        offline = self.python_hub(
            f"print(hub.snapshot_download({REPO!r}, local_files_only=True, allow_patterns={patterns}))"
        )
        self.assertEqual(offline, snapshot)
        sizes = self.python_hub(
            "info = hub.scan_cache_dir()\n"
            "print(len(info.warnings), [repo.repo_id for repo in info.repos])"
        )
        self.assertEqual(sizes, f"0 ['{REPO}']")

    def test_we_find_what_python_pulled(self):
        folder = self.python_hub(f"print(hub.snapshot_download({REPO!r}))")
        n_requests = len(self.hub.log)
        code, out, err = self.pull(HF_HUB_OFFLINE="1")
        self.assertEqual(code, 0, err)
        self.assertEqual(out.strip(), folder)
        self.assertEqual(len(self.hub.log), n_requests)
        served = self.hub.served
        self.assertEqual(self.pull()[1].strip(), folder)
        self.assertEqual(self.hub.served, served)
        self.assertEqual(self.run_program("rm", REPO)[0], 0)


class Huge(bytes):
    """Says that it is larger than any disk."""

    def __len__(self):
        return 1 << 49


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    options, rest = parser.parse_known_args()
    PROGRAM = str(Path(options.program).resolve())
    unittest.main(argv=[sys.argv[0], *rest], verbosity=1)
