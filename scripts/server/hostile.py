#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Hostile HTTP: each case gets the right status, or its connection closed, and
the server answers the next client.

    hostile.py [--model FILE]
"""

import argparse
import json
import re
import socket
import sys
import threading
import time

from harness import Checks, Server, default_model, find_program

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


def status_of(reply):
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", reply)
    return int(found[1]) if found else None


def head(*lines, body=b""):
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def wire_cases():
    """(name, bytes, allowed statuses; None: closed without a word)."""
    host = "Host: localhost"
    post = f"POST {TEXT} HTTP/1.1"
    good = b'{"prompt":"a","max_tokens":1}'
    yield "garbage", b"\x00\x01\x02\x03\r\n\r\n", {400, None}
    yield "tls hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", {400, None}
    yield "empty line", b"\r\n\r\n", {400, None}
    yield "no version", b"GET /health\r\n\r\n", {400, None}
    yield "http 0.9", b"GET /health HTTP/0.9\r\nHost: localhost\r\n\r\n", {400}
    yield "http 2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400}
    yield "http 3.0", head("GET /health HTTP/3.0", host), {400}
    yield "http 1.12", head("GET /health HTTP/1.12", host), {400}
    yield "lower case http", head("GET /health http/1.1", host), {400}
    yield "no host", head("GET /health HTTP/1.1"), {400}
    yield "two hosts", head("GET /health HTTP/1.1", host, host), {400}
    yield "foreign host", head("GET /health HTTP/1.1", "Host: evil.example"), {403}
    yield "foreign host with port", head("GET /health HTTP/1.1", "Host: evil.example:80"), {403}
    yield "host like loopback", head("GET /health HTTP/1.1", "Host: localhost.evil.example"), {403}
    yield "rebinding", head("GET /v1/models HTTP/1.1", "Host: 127.0.0.1.nip.example"), {403}
    yield "foreign origin", head("GET /v1/models HTTP/1.1", host, "Origin: http://evil.example"), {403}
    yield "null origin", head("GET /v1/models HTTP/1.1", host, "Origin: null"), {403}
    yield "asterisk", head("OPTIONS * HTTP/1.1", host), {400}
    yield "absolute form", head("GET http://localhost/health HTTP/1.1", host), {400}
    yield "authority form", head("CONNECT localhost:80 HTTP/1.1", host), {400}
    yield "long target", head("GET /" + "a" * 9000 + " HTTP/1.1", host), {414}
    yield "very long target", head("GET /" + "a" * 100000 + " HTTP/1.1", host), {431, 414, 400}
    yield "target with nul", b"GET /\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n", {400}
    yield "target with space", b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n", {400}
    yield "target with high bytes", b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n", {400, 404}
    yield "many headers", head("GET /health HTTP/1.1", host, *(f"X-{i}: a" for i in range(150))), {431}
    yield "long header", head("GET /health HTTP/1.1", host, "X: " + "a" * 70000), {431}
    yield "header without colon", head("GET /health HTTP/1.1", host, "nonsense"), {400}
    yield "space before colon", head("GET /health HTTP/1.1", host, "X : a"), {400}
    yield "header with nul", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n", {400}
    yield "bare lf", b"GET /health HTTP/1.1\nHost: localhost\n\n", {400, 408, None}
    yield "bare cr", b"GET /health HTTP/1.1\rHost: localhost\r\r", {400, 408, None}
    yield "leading space header", b"GET /health HTTP/1.1\r\n Host: localhost\r\n\r\n", {400}
    yield "empty header name", head("GET /health HTTP/1.1", host, ": a"), {400}
    for name, method in (("lower case method", "get"), ("odd method", "BREW"),
                         ("long method", "A" * 300), ("symbols", "G{}T")):
        yield name, head(f"{method} /health HTTP/1.1", host), {400, 405}
    for value in ("-1", "+5", "1e3", "0x10", "99999999999999999999", "5, 6", "a",
                  "18446744073709551616", "-0", "1 1"):
        yield f"content-length {value}", head(post, host, f"Content-Length: {value}", body=good), {400, 413}
    yield "content-length beyond", head(post, host, "Content-Length: 999999999"), {413}
    yield "two content-lengths", head(post, host, "Content-Length: 5", "Content-Length: 29", body=good), {400}
    yield "length and chunks", head(post, host, "Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"), {400}
    yield "chunks and length", head(post, host, "Transfer-Encoding: chunked", "Content-Length: 5", body=b"0\r\n\r\n"), {400}
    for value in ("gzip", "identity", "chunked, identity", "xchunked"):
        yield f"transfer-encoding {value}", head(post, host, f"Transfer-Encoding: {value}", body=b"0\r\n\r\n"), {400, 408, None}
    for size in ("-2", "-1", "ffffffffffffffff", "fffffffffffffffff", "zz", "0x5", " 5", "7fffffffffffffff"):
        yield f"chunk of {size}", head(post, host, "Content-Type: application/json", "Transfer-Encoding: chunked", body=size.encode() + b"\r\nhello\r\n0\r\n\r\n"), {400, 413, 408}
    yield "chunk without end", head(post, host, "Transfer-Encoding: chunked", body=b"5\r\nhelloXX0\r\n\r\n"), {400}
    for name, body in (("chunk extension without end", b"1;" + b"a" * 600_000),
                       ("trailers without end", b"0\r\n" + b"X: a\r\n" * 100_000)):
        yield name, head(post, host, "Content-Type: application/json", "Transfer-Encoding: chunked", body=body), {400, 431}
    for name, fields in (("an object of 9,000 fields", 9_000), ("an object of a million fields", 1_000_000)):
        body = b'{"prompt":"a",' + b",".join(b'"%d":0' % i for i in range(fields)) + b"}"
        yield name, head(post, host, "Content-Type: application/json", f"Content-Length: {len(body)}", body=body), {400}
    body = b'{"prompt":["a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a"],"n":8}'
    yield "more texts than ever fit", head(post, host, "Content-Type: application/json", f"Content-Length: {len(body)}", body=body), {400}
    yield "expect nonsense", head(post, host, "Expect: tea", "Content-Length: 2", body=b"{}"), {417}
    yield "body on get", head("GET /health HTTP/1.1", host, "Content-Length: 2", body=b"{}"), {200}
    for path in ("//v1/models", "/v1//models", "/v1/../v1/models", "/v1/models%2f", "/V1/models", "/.", "/..", "/../../etc/passwd",
                 "/%2e%2e/etc/passwd", "/v1/models/../../etc/passwd", "/app.js/", "/favicon.ico", "/v1", "/v1/", "/v1/models/", "/health/", "/openapi.json.bak"):
        yield f"path {path}", head(f"GET {path} HTTP/1.1", host), {404}
    for method, path in (("GET", CHAT), ("PUT", CHAT), ("DELETE", CHAT), ("POST", "/health"), ("POST", "/v1/models"), ("PATCH", TEXT), ("POST", "/"), ("TRACE", "/health"), ("GET", "/tokenize")):
        yield f"{method} {path}", head(f"{method} {path} HTTP/1.1", host), {405}
    yield "xml body", head(post, host, "Content-Type: text/xml", "Content-Length: 4", body=b"<a/>"), {415}
    yield "pipelined", head("GET /health HTTP/1.1", host) + head("GET /health HTTP/1.1", host, "Connection: close"), {200}


def body_cases():
    """(name, path, body, field that the error must name or None)."""
    def chat(**fields):
        return {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, **fields}

    def text(**fields):
        return {"prompt": "a", "max_tokens": 1, **fields}

    for name, raw in (
            ("nothing", b""), ("space", b" "), ("null", b"null"), ("number", b"1"), ("list", b"[]"), ("string", b'"a"'), ("cut", b'{"prompt":'),
            ("two", b"{}{}"), ("single quotes", b"{'prompt':'a'}"), ("comment", b'{"prompt":"a"/**/}'), ("trailing comma", b'{"prompt":"a",}'),
            ("bad utf-8", b'{"prompt":"\xff"}'), ("lone surrogate", b'{"prompt":"\\ud800"}'), ("nul", b'{"prompt":"a"}\x00'),
            ("nan", b'{"prompt":"a","temperature":NaN}'), ("infinity", b'{"prompt":"a","temperature":1e999}'),
            ("deep list", b'{"prompt":' + b"[" * 100000 + b"]" * 100000 + b"}"), ("deep object", b'{"a":' * 5000 + b"1" + b"}" * 5000),
            ("unclosed", b"[" * 1000000)):
        yield f"body {name}", TEXT, raw, None
        yield f"chat body {name}", CHAT, raw, None
    numbers = {"temperature": (-0.1, 2.1, "1", [], {}, True, 1e308), "top_p": (-1, 1.5, "a", [0.5]), "min_p": (-1, 2, "x"),
               "top_k": (-2, 1.5, "5", 1e20), "presence_penalty": (-2.1, 3, "a"), "frequency_penalty": (-9, 9, []),
               "repetition_penalty": (-1, 11, "1"), "xtc_probability": (-1, 2), "xtc_threshold": (-1, 0.6),
               "n": (0, -1, 9, 1.5, "1", 10**12), "max_tokens": (0, -1, 1.5, "1", 2**40), "max_completion_tokens": (0, -5),
               "seed": (1.5, "a", 2**64, [], -(2**70)), "priority": (-101, 101, "a"), "timeout": (0, -1, "a"), "repeat_last_n": (-1, 5000, "a")}
    for field, values in numbers.items():
        for value in values:
            yield f"{field} {value!r}", TEXT, text(**{field: value}), field
    for value in (1, "true", [], {}):
        yield f"stream {value!r}", TEXT, text(stream=value), "stream"
    for value in (1, [1], [""], ["a"] * 17, ["a" * 300], {"a": 1}, [[]], ""):
        yield f"stop {str(value)[:20]}", TEXT, text(stop=value), "stop"
    for value in ([], "a", {"-1": 1}, {"a": 1}, {"999999999": 1}, {"1": "a"}, {"1": 101}, {"1": None}, {"01x": 1}, {str(i): 1 for i in range(1025)}):
        yield f"logit_bias {str(value)[:20]}", TEXT, text(logit_bias=value), "logit_bias"
    for value in (1, [], [[]], ["a", 1], [-1], [10**9], [1.5], ["a"] * 65, {}, "", [1, "a"], [[1], []], [None], True):
        yield f"prompt {str(value)[:20]}", TEXT, {"prompt": value, "max_tokens": 1}, "prompt"
    yield "prompt missing", TEXT, {"max_tokens": 1}, "prompt"
    yield "prompt too long", TEXT, {"prompt": "a b " * 40000, "max_tokens": 1}, None
    for value in (None, [], "a", {}, [1], [None], [[]], [{}], [{"role": 1}], [{"role": "king", "content": "a"}], [{"role": "user", "content": 1}],
                  [{"role": "user", "content": [1]}], [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a"}}]}],
                  [{"role": "assistant", "tool_calls": 1}], [{"role": "assistant", "tool_calls": [{}]}], [{"content": "a"}]):
        yield f"messages {str(value)[:30]}", CHAT, {"messages": value, "max_tokens": 1}, "messages"
    for field, values in {
            "tools": ("a", [1], [{}], [{"type": "x"}], [{"type": "function"}], [{"type": "function", "function": {"name": 1}}],
                      [{"type": "function", "function": {"name": "f", "parameters": []}}], [{"type": "function", "function": {"name": "f"}}] * 129),
            "tool_choice": ("required", {"type": "function", "function": {"name": "f"}}, 1),
            "response_format": ({"type": "json_object"}, {"type": "json_schema"}, "json", 1),
            "logprobs": (1, "true"), "top_logprobs": (-1, 21, "a", 5), "stream_options": ({}, 1), "chat_template_kwargs": (1, [], {"messages": []}),
            "enable_thinking": (1, "no"), "thinking_budget": (-2, "a"), "functions": ([],), "audio": ({},), "grammar": ("a",), "reasoning_effort": ("low",),
            "logits_processors": ([],), "guided_json": ({},), "continue_final_message": (True,), "verbosity": ("low",)}.items():
        for value in values:
            yield f"chat {field} {str(value)[:30]}", CHAT, chat(**{field: value}), field
    for field, values in {"echo": (True, 1), "suffix": ("a",), "best_of": (2,), "logprobs": (6, -1, True)}.items():
        for value in values:
            yield f"text {field} {value}", TEXT, text(**{field: value}), field
    yield "detokenize missing", "/detokenize", {}, "tokens"
    for value in (1, ["a"], [-1], [10**12], [1.5], [[1]]):
        yield f"detokenize {value}", "/detokenize", {"tokens": value}, "tokens"
    yield "tokenize missing", "/tokenize", {}, "content"
    for value in (1, [], {}):
        yield f"tokenize {value}", "/tokenize", {"content": value}, "content"


class Slow(threading.Thread):
    """A client that sends a part at once, then a byte a second; what the server
    says to it, and when."""

    def __init__(self, server, part, rest):
        super().__init__(daemon=True)
        self.server, self.part, self.rest = server, part, rest
        self.reply, self.took = b"", None
        self.start()

    def run(self):
        begun = time.time()
        with socket.create_connection((self.server.host, self.server.port), 1) as link:
            link.sendall(self.part)
            while time.time() - begun < 60:
                try:
                    piece = link.recv(65536)
                    if not piece:
                        break
                    self.reply += piece
                except TimeoutError:
                    link.sendall(self.rest[:1])
                    self.rest = self.rest[1:]
                except ConnectionError:
                    break
        self.took = time.time() - begun


def slow_cases(server):
    """(name, client, seconds after which it is told)."""
    good = ("Host: localhost", "Authorization: Bearer secret-key", "Content-Type: application/json")
    post = f"POST {TEXT} HTTP/1.1"
    ten = head(post, *good, "Content-Length: 100")
    whole = head("GET /health HTTP/1.1", "Host: localhost")
    yield "half a header", Slow(server, b"GET /health HTT", b""), 10
    yield "a header byte by byte", Slow(server, b"G", b"ET /health HTTP/1.1\r\nHost: localhost"), 10
    yield "half a header behind a request", Slow(server, whole + b"GET /he", b""), 10
    yield "half a body", Slow(server, ten + b'{"prompt"', b""), 30
    yield "a body byte by byte", Slow(server, ten, b'{"prompt":"' + b"a" * 88), 30
    for name, body in (("half a chunk", b"20\r\n{"), ("half a chunk's size", b"2"),
                       ("a last chunk without end", b"2\r\n{}\r\n0\r\n")):
        # 2,000 bytes, the most of a body here, take no time to speak of.
        yield name, Slow(server, head(post, *good, "Transfer-Encoding: chunked", body=body), b""), 30


def is_told(reply):
    """Whether the last response is a 408 as OpenAI has errors, and the end."""
    top, _, body = reply[reply.rfind(b"HTTP/1.1 "):].partition(b"\r\n\r\n")
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError):
        return False
    return (top.startswith(b"HTTP/1.1 408 ") and b"Connection: close" in top
            and error["type"] == "invalid_request_error" and "too long" in error["message"])


def leaving_cases():
    """(name, what is sent while the answer is computed): then the client goes."""
    yield "nothing", b""
    yield "the next request", head("GET /health HTTP/1.1", "Host: localhost")
    yield "junk", b"\x00\xff" * 100
    yield "as much as is kept", b"a" * (256 << 10)
    yield "more than the system takes", b"a" * 50_000_000


def soon(condition, seconds):
    end = time.time() + seconds
    while not condition():
        if time.time() > end:
            return False
        time.sleep(0.01)
    return True


def check_leaving(server, checks):
    """Who leaves while its whole answer is computed frees its place at once."""
    body = json.dumps({"prompt": "a", "max_tokens": 4000, "ignore_eos": True, "n": 8}).encode()
    for name, early in leaving_cases():
        left = server.metric("disconnects_total")
        with socket.create_connection((server.host, server.port), 0.3) as link:
            link.sendall(head(f"POST {TEXT} HTTP/1.1", "Host: localhost", "Content-Type: application/json",
                              f"Content-Length: {len(body)}", body=body))
            began = soon(lambda: server.metric("sequences_running") == 8, 10)
            try:
                link.sendall(early)
            except OSError:
                pass  # the server reads no further, as it should
            still = server.metric("sequences_running") == 8 or len(early) > 200_000
        ended = soon(lambda: server.metric("sequences_running") == 0, 0.5)
        checks.check(began and still and ended and server.metric("disconnects_total") == left + 1,
                     f"leaves after sending {name}", (began, still, ended))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=None)
    arguments = parser.parse_args()
    checks = Checks()
    model = arguments.model or default_model()
    with Server(find_program(), model, "--max-memory", "2G") as server:
        for name, data, allowed in wire_cases():
            reply = server.raw(data, timeout=3)
            checks.check(status_of(reply) in allowed, name, reply[:200])
        checks.check(server.request("GET", "/health")[0] == 200, "alive")
        for name, path, body, field in body_cases():
            data = body if isinstance(body, bytes) else json.dumps(body)
            status, _, text = server.request(
                "POST", path, data, {"Content-Type": "application/json"})
            error = json.loads(text).get("error", {}) if status == 400 else {}
            good = status == 400 and (
                field is None or field in (error.get("param") or ""))
            checks.check(good, name, (status, text))
        check_leaving(server, checks)
        status, answer = server.json("POST", TEXT, {"model": "nope", "prompt": "a"})
        checks.check(status == 404, "unknown model", answer)
        status, answer = server.json("POST", TEXT, {"prompt": "a", "max_tokens": 2})
        checks.check(status == 200 and server.alive, "answers at the end", answer)
    limits = ["--max-body", "2000", "--api-key", "secret-key"]
    with Server(find_program(), model, "--max-memory", "2G", *limits) as server:
        slow = list(slow_cases(server))
        keys = ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer secret-ke"}, {"Authorization": "Bearer secret-keyy"},
                {"Authorization": "secret-key"}, {"Authorization": "Basic secret-key"}, {"X-Api-Key": "secret"}, {"Authorization": "Bearer "})
        for headers in keys:
            for path in ("/v1/models", "/metrics", "/props", "/openapi.json", "/nothing", "//v1/models", "/v1/models/x", "/v1/models?key=secret-key"):
                status = server.request("GET", path, headers=headers)[0]
                checks.check(status == 401, f"{path} {headers}", status)
            status = server.request("POST", TEXT, {"prompt": "a"}, headers)[0]
            checks.check(status == 401, f"post {headers}", status)
        for headers in ({"Authorization": "Bearer secret-key"}, {"authorization": "bearer secret-key"}, {"X-Api-Key": "secret-key"}):
            checks.check(server.request("GET", "/v1/models", headers=headers)[0] == 200, str(headers))
        checks.check(server.request("GET", "/health")[0] == 200, "health is public")
        good = {"Authorization": "Bearer secret-key"}
        status = server.request("POST", TEXT, {"prompt": "a" * 3000}, good)[0]
        checks.check(status == 413, "body over the limit", status)
        checks.check("secret-key" not in "".join(server.lines), "no key in the log")
        for name, client, after in slow:
            client.join(60)
            checks.check(is_told(client.reply) and after - 1 < client.took < after + 3, name, (client.took, client.reply))
        checks.check(server.metric("connections", good) == 1, "no slow client is left", server.metric("connections", good))
    sys.exit(0 if checks.report("hostile HTTP") else 1)


main()
