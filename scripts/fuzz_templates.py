#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compares our template engine with jinja2 on random small templates.

Templates are drawn from a grammar by a seeded generator and rendered by
jinja2 in the environment that transformers makes for chat templates, and by the
test program template_batch. The texts must be equal; where one fails the other
must fail too. Texts that show an object's address are not compared.

  python scripts/fuzz_templates.py --program build/text/tests/chat/template_batch
      [--count 100000] [--seed 1]

Needs transformers and jinja2 (scripts/requirements-oracle.txt).
"""

import argparse
import datetime
import functools
import inspect
import json
import pathlib
import random
import re
import subprocess
import sys

CONTEXT = {
    "a": 3,
    "b": -7,
    "z": 0,
    "f": 2.5,
    "g": -0.125,
    "t": True,
    "n": None,
    "s": "Hello World",
    "e": "",
    "u": "Zürich ☁ straße\u00a0x",
    "w": "  two\n lines\t ",
    "h": "<b class=\"q\">it's & more</b>",
    "l": [3, 1, 2],
    "m": ["b", "A", "c", "a"],
    "x": [],
    "d": {"k": "v", "n": 1, "items": [1, 2]},
    "y": {},
    "r": [
        {"name": "bo", "age": 5, "tags": ["p", "q"]},
        {"name": "Al", "age": 3, "tags": []},
        {"name": "cy", "age": 5, "sub": {"v": 1.5}},
    ],
    "p": [[1, "one"], [2, "two"]],
    "q": {"b": [1, {"c": None}], "a": 1e20, "Z": "☁\"\\\n"},
}
NAMES = list(CONTEXT)
FREE = ["i", "j", "v", "undef", "loop", "ns", "c1", "c2"]
STRINGS = [
    "", " ", "a", "abc", "Hello", "x,y,z", "one two  three", "Ärger ß", "1", "-12",
    "3.5", "1e3", "0x1f", "%s-%d", "{} and {}", "{0}{1!r:>5}", "it's", 'say "x"',
    "<i>", "\\n", "a\\tb", "tail  ", "\\u00e9\\x41", "k", "n", "name", "age", "ab" * 6,
]
FILTERS = [
    ("abs", 0), ("capitalize", 0), ("center", "w"), ("count", 0), ("d", "e"),
    ("default", "e"), ("default", "eb"), ("dictsort", 0), ("dictsort", "ds"),
    ("e", 0), ("escape", 0), ("filesizeformat", 0), ("filesizeformat", "b"),
    ("first", 0), ("float", 0), ("forceescape", 0), ("format", "args"),
    ("groupby", "attr"), ("indent", 0), ("indent", "ind"), ("int", 0),
    ("int", "int"), ("items", 0), ("join", 0), ("join", "str"), ("last", 0),
    ("length", 0), ("list", 0), ("lower", 0), ("map", "map"), ("max", 0),
    ("min", 0), ("max", "attrkw"), ("reject", "test"), ("rejectattr", "attrtest"),
    ("replace", "rep"), ("reverse", 0), ("round", 0), ("round", "round"),
    ("safe", 0), ("select", "test"), ("selectattr", "attrtest"), ("slice", "num"),
    ("batch", "num"), ("sort", 0), ("sort", "sort"), ("string", 0),
    ("striptags", 0), ("sum", 0), ("sum", "attrkw"), ("title", 0), ("tojson", 0),
    ("tojson", "json"), ("trim", 0), ("trim", "str"), ("truncate", "trunc"),
    ("unique", 0), ("upper", 0), ("urlencode", 0), ("wordcount", 0),
    ("xmlattr", 0), ("attr", "str"), ("nofilter", 0),
]
TESTS = [
    "boolean", "callable", "defined", "divisibleby 3", "eq 3", "even", "false",
    "float", "ge 2", "gt 2", "in [1, 'a', none]", "in 'abc'", "integer",
    "iterable", "le 2", "lower", "lt 'b'", "mapping", "ne 3", "none", "number",
    "odd", "sequence", "string", "true", "undefined", "upper", "escaped",
    "sameas none", "filter", "test", "notest",
]
METHODS = [
    "capitalize()", "casefold()", "center(9, '*')", "count('l')", "endswith('d')",
    "find('o')", "find('l', 3)", "index('o')", "isalnum()", "isalpha()",
    "isdigit()", "islower()", "isspace()", "istitle()", "isupper()", "join(m)",
    "ljust(8)", "lower()", "lstrip()", "lstrip('H ')", "partition('o')",
    "replace('l', 'L')", "replace('', '-', 2)", "rfind('l')", "rjust(12, '.')",
    "rpartition(' ')", "rsplit(' ', 1)", "rstrip()", "split()", "split(',')",
    "split(none, 1)", "splitlines()", "startswith('H')", "startswith(('x', 'H'))",
    "strip()", "strip('Hd')", "swapcase()", "title()", "upper()", "zfill(6)",
    "removeprefix('He')", "expandtabs(4)", "format(a, s)", "format(1.5, f)",
    "items()", "keys()", "values()", "get('k')", "get('q', 'dflt')", "get(a)",
    "copy()", "append(1)", "pop('k')", "index(1)", "count(1)", "nope()", "nope",
    "k", "name", "items", "real", "bit_length()", "is_integer()", "__class__", "_x",
]


class Grammar:
    def __init__(self, rng):
        self.rng = rng
        self.macros = []

    def pick(self, seq):
        return self.rng.choice(seq)

    def chance(self, p):
        return self.rng.random() < p

    def string(self):
        text = self.pick(STRINGS)
        quote = "'" if "'" not in text else '"'
        return quote + text + quote

    def literal(self):
        kind = self.rng.randrange(9)
        if kind < 3:
            return self.string()
        if kind < 5:
            return str(self.rng.randrange(0, 13))
        return self.pick(
            ["1.5", "0.1", "2.0", "1e3", "1e-7", "1e16", "123456.789", "true", "false", "none",
             "True", "None", "0x1F", "1_000", "[]", "{}", "()", "100"]
        )

    def name(self):
        return self.pick(NAMES) if self.chance(0.8) else self.pick(FREE)

    def atom(self, depth):
        kind = self.rng.randrange(12)
        if depth <= 0 or kind < 5:
            return self.name() if self.chance(0.65) else self.literal()
        e = lambda: self.expr(depth - 1)
        if kind == 5:
            return "[" + ", ".join(e() for _ in range(self.rng.randrange(4))) + "]"
        if kind == 6:
            items = [e() for _ in range(self.rng.randrange(4))]
            return "(" + ", ".join(items) + ("," if len(items) == 1 and self.chance(0.6) else "") + ")"
        if kind == 7:
            pairs = [
                f"{self.string() if self.chance(0.7) else e()}: {e()}"
                for _ in range(self.rng.randrange(3))
            ]
            return "{" + ", ".join(pairs) + "}"
        if kind == 8:
            return self.call(depth - 1)
        return "(" + e() + ")"

    def call(self, depth):
        e = lambda: self.expr(depth - 1)
        kind = self.rng.randrange(7)
        if kind == 0:
            return "range(" + ", ".join(str(self.rng.randrange(-2, 7)) for _ in range(self.rng.randrange(1, 4))) + ")"
        if kind == 1:
            return f"dict({self.pick(['', 'd, ', 'p, '])}k={e()})"
        if kind == 2:
            return f"namespace({self.pick(['', 'd'])})" if self.chance(0.5) else f"namespace(k={e()}, v=1)"
        if kind == 3 and self.macros:
            return f"{self.pick(self.macros)}({', '.join(e() for _ in range(self.rng.randrange(3)))})"
        if kind == 4:
            return self.pick(["loop.cycle('x', 'y')", "loop.changed(a)", "caller()", "cycler(1, 2).next()", "joiner('; ')()", "strftime_now('%d %b %Y %H:%M')"])
        if kind == 5:
            return f"raise_exception({e()})" if self.chance(0.15) else f"dict({e()})"
        return f"{self.pick(['undef', 's', 'd', 'a'])}({e()})" if self.chance(0.1) else f"dict(p)"

    def number(self):
        return self.pick(["a", "b", "f", "g", "t", "2", "3", "10", "1.5", "(a + 1)", "l[0]", "l|length"])

    def postfix(self, depth):
        if self.chance(0.25):
            # A str method where it belongs, and an attribute that exists.
            method = self.pick([m for m in METHODS if m.endswith(")")][:46])
            return self.pick(["s", "e", "u", "w", "h", self.string()]) + "." + method
        out = self.atom(depth)
        while self.chance(0.3):
            kind = self.rng.randrange(6)
            if kind < 2:
                out += "." + self.pick(METHODS)
            elif kind == 2:
                out += f"[{self.rng.randrange(-3, 4)}]"
            elif kind == 3:
                out += f"[{self.string()}]"
            elif kind == 4 and (out in NAMES or out[0] in "'\""):
                # Not of constants that have no items: jinja2 computes those
                # before it runs, by rules that differ from run time's.
                parts = [self.pick(["", "", "1", "-1", "2", "-2", "n", "0"]) for _ in range(3)]
                out += "[" + (":".join(parts) if self.chance(0.4) else ":".join(parts[:2])) + "]"
            else:
                out += f"[{self.expr(depth - 2)}]"
        return out

    def filter_args(self, kind, depth):
        r = self.rng
        small = lambda: str(r.randrange(0, 6))
        attr = lambda: self.pick(["'name'", "'age'", "'tags'", "'sub.v'", "0", "'0'", "1", "'nope'", "'age,name'"])
        test = lambda: self.pick(["'odd'", "'defined'", "'string'", "'none'", "'equalto', 3", "'in', [1, 2, 'a']", "'gt', 1", "'notest'", "'mapping'"])
        return {
            "w": lambda: small() + "0",
            "e": lambda: self.expr(depth),
            "eb": lambda: f"{self.expr(depth)}, {self.pick(['true', 'false', 'boolean=true'])}",
            "ds": lambda: self.pick(["true", "false, 'value'", "by='value'", "reverse=true", "by='x'", "case_sensitive=true, reverse=true"]),
            "b": lambda: self.pick(["true", "binary=true"]),
            "args": lambda: ", ".join(self.expr(depth) for _ in range(r.randrange(3))),
            "attr": attr,
            "attrkw": lambda: "attribute=" + attr(),
            "ind": lambda: self.pick(["2", "2, true", "1, false, true", "'> '", "width=3, first=true", "blank=true"]),
            "int": lambda: self.pick(["7", "0, 16", "default=-1", "base=8", "0, 0"]),
            "str": lambda: self.string(),
            "map": lambda: self.pick(["'upper'", "'length'", "attribute='name'", "attribute='age', default=0", "'replace', 'a', 'X'", "'string'", "'nofilter'", "attribute=0", "", "'tojson'", "'int'"]),
            "test": lambda: self.pick(["", test(), test(), test()]),
            "attrtest": lambda: attr() + (", " + test() if self.chance(0.6) else ""),
            "rep": lambda: f"{self.string()}, {self.string()}" + (", " + small() if self.chance(0.3) else ""),
            "round": lambda: self.pick(["1", "2, 'floor'", "0, 'ceil'", "method='floor'", "precision=3", "-1", "1, 'up'"]),
            "num": lambda: self.pick(["2", "3", "1", "2, 'x'", "3, fill_with=0", "0"]),
            "sort": lambda: self.pick(["true", "reverse=true", "attribute='name'", "case_sensitive=true", "attribute='age,name'", "true, true", "attribute='nope'"]),
            "json": lambda: self.pick(["indent=2", "true", "ensure_ascii=true", "sort_keys=true", "separators=(',', ':')", "indent=0", "indent='\\t'", "indent=1, separators=['; ', '=']"]),
            "trunc": lambda: self.pick(["5", "8, true", "8, false, '~'", "3, true, '', 0", "length=6, end='…', leeway=1", "1"]),
        }[kind]()

    def filtered(self, depth):
        out = self.postfix(depth)
        while self.chance(0.35):
            name, kind = self.pick(FILTERS)
            if name == "nofilter" and not self.chance(0.1):
                continue
            out += "|" + name
            if kind:
                out += "(" + self.filter_args(kind, depth - 2) + ")"
        if self.chance(0.12):
            test = self.pick(TESTS)
            if test == "notest" and not self.chance(0.1):
                test = "defined"
            out += f" is {'not ' if self.chance(0.3) else ''}{test}"
        return out

    def expr(self, depth):
        if depth <= 0:
            return self.postfix(0)
        kind = self.rng.randrange(22)
        e = lambda: self.expr(depth - 1)
        if kind < 8:
            return self.filtered(depth)
        if kind < 11:
            if self.chance(0.5):
                return f"{e()} ~ {e()}"
            op = self.pick(["+", "-", "*", "/", "//", "%"])
            if self.chance(0.85):
                return f"{self.number()} {op} {self.number()}"
            return f"{e()} {op} {e()}"
        if kind == 11:
            if self.chance(0.6):
                return f"{self.number()} {self.pick(['<', '<=', '>', '>='])} {self.number()}"
            return f"{e()} {self.pick(['==', '!=', '<', '<=', '>', '>='])} {e()}"
        if kind == 12:
            if self.chance(0.7):
                return f"{self.atom(0)} in {self.pick(['l', 'm', 'x', 'range(4)', '(1, s)', 'r'])}"
            return f"{e()} {self.pick(['in', 'not in'])} {e()}"
        if kind == 13:
            return f"{e()} {self.pick(['and', 'or'])} {e()}"
        if kind == 14:
            return f"not {e()}"
        if kind == 15:
            return f"{e()} if {e()}" + (f" else {e()}" if self.chance(0.8) else "")
        if kind == 16:
            operand = self.number() if self.chance(0.8) else self.postfix(depth - 1)
            return f"{self.pick(['-', '+'])}{operand}"
        if kind == 17:
            return f"{self.rng.randrange(-3, 4)} ** {self.rng.randrange(0, 5)}"
        if kind == 18:
            return f"{self.atom(depth - 1)} {self.pick(['<', '<=', '=='])} {self.atom(0)} {self.pick(['<', 'in', '!='])} {self.atom(0)}"
        return self.postfix(depth)

    def text(self):
        return self.pick(["", "", " ", "\n", "\n\n", "  \n  ", "text", "a b\n", " - ", "\t", "\r\n", "é☁", "}", "{ ", "% "])

    def tag(self, inside):
        left = self.pick(["", "", "", "-", "+"])
        right = self.pick(["", "", "", "-", "+"])
        return f"{{%{left} {inside} {right}%}}"

    def output(self, depth):
        return f"{{{{{self.pick(['', '', '-'])} {self.expr(depth)} {self.pick(['', '', '-'])}}}}}"

    def target(self):
        return self.pick(["i", "j", "v", "c1", "a", "s", "x", "i, j", "(i, j)", "v"])

    def statement(self, depth, in_loop):
        kind = self.rng.randrange(24)
        body = lambda loop=in_loop: self.body(depth - 1, loop)
        if depth <= 0 or kind < 7:
            return self.output(self.pick((1, 2, 2, 3)))
        if kind < 11:
            out = self.tag(f"if {self.expr(2)}") + body()
            while self.chance(0.25):
                out += self.tag(f"elif {self.expr(2)}") + body()
            if self.chance(0.4):
                out += self.tag("else") + body()
            return out + self.tag("endif")
        if kind < 15:
            iterable = self.pick(["l", "m", "r", "p", "d", "s", "x", "q", "range(3)", "d.items()", "d|items", "r|reverse", "undef", self.expr(2)])
            target = "i, j" if iterable in ("p", "d.items()", "d|items") and self.chance(0.8) else self.target()
            out = f"for {target} in {iterable}"
            if self.chance(0.2):
                out += f" if {self.expr(2)}"
            recursive = self.chance(0.08)
            out = self.tag(out + (" recursive" if recursive else ""))
            if self.chance(0.4):
                out += "{{ loop." + self.pick(["index", "index0", "first", "last", "length", "revindex", "revindex0", "previtem", "nextitem", "depth", "nope", "cycle('o', 'e')", "changed(i)"]) + " }}"
            if recursive and self.chance(0.5):
                out += "{% if loop.depth < 3 %}{{ loop([1, 2]) }}{% endif %}"
            out += body(True)
            if self.chance(0.25):
                out += self.tag("else") + body(in_loop)
            return out + self.tag("endfor")
        if kind < 18:
            if self.chance(0.2):
                return "{% set ns = namespace(k=0) %}" + self.text() + "{% for i in l %}" + self.tag(f"set ns.k = {self.expr(2)}") + "{% endfor %}{{ ns.k }}"
            if self.chance(0.2):
                flt = self.pick(["", "", " | upper", " | trim | length"])
                return self.tag(f"set {self.pick(['v', 'c1', 's'])}{flt}") + body() + self.tag("endset")
            return self.tag(f"set {self.target()} = {self.expr(2)}{self.pick(['', '', '', ', 1'])}")
        if kind == 18:
            name = self.pick(["f1", "f2"])
            params = self.pick(["", "i", "i, j=2", "v, s='dflt'", "i=a, j=i", "caller=none", "kwargs"])
            out = self.tag(f"macro {name}({params})") + body(False)
            out += self.pick(["", "", "{{ varargs }}", "{{ kwargs }}", "{{ caller() if caller else '' }}", "{{ f1.name }}"])
            out += self.tag("endmacro")
            self.macros.append(name)
            return out + self.text() + f"{{{{ {name}({self.pick(['', '1', '1, 2', 'j=5', '1, k=2', '*l', '**d', 'i=s'])}) }}}}"
        if kind == 19 and self.macros:
            params = self.pick(["", "", "(i)", "(i, j=1)"])
            return self.tag(f"call{params} {self.pick(self.macros)}({self.pick(['', '1', 'j=2'])})") + body(False) + self.tag("endcall")
        if kind == 20:
            return self.tag("filter " + self.pick(["upper", "trim", "replace('a', 'b')", "indent(2)", "length", "nofilter" if self.chance(0.05) else "lower"])) + body() + self.tag("endfilter")
        if kind == 21:
            return self.tag(f"with {self.pick(['v', 'i', 'a'])} = {self.expr(2)}{self.pick(['', ', j = v', ', j = a'])}") + body() + self.tag("endwith")
        if kind == 22:
            return self.pick([
                "{# note " + self.text() + " #}", "{#- note -#}", "{#+ x +#}\n",
                "{% raw %} {{ x }} {% if %}{% endraw %}", "{%- raw -%}\n {{ {%- endraw -%}\n",
                self.tag("generation") + body(False) + self.tag("endgeneration"),
                self.tag("break") if in_loop or self.chance(0.05) else "",
                self.tag("continue") if in_loop or self.chance(0.05) else "",
                self.tag(f"print {self.expr(1)}, {self.expr(1)}"),
            ])
        if kind == 23 and self.chance(0.1):
            return self.pick([
                "{% if %}", "{{ }}", "{{ a. }}", "{% endfor %}", "{{ 'open }}", "{% for %}",
                "{{ a b }}", "{% set 1 = 2 %}", "{% unknown %}", "{{ ( }}", "{{ a | }}",
                "{% include 'x' %}", "{% set loop = 1 %}", "{{ a ! b }}", "{{ [1, }}", "{{ x is }}",
                "{% block b %}" + self.text() + "{{ a }}{% endblock %}", "{# open",
                "{{ f(a=1, a=2) }}", "{{ f(**d, *l) }}", "{% raw %}", "{{ a[1:2:3:4] }}",
            ])
        return self.output(2)

    def body(self, depth, in_loop=False):
        out = ""
        for _ in range(self.pick((1, 1, 1, 2, 3))):
            out += self.text() + self.statement(depth, in_loop)
        return out + self.text()


class Generator:
    """A generator that shows no address, as text or through another filter."""

    def __init__(self, generator):
        self.generator = generator

    def __iter__(self):
        return self.generator

    def __next__(self):
        return next(self.generator)

    def __repr__(self):
        return "<generator object>"


def without_address(function):
    """The filter, with a generator that it returns as a Generator."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        result = function(*args, **kwargs)
        return Generator(result) if inspect.isgenerator(result) else result

    return wrapped


def make_environment():
    import transformers.utils.chat_template_utils as utils

    class FixedTime(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime(2026, 11, 23, 4, 5, 6)

    utils.datetime = FixedTime
    environment = utils._cached_compile_jinja_template("").environment
    for name, function in list(environment.filters.items()):
        environment.filters[name] = without_address(function)
    return environment


def reference(environment, source):
    try:
        text = environment.from_string(source).render(json.loads(json.dumps(CONTEXT)))
        text.encode()
        return {"ok": text}
    except RecursionError:
        return {"error": "RecursionError"}
    except Exception as e:  # noqa: BLE001 - any failure is the answer
        return {"error": f"{type(e).__name__}: {e}"}


# What has no meaning to compare: addresses, and integers beyond 64 bits.
ADDRESS = re.compile(
    r"0x[0-9a-f]{6,}|<generator|<function|<built-in|<bound method|iterator object|<class|"
    r"<TemplateReference|TemplateDict|<jinja2|reversed object",
    re.IGNORECASE,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", required=True, type=pathlib.Path)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", type=int, default=10, help="differences to print")
    args = parser.parse_args()

    import warnings

    import jinja2
    import transformers

    warnings.simplefilter("ignore")
    environment = make_environment()
    rng = random.Random(args.seed)
    counts = {"equal": 0, "both fail": 0, "not compared": 0, "differ": 0}
    done = 0
    shown = 0
    while done < args.count:
        sources = []
        while len(sources) < min(5000, args.count - done):
            source = Grammar(rng).body(rng.choice((0, 0, 1, 1, 2)))
            sources.append(source)
        lines = "".join(
            json.dumps({"template": s, "context": CONTEXT}) + "\n" for s in sources
        )
        result = subprocess.run(
            [args.program], input=lines.encode(), stdout=subprocess.PIPE, check=True
        )
        ours = result.stdout.decode().split("\n")[:-1]
        assert len(ours) == len(sources), (len(ours), len(sources))
        for source, line in zip(sources, ours):
            got = json.loads(line)
            expected = reference(environment, source)
            if "ok" in expected and ADDRESS.search(expected["ok"]):
                kind = "not compared"
            elif "64 bits" in got.get("error", "") or "complex" in got.get("error", ""):
                kind = "not compared"
            elif "ok" in expected and expected == got:
                kind = "equal"
            elif "error" in expected and "error" in got:
                kind = "both fail"
            else:
                kind = "differ"
                if shown < args.show:
                    shown += 1
                    print(f"--- {source!r}\nexpected {expected}\ngot      {got}")
            counts[kind] += 1
        done += len(sources)
    print(
        f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}, "
        f"Python {sys.version.split()[0]}, seed {args.seed}\n{done} templates: "
        + ", ".join(f"{n} {kind}" for kind, n in counts.items())
    )
    sys.exit(1 if counts["differ"] else 0)


if __name__ == "__main__":
    main()
