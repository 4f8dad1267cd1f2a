// SPDX-License-Identifier: MIT
// The template engine by itself: the language, its limits, its errors. Equality
// with jinja2 in breadth is the work of scripts/fuzz_templates.py.
#include <ctime>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "chat/jinja/template.h"
#include "chat/json_value.h"
#include "qwen3_mlx/error.h"

namespace qwen3_mlx {
namespace {

std::string render(std::string_view source, std::string_view context = "{}") {
  std::tm now{};
  now.tm_year = 126;
  now.tm_mday = 5;
  return jinja::Template(source, "t")
      .render(parse_json(context, "context").as_dict(), TemplateLimits{}, now);
}

struct Case {
  const char* source;
  const char* expected;
};

class Language : public ::testing::TestWithParam<Case> {};

TEST_P(Language, RendersAsJinja) {
  EXPECT_EQ(
      render(
          GetParam().source,
          R"({"l":[3,1,2],"d":{"k":"v","items":1},"s":"Hé llo","n":null,
              "f":1.5,"t":true})"),
      GetParam().expected)
      << GetParam().source;
}

// Expected texts are what jinja2 3.1.6 prints with transformers' settings.
INSTANTIATE_TEST_SUITE_P(
    Expressions,
    Language,
    ::testing::Values(
        Case{"{{ 1 + 2 * 3 ** 2 }} {{ 7 // -2 }} {{ -7 % 3 }}", "19 -4 2"},
        Case{
            "{{ 1 / 2 }} {{ 1e20 }} {{ 1e16 }} {{ 0.1 }}",
            "0.5 1e+20 1e+16 0.1"},
        Case{"{{ 'a' ~ 1 ~ none ~ true }}", "a1NoneTrue"},
        Case{"{{ l[::-1] }} {{ l[1:] }} {{ s[1] }}", "[2, 1, 3] [1, 2] é"},
        Case{
            "{{ d.items() | list }} {{ d['items'] }}",
            "[('k', 'v'), ('items', 1)] 1"},
        Case{
            "{{ 1 < 2 < 3 }} {{ 'l' in s }} {{ 4 not in l }}",
            "True True True"},
        Case{"{{ x }}|{{ x is defined }}|{{ x or 'y' }}", "|False|y"},
        Case{"{{ not x is defined }}", "True"},
        Case{"{{ 'yes' if t else 'no' }}{{ 'a' if false }}", "yes"},
        Case{
            "{{ (1, 'a', [none, {}]) }} {{ (1,) }}",
            "(1, 'a', [None, {}]) (1,)"},
        Case{"{{ \"it's\" | list | length }}", "4"},
        Case{"{{ '%s=%05.2f' % ('x', f) }}", "x=01.50"},
        Case{"{{ '%g %#.0f' % (1e10, 5) }}", "1e+10 5."},
        Case{"{{ '{0}-{k!r:>5}'.format(1, k='é') }}", "1-  'é'"},
        Case{
            "{{ s.upper() }} {{ 'ß'.upper() }} {{ 'ΑΣ'.lower() }}",
            "HÉ LLO SS ας"},
        Case{
            "{{ '<a>' | safe + '<b>' }} {{ ('<a>' | safe) + '<b>' }}",
            "<a>&lt;b&gt; <a>&lt;b&gt;"}));

INSTANTIATE_TEST_SUITE_P(
    Filters,
    Language,
    ::testing::Values(
        Case{
            "{{ d | tojson }} {{ 'é\\u2028\\x01' | tojson }}",
            "{\"k\": \"v\", \"items\": 1} \"é\u2028\\u0001\""},
        Case{
            "{{ [1.0, none, true] | tojson(indent=1) }}",
            "[\n 1.0,\n null,\n true\n]"},
        Case{"{{ l | sort | join(', ') }} {{ l | max }}", "1, 2, 3 3"},
        Case{
            "{{ {'b': 1, 'a': [{2: 1, 'x': 2, 1.5: 3}]} | pprint }}",
            "{'a': [{1.5: 3, 2: 1, 'x': 2}], 'b': 1}"},
        Case{"{{ l | map('string') | list }}", "['3', '1', '2']"},
        Case{
            "{{ l | select('odd') | list }} {{ l | reject('gt', 1) | list }}",
            "[3, 1] [1]"},
        Case{
            "{{ [{'a': 1}, {'a': 2}] | selectattr('a', 'eq', 2) | list }}",
            "[{'a': 2}]"},
        Case{"{{ '\\xa0 x \\n' | trim }}", "x"},
        Case{
            "{{ 2.5 | round }} {{ 2.675 | round(2) }} {{ '0x1f' | int(0, 16) "
            "}}",
            "2.0 2.67 31"},
        Case{
            "{{ '٣٤' | int }} {{ '１.５' | float }} {{ '𝟟' | int }}",
            "34 1.5 7"},
        Case{"{{ 'a\\nb' | indent(2) }}", "a\n  b"},
        Case{
            "{{ [{'a': 1}, {'a': 2}] | groupby('a') | tojson }}",
            "[[1, [{\"a\": 1}]], [2, [{\"a\": 2}]]]"},
        Case{"{{ ([{'a': 1}] | groupby('a') | first)[:1] }}", "(1,)"},
        Case{"{{ -0.5 | round(0, 'ceil') }}", "0.0"},
        Case{"{{ 1[:0] }}{{ {}[1:] is defined }}", "False"},
        Case{"{{ range(2, 9, 3).count(5) }}{{ range(3).index(2) }}", "12"},
        Case{
            "{{ d | dictsort }} {{ l | batch(2) | list }}",
            "[('items', 1), ('k', 'v')] [[3, 1], [2]]"}));

INSTANTIATE_TEST_SUITE_P(
    Statements,
    Language,
    ::testing::Values(
        Case{
            "{% for x in l %}{{ loop | reverse | map('first') | list }}{% "
            "endfor "
            "%}",
            "[2, 1]"},
        Case{
            "{% for x in l %}{% for y, outer in loop %}{{ x ~ y ~ outer.index "
            "}} {% endfor %}{% endfor %}",
            "312 323 "},
        Case{
            "{% for x in l %}{{ loop.index }}{{ x }}{{ ',' if not loop.last "
            "}}{% endfor %}",
            "13,21,32"},
        Case{
            "{% for x in l if x > 1 %}{{ loop.length }}{{ x }}{% else %}-{% "
            "endfor %}",
            "2322"},
        Case{
            "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% "
            "endfor %}",
            "32"},
        Case{"{% for x in [] %}{% else %}none{% endfor %}", "none"},
        Case{
            "{% set a = 1 %}{% for x in l %}{% set a = x %}{% endfor %}{{ a }}",
            "1"},
        Case{
            "{% set ns = namespace(a=0) %}{% for x in l %}{% set ns.a = ns.a + "
            "x %}{% endfor %}{{ ns.a }}",
            "6"},
        Case{
            "{% macro m(a, b=2) %}{{ a }}{{ b }}{{ varargs }}{% endmacro %}{{ "
            "m(1) }} {{ m(1, 3, 4) }}",
            "12() 13(4,)"},
        Case{
            "{% macro m() %}<{{ caller(5) }}>{% endmacro %}{% call(x) m() %}{{ "
            "x }}{% endcall %}",
            "<5>"},
        Case{"{% set v | upper %}a{{ 1 }}{% endset %}{{ v }}", "A1"},
        Case{
            "{% filter upper %}a{% endfilter %}{% with a = 1 %}{{ a }}{% "
            "endwith %}",
            "A1"},
        Case{
            "{% for k in [[1, [2]]] recursive %}{{ k if k is integer else "
            "loop(k) }}{% endfor %}",
            "12"},
        Case{"{% generation %}{% set q = 1 %}g{% endgeneration %}{{ q }}", "g"},
        Case{
            "{% set q = 2 %}{% macro m() %}{{ q }}{% endmacro %}{% set q = 3 "
            "%}{{ m() }}",
            "3"},
        Case{"{{ strftime_now('%Y-%m-%d') }}", "2026-01-05"},
        Case{"  {% if t %}\n x\n  {%- endif %}\ny\n", " xy"},
        Case{
            "{% set ns = namespace() %}{% set ns.k = (4, ns, [ns]) %}"
            "{{ ns.k }}",
            "(4, <Namespace {'k': (...)}>, [<Namespace {'k': (...)}>])"},
        Case{"a\n  {#- c -#}\n b{% raw %}{{ x }}{% endraw %}", "ab{{ x }}"}));

TEST(JinjaErrors, SayLineAndColumn) {
  try {
    render("a\n  {{ 1 + n }}", R"({"n":null})");
    FAIL();
  } catch (const TemplateError& e) {
    EXPECT_EQ(e.line(), 2u);
    EXPECT_EQ(e.column(), 8u);
    EXPECT_THAT(e.what(), ::testing::HasSubstr("t:2:8: unsupported operand"));
  }
  try {
    render("{% if é %}\n{% endfor %}");
    FAIL();
  } catch (const TemplateError& e) {
    EXPECT_EQ(e.line(), 2u);
    EXPECT_EQ(e.column(), 4u);
  }
}

TEST(JinjaErrors, RaiseExceptionSaysWhy) {
  try {
    render("{{ raise_exception('No ' ~ 'user') }}");
    FAIL();
  } catch (const TemplateError& e) {
    EXPECT_THAT(e.what(), ::testing::EndsWith("No user"));
  }
}

std::string repeated(std::string_view text, int n) {
  std::string out;
  for (int k = 0; k < n; ++k) {
    out += text;
  }
  return out;
}

// Templates that try to take all the time, memory or stack, or what is not
// theirs. Each must end in an error, soon.
std::vector<std::string> hostile_templates() {
  // Long ones go over two lines.
  // NOLINTBEGIN(bugprone-suspicious-missing-comma)
  std::vector<std::string> out = {
      repeated("{% for i in range(99999) %}", 2) + repeated("{% endfor %}", 2),
      "{% for i in range(100001) %}{% endfor %}",
      "{{ range(10**18) }}",
      "{{ 'a' * 10**12 }}",
      "{{ 10**12 * 'ab' }}",
      "{{ [0] * 10**12 }}",
      "{{ (1,) * 10**9 }}",
      "{{ 9**99999999 }}",
      "{{ 10**18 * 10**18 }}",
      "{{ '%1000000000d' % 1 }}",
      "{{ '%.1000000000f' % 1 }}",
      "{{ '%*d' % (999999999, 1) }}",
      "{{ '{:1000000000}'.format(1) }}",
      "{{ '{:.1000000000f}'.format(1.0) }}",
      "{{ 'a'.center(10**12) }}",
      "{{ 'a'.ljust(10**15) }}",
      "{{ 'a'.zfill(10**15) }}",
      "{{ 'a' | center(10**13) }}",
      "{{ 'a\\nb' | indent(10**12) }}",
      "{{ '\\t'.expandtabs(10**12) * 200 }}",
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% "
      "endmacro %}{{ a() }}",
      "{% macro m(x) %}{{ m([x]) }}{% endmacro %}{{ m(1) }}",
      "{% macro m() %}{{ m() ~ m() }}{% endmacro %}{{ m() }}",
      "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
      "{% set ns = namespace(s='abcdefgh') %}{% for i in range(99) %}{% set "
      "ns.s = ns.s + ns.s %}{% endfor %}",
      "{% set ns = namespace(s='abcdefgh') %}{% for i in range(99) %}{% set "
      "ns.s = ns.s ~ ns.s %}{% endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = "
      "ns.l + ns.l %}{% endfor %}",
      "{% set ns = namespace(l=[]) %}{% for i in range(9999) %}{% set ns.l = "
      "[ns.l] %}{% endfor %}",
      "{% set ns = namespace(l={}) %}{% for i in range(9999) %}{% set ns.l = "
      "{'a': ns.l} %}{% endfor %}",
      "{% set ns = namespace(l=(1,)) %}{% for i in range(9999) %}{% set ns.l = "
      "(ns.l, ns.l) %}{% endfor %}",
      "{% set ns = namespace(g=[1]) %}{% for i in range(9999) %}{% set ns.g = "
      "ns.g | map('string') %}{% endfor %}",
      "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns | tojson }}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = "
      "[ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = "
      "[ns.l, ns.l] %}{% endfor %}{{ ns.l | tojson }}",
      "{{ range(99999) | map('string') | join('" + repeated("x", 200) + "') }}",
      "{% for i in range(99999) %}" + repeated("x", 200) + "{% endfor %}",
      "{% for i in range(99999) %}{{ range(99999) | sum }}{% endfor %}",
      "{% for i in range(99999) %}{{ 5 in range(99999) | list }}{% endfor %}",
      "{% for i in range(99999) %}{{ range(99999) | sort | length }}{% endfor "
      "%}",
      "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ s.upper() | "
      "length }}{% endfor %}",
      "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ s.count('b') "
      "}}{% endfor %}",
      "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ s | length "
      "}}{% endfor %}",
      "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ s[i] }}{% "
      "endfor %}",
      "{% set s = 'a' * 1000000 %}{{ s.replace('a', s) }}",
      "{% set s = 'a' * 1000000 %}{{ s.replace('', s) }}",
      "{% set s = 'a,' * 1000000 %}{{ s.split(',') | length }}",
      "{% set s = 'a' * 1000000 %}{{ s | list | length }}",
      "{% set s = 'a' * 7000000 %}{{ s | tojson }}{{ s | tojson }}",
      "{{ {}.__class__.__mro__ }}",
      "{{ ''.__class__.__mro__[1].__subclasses__() }}",
      "{{ [].append(1) }}",
      "{{ {'a': 1}.pop('a') }}",
      "{{ {}.update(a=1) }}",
      "{{ self.__init__.__globals__ }}",
      "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
      "{{ namespace.__init__.__globals__ }}",
      "{{ namespace(__class__=1) }}",
      "{% set ns = namespace() %}{% set ns._x = 1 %}",
      "{{ '{0.__class__.__mro__}'.format('') }}",
      "{{ lipsum() }}",
      "{% include '/etc/passwd' %}",
      "{% import '/etc/passwd' as x %}",
      "{% from '/etc/passwd' import x %}",
      "{% extends '/etc/passwd' %}",
      "{{ open('/etc/passwd') }}",
      "{{ environ['HOME'].x }}",
      "{{ request.application.__globals__ }}",
      "{{ 1 // 0 }}",
      "{{ 1 % 0 }}",
      "{{ 1.0 / 0 }}",
      "{{ 'a' + 1 }}",
      "{{ none.x.y }}",
      "{{ undefined_name.x }}",
      "{{ undefined_name() }}",
      "{{ 5() }}",
      "{{ 'x' | nofilter }}",
      "{{ 'x' is notest }}",
      "{% if %}",
      "{% for %}",
      "{% endfor %}",
      "{{",
      "{%",
      "{# x",
      "{% raw %}x",
      "{{ 'open",
      "{{ \"\\x\" }}",
      "{{ '\\ud800' }}",
      "{{ 1 if }}",
      "{% macro m(a, a=1, b) %}{% endmacro %}",
      "{% break %}",
      "{% set loop = 1 %}{% for i in [1] %}{% set loop = 2 %}{{ loop }}{% "
      "endfor %}",
      "{% block a %}{% endblock %}{% block a %}{% endblock %}",
      "{% block a %}{{ self.a() }}{% endblock %}",
  };
  // NOLINTEND(bugprone-suspicious-missing-comma)
  out.push_back(
      "{{ " + repeated("(", 5000) + "1" + repeated(")", 5000) + " }}");
  out.push_back("{{ " + repeated("[", 5000) + repeated("]", 5000) + " }}");
  out.push_back("{{ " + repeated("-", 5000) + "1 }}");
  out.push_back("{{ " + repeated("not ", 5000) + "1 }}");
  out.push_back("{{ 1" + repeated(" + 1", 5000) + " }}");
  out.push_back("{{ a" + repeated(".a", 5000) + " }}");
  out.push_back("{{ a" + repeated(" | string", 5000) + " }}");
  out.push_back("{{ a" + repeated(" if a else a", 5000) + " }}");
  out.push_back(repeated("{% if 1 %}", 5000) + repeated("{% endif %}", 5000));
  out.push_back(repeated("{% for a in [1] %}", 500));
  return out;
}

// Processor time of this thread: other programs do not count.
double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) +
      1e-9 * static_cast<double>(now.tv_nsec);
}

TEST(JinjaSafety, HostileTemplatesEndInAnErrorSoon) {
  std::vector<std::string> templates = hostile_templates();
  EXPECT_GE(templates.size(), 100u);
  for (const std::string& source : templates) {
    double start = thread_seconds();
    try {
      std::string text = render(source);
      ADD_FAILURE() << source.substr(0, 100) << " gave " << text.substr(0, 100);
    } catch (const TemplateError& e) {
      EXPECT_GE(e.line(), 1u);
      EXPECT_GE(e.column(), 1u);
    }
    // The limit is 250 ms; one long step comes on top, and a build with
    // sanitizers is some ten times slower.
    EXPECT_LT(thread_seconds() - start, 4.0) << source.substr(0, 100);
  }
}

TEST(JinjaSafety, EveryPrefixOfATemplateIsHandled) {
  std::string source =
      "{%- macro m(a, b='x') -%}{{ a|default(b, true)[1:] }}{%- endmacro %}"
      "{% for k, v in {'a': [1, 2.5e3]}.items() if v is not none %}"
      "{{ m(k ~ \"\\u00e9\", *v) if loop.first else '' }}{# c #}{% endfor %}";
  for (std::size_t n = 0; n <= source.size(); ++n) {
    try {
      render(source.substr(0, n));
    } catch (const TemplateError&) {
    }
  }
}

} // namespace
} // namespace qwen3_mlx
