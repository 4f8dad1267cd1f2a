# SPDX-License-Identifier: MIT
"""Texts on which tokenizers are compared: seeded random strings and real files."""

import os
import random
import sysconfig

ADDED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>",
         "<think>", "</think>", "<|fim_prefix|>", "<tool_response>", "<file_sep>"]
WHITE = " \t\n\r\v\f\x85\xa0\u1680\u2000\u2003\u200a\u2028\u2029\u202f\u205f\u3000"
NOT_WHITE = "\x1c\x1f\u180e\u200b\u200d\ufeff\x00\x01\x1b\x7f\x9f\xad"
CONTRACTIONS = ["'s", "'S", "'t", "'re", "'VE", "'m", "'ll", "'Ll", "'d", "'\u017f",
                "\u2019s", "'x", "''s", "'r", "'l"]
WORDS = ["hello", "World", "naïve", "Straße", "данные", "你好", "世界", "ありがとう", "カタカナ",
         "한국어", "नमस्ते", "สวัสดี", "مرحبا", "שלום", "Ελλάδα", "việt", "code", "return", "x1"]
RANGES = [(0x20, 0x7F), (0xA0, 0x250), (0x250, 0x300), (0x370, 0x530), (0x530, 0x700),
          (0x900, 0xE00), (0xE00, 0x1100), (0x1100, 0x1200), (0x1E00, 0x2000),
          (0x2000, 0x2C00), (0x3040, 0x3100), (0x3400, 0x4DC0), (0x4E00, 0xA000),
          (0xA000, 0xABFF), (0xAC00, 0xD7A4), (0xF900, 0xFB50), (0xFE00, 0x10000),
          (0x10000, 0x11A00), (0x11A00, 0x12000), (0x1D100, 0x1D800), (0x1E000, 0x1F000),
          (0x1F000, 0x1FB00), (0x20000, 0x2A6E0), (0xE0000, 0xE01F0)]
MARKS = [(0x300, 0x370), (0x483, 0x488), (0x591, 0x5C0), (0x610, 0x620), (0x64B, 0x660),
         (0x7EB, 0x7FE), (0x898, 0x900), (0x93C, 0x94E), (0xC3C, 0xC57), (0xE31, 0xE4F),
         (0x1AB0, 0x1AFF), (0x1DC0, 0x1E00), (0x20D0, 0x20F1), (0x3099, 0x309B),
         (0x1161, 0x11F9), (0x11A00, 0x11A48)]


def _from_ranges(rng: random.Random, ranges) -> str:
    return chr(rng.randrange(*rng.choice(ranges)))


def _added(rng: random.Random) -> str:
    token = rng.choice(ADDED)
    if rng.random() < 0.6:
        return token
    cut = rng.randrange(len(token))
    return rng.choice([token[:cut], token[cut:], token.upper(), token[:cut] + " " + token[cut:]])


MAKERS = [
    (20, lambda r: r.choice(WORDS)),
    (14, lambda r: " "),
    (10, lambda r: r.choice(WHITE) * r.choice([1, 1, 2, 3, 7])),
    (6, lambda r: "\n" * r.randrange(1, 4)),
    (10, lambda r: r.choice("!?.,;:-_/\\|()[]{}<>@#$%^&*+=~`\"'") * r.choice([1, 1, 2, 5])),
    (6, lambda r: str(r.randrange(10 ** r.randrange(1, 7)))),
    (4, lambda r: r.choice("½²³ⅧⅣ１２३٣፩𝟘")),
    (8, lambda r: r.choice(CONTRACTIONS)),
    (12, lambda r: _from_ranges(r, RANGES)),
    (8, lambda r: _from_ranges(r, MARKS) * r.choice([1, 1, 2])),
    (4, lambda r: "".join(_from_ranges(r, MARKS) for _ in range(3))),
    (3, lambda r: r.choice(NOT_WHITE)),
    (3, lambda r: r.choice(["👨‍👩‍👧", "🏳️‍🌈", "👍🏽", "🇩🇪", "e\u0301", "\u212b", "\u2126", "ﬁ", "각"])),
    (6, _added),
    (2, lambda r: r.choice("abcxyz ") * r.randrange(1, 80)),
    (2, lambda r: chr(r.choice([r.randrange(0xD800), r.randrange(0xE000, 0x110000)]))),
]
_WEIGHTS = [weight for weight, _ in MAKERS]
_FUNCTIONS = [function for _, function in MAKERS]


def random_texts(seed: int, count: int):
    """`count` strings that mix scripts, marks, controls, emoji, white space,
    added tokens and broken pieces of them."""
    rng = random.Random(seed)
    for _ in range(count):
        size = rng.choice([1, 2, 3, 4, 6, 8, 12, 20])
        yield "".join(f(rng) for f in rng.choices(_FUNCTIONS, _WEIGHTS, k=size))


def code_point_texts(code_points, separator: str):
    """Each code point alone, before and after a letter, a digit, a space and a
    mark; and between a letter and a mark. `separator` is an added token, which
    no rule looks across: many cases go into one text."""
    cases = []
    for cp in code_points:
        if 0xD800 <= cp < 0xE000:
            continue
        char = chr(cp)
        cases.append(char)
        for other in ("a", "7", " ", "\u0301"):
            cases += [char + other, other + char]
        cases.append("a" + char + "\u0323")
        if len(cases) >= 500:
            yield separator.join(cases)
            cases = []
    yield separator.join(cases)


def real_texts(max_bytes: int):
    """Files of installed packages: sources, documentation, translations. Those
    that are not UTF-8 are read with replacement characters."""
    paths = sysconfig.get_paths()
    roots = [paths["purelib"], paths["stdlib"], "/usr/share", "/usr/include"]
    # Translations first: they hold the languages. A cap for each keeps the mix.
    kinds = [((".mo", ".po"), 0.35), ((".md", ".rst", ".txt", ".html", ".json"), 0.25),
             ((".py", ".h", ".hpp", ".js", ".c", ".cpp", ".cmake"), 1.0)]
    files = []
    for root in roots:
        for folder, folders, names in os.walk(root):
            folders.sort()
            files += [os.path.join(folder, name) for name in sorted(names)]
    random.Random(1).shuffle(files)  # Else the first packages would fill it.
    total = 0
    for suffixes, share in kinds:
        limit = min(max_bytes, total + share * max_bytes)
        for file in files:
            if total >= limit:
                break
            if not file.endswith(suffixes) or not os.path.isfile(file):
                continue
            if os.path.getsize(file) <= 1 << 20:
                with open(file, "rb") as opened:
                    text = opened.read().decode("utf-8", errors="replace")
                total += len(text.encode())
                yield text
