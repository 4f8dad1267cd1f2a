#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Quality of the CPU's kernels on the default model beside reference.json,
float32 in numpy: greedy tokens equal along given texts, and perplexity.

    compare_quality.py FORCED MODEL.gguf [--json FILE] [MODE ...]

FORCED is the program qwen3_mlx_forced; the modes are exact and int8. The exit
status says whether every mode keeps 98 % of the greedy tokens and perplexity
within 0.5 %. Needs what make_reference.py needs.
"""

import argparse
import json
import math
import subprocess
import sys

import make_reference

LEAST_EQUAL = 0.98
MOST_PERPLEXITY_CHANGE = 0.005


def run(options, mode, texts):
    done = subprocess.run(
        [options.forced, options.model, mode], input=json.dumps(texts),
        capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def perplexity(losses):
    return math.exp(sum(losses) / len(losses))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("forced")
    parser.add_argument("model")
    parser.add_argument("modes", nargs="*", default=["exact", "int8"])
    parser.add_argument("--json", help="write the figures here")
    options = parser.parse_intermixed_args()
    reference = json.loads((make_reference.HERE / "reference.json").read_text())
    tokenizer, _ = make_reference.tokenizer_and_model()
    news = make_reference.sequences(tokenizer)
    answers = make_reference.answers()
    expected_losses = [row["mean_loss"] for row in reference["news"]]
    figures, good = {}, True
    for mode in options.modes:
        said = run(options, mode, news + [ids for ids, _ in answers])
        equal = total = 0
        for expected, found, (ids, prompt) in zip(
                reference["answers"], said[len(news):], answers):
            # The token after position k is greedy[k]; an answer's tokens come
            # after the prompt's last position and those of the answer but one.
            for at in range(prompt - 1, len(ids) - 1):
                equal += expected["greedy"][at] == found["greedy"][at]
                total += 1
        of_news = [a == b for expected, found in zip(reference["news"], said)
                   for a, b in zip(expected["greedy"], found["greedy"])]
        losses = [sum(found["losses"]) / len(found["losses"]) for found in said[:len(news)]]
        change = perplexity(losses) / perplexity(expected_losses) - 1
        figures[mode] = {
            "answers_equal": equal / total, "answer_tokens": total,
            "news_equal": sum(of_news) / len(of_news), "news_tokens": len(of_news),
            "perplexity": perplexity(losses), "perplexity_change": change}
        good &= equal / total >= LEAST_EQUAL and abs(change) <= MOST_PERPLEXITY_CHANGE
        print(f"{mode:6} greedy tokens equal: {equal / total:.2%} of {total} of the "
              f"model's own answers, {figures[mode]['news_equal']:.2%} of "
              f"{len(of_news)} of news; perplexity {perplexity(losses):.4f}, "
              f"float32 {perplexity(expected_losses):.4f}, {change:+.3%}", flush=True)
    if options.json:
        with open(options.json, "w") as file:
            file.write(json.dumps(figures, indent=1) + "\n")
    sys.exit(not good)


if __name__ == "__main__":
    main()
