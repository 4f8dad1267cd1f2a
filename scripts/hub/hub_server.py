# SPDX-License-Identifier: MIT
"""A model hub on loopback, with the faults that a test asks for.

Speaks what huggingface_hub and `qwen3-mlx pull` need: the list of a
repository's files, HEAD and GET of resolve URLs, redirects of large files to a
second server (another origin, as a CDN is), ranges.
"""

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class File:
    def __init__(self, data: bytes, lfs: bool = False):
        self.data = data
        self.lfs = lfs
        self.etag = hashlib.sha256(data).hexdigest() if lfs else git_sha1(data)


class Faults:
    """What goes wrong. Counters go down as the fault is shown."""

    def __init__(self):
        self.drop_after = 0  # bytes of a body after which the connection ends
        self.drops = 0  # how many times
        self.wrong_bytes = 0  # how many bodies are changed
        self.status = {}  # kind ("list", "head", "get") -> [status, headers, times]
        self.bytes_per_second = 0
        self.no_ranges = False
        self.stall = 0  # bodies that stop in the middle for a minute
        self.relative_redirects = False
        self.redirect_loop = False
        self.longer = 0  # bodies with surplus bytes


class Hub:
    """Two servers: `endpoint` is the hub, and the other its CDN."""

    def __init__(self):
        self.repos = {}  # "org/name" -> {"file": File}
        self.refs = {"main": COMMIT}
        self.token = None  # when set, requests must have it
        self.gated = False
        self.listing = None  # answers this instead of the true list
        self.faults = Faults()
        self.log = []  # (server, method, path, authorization, range)
        self.lock = threading.Lock()
        self.served = 0  # bytes of bodies
        self.hub = self.start("hub")
        self.cdn = self.start("cdn")
        self.endpoint = f"http://127.0.0.1:{self.hub.server_address[1]}"
        # Another origin: the name differs as well as the port.
        self.cdn_url = f"http://localhost:{self.cdn.server_address[1]}"

    def start(self, role):
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                hub.answer(self, role)

            do_GET = do_HEAD

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            # Clients that hang up are part of the test.
            def handle_error(self, *_):
                pass

        server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return server

    def close(self):
        for server in (self.hub, self.cdn):
            server.shutdown()
            server.server_close()

    def requests(self, server=None, method=None):
        with self.lock:
            return [
                entry for entry in self.log
                if (server is None or entry[0] == server)
                and (method is None or entry[1] == method)
            ]  # fmt: skip

    def answer(self, handler, role):
        path = unquote(urlsplit(handler.path).path)
        with self.lock:
            self.log.append((
                role, handler.command, path,
                handler.headers.get("Authorization"), handler.headers.get("Range"),
            ))  # fmt: skip
        if role == "hub" and self.refuse(handler, path):
            return
        if path.startswith("/api/models/"):
            self.answer_list(handler, path)
            return
        # /org/name/resolve/REVISION/FILE, and the same on the CDN.
        parts = path.split("/", 5)
        files = self.repos.get("/".join(parts[1:3]))
        if files is None or len(parts) < 6:
            self.send(handler, 404, {"X-Error-Code": "RepoNotFound"})
            return
        revision, name = parts[4], parts[5]
        name = name.removeprefix("canonical/")
        if self.refs.get(revision, revision) not in self.refs.values():
            self.send(handler, 404, {"X-Error-Code": "RevisionNotFound"})
        elif name not in files:
            self.send(handler, 404, {"X-Error-Code": "EntryNotFound"})
        else:
            self.answer_file(handler, role, path, files[name])

    def kind(self, handler, path):
        if path.startswith("/api/"):
            return "list"
        return "head" if handler.command == "HEAD" else "get"

    def refuse(self, handler, path):
        fault = self.faults.status.get(self.kind(handler, path))
        with self.lock:
            shown = fault is not None and fault[2] > 0
            if shown:
                fault[2] -= 1
        if shown:
            self.send(handler, fault[0], fault[1])
            return True
        if self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            code = "GatedRepo" if self.gated else "RepoNotFound"
            self.send(handler, 401, {"X-Error-Code": code})
            return True
        return False

    def send(self, handler, status, headers, body=b""):
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body)

    def answer_list(self, handler, path):
        # /api/models/org/name[/revision/REVISION], or /tree/REVISION
        parts = path.split("/", 6)
        repo = "/".join(parts[3:5])
        revision = parts[6] if len(parts) > 6 else "main"
        if repo not in self.repos:
            self.send(handler, 404, {"X-Error-Code": "RepoNotFound"})
            return
        commit = self.refs.get(revision, revision)
        if commit not in self.refs.values():
            self.send(handler, 404, {"X-Error-Code": "RevisionNotFound"})
            return
        if len(parts) > 5 and parts[5] == "tree":
            tree = [self.tree_entry(*item) for item in self.repos[repo].items()]
            self.send(handler, 200, {"Content-Type": "application/json"}, json.dumps(tree).encode())
            return
        siblings = [{"rfilename": name} for name in self.repos[repo]]
        answer = {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings}
        body = json.dumps(answer).encode() if self.listing is None else self.listing
        self.send(handler, 200, {"Content-Type": "application/json"}, body)

    def tree_entry(self, name, file):
        entry = {"type": "file", "path": name, "size": len(file.data), "oid": git_sha1(file.data)}
        if file.lfs:
            entry["lfs"] = {"oid": file.etag, "size": len(file.data), "pointerSize": 130}
        return entry

    def answer_file(self, handler, role, path, file):
        headers = {"ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if role == "hub":
            headers["X-Repo-Commit"] = path.split("/", 5)[4]
            headers["X-Repo-Commit"] = self.refs.get(headers["X-Repo-Commit"], headers["X-Repo-Commit"])
            if self.faults.relative_redirects and "/canonical/" not in path:
                head, _, name = path.partition("/resolve/")
                commit, _, name = name.partition("/")
                location = f"{head}/resolve/{commit}/canonical/{name}"
                self.send(handler, 307, {"Location": location})
                return
            if self.faults.redirect_loop:
                self.send(handler, 307, {"Location": handler.path})
                return
            if file.lfs:
                headers["X-Linked-ETag"] = f'"{file.etag}"'
                headers["X-Linked-Size"] = str(len(file.data))
                headers["ETag"] = '"something-else"'
                headers["Location"] = self.cdn_url + handler.path
                self.send(handler, 302, headers)
                return
        if handler.command == "HEAD":
            handler.send_response(200)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(file.data)))
            handler.end_headers()
            return
        self.send_data(handler, headers, file.data)

    def send_data(self, handler, headers, data):
        faults = self.faults
        first = 0
        status = 200
        wanted = handler.headers.get("Range")
        if wanted and not faults.no_ranges:
            first = int(wanted.removeprefix("bytes=").rstrip("-").split("-")[0])
            if first >= len(data):
                self.send(handler, 416, {"Content-Range": f"bytes */{len(data)}"})
                return
            status = 206
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        body = data[first:]
        with self.lock:
            if faults.wrong_bytes > 0 and body:
                faults.wrong_bytes -= 1
                body = bytes([body[0] ^ 1]) + body[1:]
            longer = faults.longer > 0
            if longer:
                faults.longer -= 1
            drop = faults.drops > 0 and faults.drop_after < len(body)
            if drop:
                faults.drops -= 1
            stall = faults.stall > 0 and len(body) > 1
            if stall:
                faults.stall -= 1
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if longer:
            handler.send_header("Connection", "close")
            handler.close_connection = True
            body += b"surplus"
        else:
            handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        end = faults.drop_after if drop else len(body) // 2 if stall else len(body)
        piece = max(1, faults.bytes_per_second // 20) if faults.bytes_per_second else 1 << 16
        for at in range(0, end, piece):
            part = body[at : min(at + piece, end)]
            handler.wfile.write(part)
            with self.lock:
                self.served += len(part)
            if faults.bytes_per_second:
                time.sleep(0.05)
        if stall:
            handler.wfile.flush()
            time.sleep(60)
        if drop or stall:
            handler.wfile.flush()
            handler.connection.close()
            handler.close_connection = True
