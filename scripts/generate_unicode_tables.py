#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Generates src/tokenizer/unicode_tables.cpp.

    python3 scripts/generate_unicode_tables.py

Classes (letter, mark, number, white space) are Unicode 16's, from
`unicodedata2`. What Python `tokenizers` does differently is asked of it: which
combining marks its NFC reorders, which pairs it composes, and what is a word
character to its `single_word` flag. Counts that must hold are checked.
"""

import sys
from pathlib import Path

import tokenizers
import unicodedata2 as ucd
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

OUT = Path(__file__).resolve().parent.parent / "src/tokenizer/unicode_tables.cpp"
NUM_CODE_POINTS = 0x110000
SURROGATES = range(0xD800, 0xE000)
BLOCK = 128

OTHER, LETTER, MARK, NUMBER, SPACE, NEWLINE = range(6)
CLASS_MASK = 7
NFC_ACTIVE = 8  # may change under NFC, or change its neighbours
WORD = 16
NUMERIC = 32  # to the Digits step, which knows a newer Unicode than the regexes

WHITE_SPACE = {*range(0x9, 0xE), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B),
               0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
EXPECTED = {LETTER: 141_028, NUMBER: 1_911, MARK: 2_501, SPACE: 23, NEWLINE: 2}


def scalars():
    return (cp for cp in range(NUM_CODE_POINTS) if cp not in SURROGATES)


def char_class(cp: int) -> int:
    if cp in (0xA, 0xD):
        return NEWLINE
    if cp in WHITE_SPACE:
        return SPACE
    return {"L": LETTER, "M": MARK, "N": NUMBER}.get(ucd.category(chr(cp))[0], OTHER)


def word_characters() -> set[int]:
    """Code points that stop a single_word token from matching beside them."""
    oracle = Tokenizer(models.BPE(vocab={}, merges=[]))
    oracle.add_tokens([AddedToken("<X>", single_word=True, normalized=False)])
    return {cp for cp in scalars() if not oracle.encode(chr(cp) + "<X>").ids}


def numeric_characters() -> set[int]:
    """Code points that the Digits step separates from a letter."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    return {cp for cp in scalars() if len(digits.pre_tokenize_str("a" + chr(cp))) == 2}


def nfc_tables():
    """Combining classes, decompositions and compositions as the oracle has them."""
    nfc = normalizers.NFC().normalize_str
    nfd = normalizers.NFD().normalize_str
    classes, decompositions, compositions = {}, {}, {}
    differences = [0, 0, 0]
    for cp in scalars():
        char = chr(cp)
        ccc = ucd.combining(char)
        if ccc:
            # U+0334 has class 1 and U+0345 240, the ends of the range: a mark
            # with a class of its own moves behind the one or before the other.
            low, high = "\u0334", "\u0345"
            probe = high + char if ccc < 240 else char + low
            if nfd("a" + probe) == "a" + probe and ccc != 240:
                differences[0] += 1
            else:
                classes[cp] = ccc
        full = nfd(char)
        if full != ucd.normalize("NFD", char):
            differences[1] += 1
        if full != char and not 0xAC00 <= cp <= 0xD7A3:
            decompositions[cp] = [ord(part) for part in full]
        pair = ucd.decomposition(char).split()
        if len(pair) == 2 and not pair[0].startswith("<") and not 0xAC00 <= cp <= 0xD7A3:
            first, second = (int(part, 16) for part in pair)
            if nfc(chr(first) + chr(second)) == char:
                compositions[first, second] = cp
            elif ucd.normalize("NFC", char) == char:
                differences[2] += 1
    print(f"combining marks without a class in tokenizers: {differences[0]}; "
          f"single code points that differ: {differences[1]}; "
          f"compositions it lacks: {differences[2]}")
    return classes, decompositions, compositions


def rows(values, per_line, form) -> str:
    values = list(values)
    lines = []
    for start in range(0, len(values), per_line):
        lines.append("    " + " ".join(form(v) for v in values[start : start + per_line]))
    return "\n".join(lines)


def main() -> None:
    classes = [char_class(cp) for cp in range(NUM_CODE_POINTS)]
    for kind, expected in EXPECTED.items():
        found = classes.count(kind)
        if found != expected:
            sys.exit(f"class {kind}: {found} code points, expected {expected}")
    words = word_characters()
    numeric = numeric_characters()
    combining, decompositions, compositions = nfc_tables()
    nfc = normalizers.NFC().normalize_str
    seconds = {second for _, second in compositions}
    jamo = set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
    for cp in range(NUM_CODE_POINTS):
        if cp in words:
            classes[cp] |= WORD
        if cp in numeric:
            classes[cp] |= NUMERIC
        if cp in SURROGATES:
            continue
        if cp in combining or cp in seconds or cp in jamo or nfc(chr(cp)) != chr(cp):
            classes[cp] |= NFC_ACTIVE

    blocks, index = {}, []
    for start in range(0, NUM_CODE_POINTS, BLOCK):
        block = tuple(classes[start : start + BLOCK])
        index.append(blocks.setdefault(block, len(blocks)))
    flat = [value for block in blocks for value in block]

    pool, decomposed = [], []
    for cp, parts in sorted(decompositions.items()):
        decomposed.append((cp, len(pool), len(parts)))
        pool.extend(parts)

    text = f"""\
// SPDX-License-Identifier: MIT
// Generated by scripts/generate_unicode_tables.py: do not edit.
// Classes of Unicode {ucd.unidata_version}; normalization and word characters
// of Python tokenizers {tokenizers.__version__}.
#include "tokenizer/unicode_tables.h"

namespace qwen3_mlx::unicode {{

// clang-format off
const std::uint16_t block_index[{len(index)}] = {{
{rows(index, 16, lambda v: f"{v},")}
}};

const std::uint8_t blocks[{len(flat)}] = {{
{rows(flat, 32, lambda v: f"{v},")}
}};

const CombiningClass combining_classes[{len(combining)}] = {{
{rows(sorted(combining.items()), 6, lambda v: f"{{0x{v[0]:X},{v[1]}}},")}
}};

const char32_t decomposition_pool[{len(pool)}] = {{
{rows(pool, 12, lambda v: f"0x{v:X},")}
}};

const Decomposition decompositions[{len(decomposed)}] = {{
{rows(decomposed, 5, lambda v: f"{{0x{v[0]:X},{v[1]},{v[2]}}},")}
}};

const Composition compositions[{len(compositions)}] = {{
{rows(sorted(compositions.items()), 4, lambda v: f"{{0x{v[0][0]:X},0x{v[0][1]:X},0x{v[1]:X}}},")}
}};
// clang-format on

}} // namespace qwen3_mlx::unicode
"""
    OUT.write_text(text)
    print(f"{OUT.name}: {len(blocks)} blocks, {len(combining)} combining classes, "
          f"{len(decomposed)} decompositions, {len(compositions)} compositions, "
          f"{len(words)} word characters, {len(numeric)} numeric")


if __name__ == "__main__":
    main()
