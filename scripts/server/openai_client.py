#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The openai package against the server on the default model.

    openai_client.py [--model FILE]
"""

import argparse
import sys

import openai

from harness import Checks, Server, default_model, find_program

PARIS = [{"role": "user", "content": "What is the capital of France?"}]
TOOLS = [{
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}]
# Makes a small model write the call: what it is told to repeat is one.
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if tools %}{# <tool_call> {\"name\": ..., \"arguments\": ...} #}{% endif %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def chat(client, model, **options):
    options = {"temperature": 0, "max_tokens": 24, "messages": PARIS, **options}
    return client.chat.completions.create(model=model, **options)


def run(client, check, template_client):
    model = client.models.list().data[0].id
    check(client.models.retrieve(model).id == model, "models.retrieve")

    whole = chat(client, model)
    text = whole.choices[0].message.content
    check("Paris" in text, "chat", text)
    check(whole.choices[0].finish_reason == "stop", "finish_reason stop")
    check(whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens, "usage")

    pieces = list(chat(client, model, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    check(streamed == text, "streamed text is the same", streamed)
    check(pieces[-1].usage is not None and pieces[-1].usage.completion_tokens == whole.usage.completion_tokens, "include_usage")
    check([p.choices[0].finish_reason for p in pieces if p.choices][-1] == "stop", "stream finish_reason")

    again = chat(client, model)
    check(again.choices[0].message.content == text, "the same again")

    seeded = [chat(client, model, temperature=1, seed=7).choices[0].message.content for _ in range(2)]
    check(seeded[0] == seeded[1], "seed")

    many = chat(client, model, n=3, temperature=1, seed=7)
    check([c.index for c in many.choices] == [0, 1, 2], "n")
    check(many.choices[0].message.content == seeded[0], "choice 0 has the seed's text")

    logged = chat(client, model, logprobs=True, top_logprobs=3, max_tokens=5)
    content = logged.choices[0].logprobs.content
    check(len(content) == 5 and all(len(t.top_logprobs) == 3 for t in content), "logprobs")
    check(all(t.token == t.top_logprobs[0].token for t in content), "greedy takes the most likely")
    check(logged.choices[0].finish_reason == "length", "finish_reason length")

    stopped = chat(client, model, stop=["Paris"])
    check("Paris" not in stopped.choices[0].message.content and stopped.choices[0].finish_reason == "stop", "stop", stopped)
    pieces = list(chat(client, model, stop=["is Par"], stream=True))
    streamed = "".join(p.choices[0].delta.content or "" for p in pieces if p.choices)
    check(text.startswith(streamed) and "is Par" not in streamed and " is P" not in streamed, "stop across tokens is not leaked", streamed)

    biased = chat(client, model, logit_bias={"42": 100}, max_tokens=3)
    check(biased.usage.completion_tokens == 3, "logit_bias")

    done = client.completions.create(model=model, prompt=["Once upon a time", [1, 2, 3]], max_tokens=6, temperature=0, logprobs=2, n=2)
    check(len(done.choices) == 4 and done.choices[0].text == done.choices[1].text, "completions: prompts and n")
    check(len(done.choices[0].logprobs.tokens) == 6, "completions: logprobs")
    pieces = list(client.completions.create(model=model, prompt="Once upon a time", max_tokens=6, temperature=0, stream=True))
    check("".join(p.choices[0].text for p in pieces if p.choices) == done.choices[0].text, "completions: stream")

    for kind, options in ((openai.BadRequestError, {"temperature": 9}), (openai.BadRequestError, {"n": 100}),
                          (openai.BadRequestError, {"tool_choice": "required", "tools": TOOLS}),
                          (openai.BadRequestError, {"response_format": {"type": "json_object"}})):
        try:
            chat(client, model, **options)
            check(False, f"{options} is refused")
        except kind as error:
            check(error.param in options or error.param == next(iter(options)), f"{options} names the field", error)
    try:
        chat(client, "another")
        check(False, "unknown model is refused")
    except openai.NotFoundError as error:
        check(error.code == "model_not_found", "unknown model")

    # Tools, by a template that knows them and a model that repeats the call.
    name = template_client.models.list().data[0].id
    asked = [{"role": "user", "content": "Repeat exactly: " + CALL},
             {"role": "assistant", "content": CALL},
             {"role": "user", "content": "Repeat exactly: " + CALL}]
    called = chat(template_client, name, messages=asked, tools=TOOLS, max_tokens=60)
    message = called.choices[0].message
    calls = message.tool_calls or []
    check(len(calls) >= 1 and calls[0].function.name == "get_weather" and "Paris" in calls[0].function.arguments, "tool call", message)
    check(called.choices[0].finish_reason == "tool_calls", "finish_reason tool_calls", called.choices[0].finish_reason)
    arguments = ""
    leaked = ""
    for piece in chat(template_client, name, messages=asked, tools=TOOLS, max_tokens=60, stream=True):
        delta = piece.choices[0].delta if piece.choices else None
        leaked += (delta.content or "") if delta else ""
        for call in (delta.tool_calls or []) if delta else []:
            if call.index == 0:
                arguments += call.function.arguments or ""
    check(calls and arguments == calls[0].function.arguments, "streamed arguments are the same", arguments)
    check("<tool_call>" not in leaked, "no markup leaks", leaked)
    plain = chat(template_client, name, messages=asked, tools=TOOLS, tool_choice="none", max_tokens=60)
    check(not plain.choices[0].message.tool_calls, "tool_choice none")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=None)
    arguments = parser.parse_args()
    model = arguments.model or default_model()
    checks = Checks()
    import tempfile
    with tempfile.NamedTemporaryFile("w", suffix=".jinja") as template:
        template.write(TEMPLATE)
        template.flush()
        options = ["--max-memory", "2G", "--api-key", "a-key"]
        with Server(find_program(), model, *options) as server, \
                Server(find_program(), model, *options, "--chat-template-file", template.name) as other:
            clients = [openai.OpenAI(base_url=s.url + "/v1", api_key="a-key", max_retries=0) for s in (server, other)]
            run(clients[0], checks.check, clients[1])
            try:
                openai.OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0).models.list()
                checks.check(False, "a wrong key is refused")
            except openai.AuthenticationError:
                checks.check(True, "a wrong key is refused")
    sys.exit(0 if checks.report("openai client") else 1)


main()
