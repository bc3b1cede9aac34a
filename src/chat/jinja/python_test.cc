// Our Jinja against Jinja2 itself, on many small templates. Runs where python3 with jinja2 is installed, and
// is counted as skipped elsewhere.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "mneme/chat.h"
#include "mneme/error.h"

namespace mneme {
namespace {

using Json = nlohmann::ordered_json;

// Renders the list of templates in argv[1] as transformers would, into argv[2].
constexpr const char* kScript = R"PY(
import datetime, json, sys
import jinja2, jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

class Generation(jinja2.ext.Extension):
    tags = {"generation"}
    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("write"), [], [], body).set_lineno(line)
    def write(self, caller):
        return caller()

def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)
def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

now = datetime.datetime(2026, 1, 2, 3, 4, 5)
env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                    extensions=[Generation, jinja2.ext.loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = lambda form: now.strftime(form)
given = json.load(open(sys.argv[1], encoding="utf-8"))
variables = json.dumps(given["variables"])
results = []
for template in given["templates"]:
    try:
        text = env.from_string(template).render(**json.loads(variables))  # filters may change them
        text.encode("utf-8")
        results.append(text)
    except Exception as error:
        results.append({"error": type(error).__name__ + ": " + str(error)})
json.dump(results, open(sys.argv[2], "w", encoding="utf-8"))
)PY";

// What templates find.
constexpr const char* kVariables = R"({
  "name": "Ada Lovelace", "n": 7, "f": 2.5, "yes": true, "no": false, "nothing": null, "empty": "",
  "words": ["pear", "Apple", "fig", "apple"], "numbers": [3, 1, 2], "nested": [[1, 2], [3, 4]], "none_at_all": [],
  "text": "  one  two\nthree\r\nfour ", "umlaut": "ÄÖü ß ǆ é😀", "quotes": "it's \"so\"\t\\n",
  "map": {"b": 1, "a": "x", "items": [1], "C": null}, "users": [
    {"name": "Bob", "age": 30, "tags": ["x", "y"]}, {"name": "alice", "age": 25, "tags": []},
    {"name": "Carl", "age": 30, "extra": {"deep": 1.5}}],
  "big": 18446744073709551615, "small": 1e-7, "html": "<a href='x'>&</a>"})";

std::vector<std::string> Filled(const std::vector<std::string>& forms,
                                const std::vector<std::string>& values) {
  std::vector<std::string> templates;
  for (const std::string& form : forms) {
    const size_t x = form.find("$x"), y = form.find("$y");
    for (const std::string& a : values) {
      std::string filled = form;
      if (y == std::string::npos) {
        templates.push_back(filled.replace(x, 2, a));
        continue;
      }
      for (const std::string& b : values) {
        filled = form;
        filled.replace(y, 2, b);
        templates.push_back(filled.replace(x, 2, a));
      }
    }
  }
  return templates;
}

// clang-format off

const std::vector<std::string>& Values() {
  static const std::vector<std::string> values = {
      "name", "n", "f", "yes", "nothing", "empty", "words", "numbers", "nested", "none_at_all", "text", "umlaut",
      "quotes", "map", "users", "missing", "map.missing", "-3", "0", "1.0", "1e20", "0.1", "1e16", "123456789.123",
      "small", "'7'", "' -12 '", "'3.7'", "'a,b,,c'", "(1, 'x')", "()", "[]", "{}", "range(4)", "range(5, 0, -2)",
      "map.items()", "map.keys()", "html", "true", "none", "'%'", "'{}'", "[none, true, 1.5, 'q']"};
  return values;
}

const std::vector<std::string>& PairValues() {
  static const std::vector<std::string> values = {"name", "n", "f", "no", "nothing", "empty", "words", "nested", "map", "missing",
                                                  "-3", "0", "'7'", "'a%sb'", "(1, 'x')", "[]", "range(4)", "big"};
  return values;
}

const std::vector<std::string>& Forms() {
  static const std::vector<std::string> forms = {
      "{{ $x }}", "{{ [$x] }}", "{{ {'k': $x} }}", "{{ $x is defined }}", "{{ $x is none }}", "{{ $x is string }}",
      "{{ $x is mapping }}", "{{ $x is iterable }}", "{{ $x is sequence }}", "{{ $x is number }}", "{{ $x is integer }}",
      "{{ $x is float }}", "{{ $x is boolean }}", "{{ $x is true }}", "{{ $x is not false }}", "{{ $x is odd }}",
      "{{ $x is divisibleby 3 }}", "{{ $x is callable }}", "{{ $x is upper }}", "{{ $x is lower }}", "{{ not $x }}",
      "{{ $x|length }}", "{{ $x|upper }}", "{{ $x|lower }}", "{{ $x|title }}", "{{ $x|capitalize }}", "{{ $x|trim }}",
      "{{ $x|string }}", "{{ $x|tojson }}", "{{ $x|tojson(indent=2) }}", "{{ $x|tojson(ensure_ascii=true) }}",
      "{{ $x|tojson(separators=(',', ':'), sort_keys=true) }}", "{{ $x|list }}", "{{ $x|first }}", "{{ $x|last }}",
      "{{ $x|join('-') }}", "{{ $x|int }}", "{{ $x|int(5, 16) }}", "{{ $x|float }}", "{{ $x|default('d') }}",
      "{{ $x|default('d', true) }}", "{{ $x|replace('a', 'AA') }}", "{{ $x|replace('a', '', 1) }}", "{{ $x|reverse|list }}",
      "{{ $x|sort }}", "{{ $x|sort(reverse=true) }}", "{{ $x|unique|list }}", "{{ $x|min }}", "{{ $x|max }}", "{{ $x|sum }}",
      "{{ $x|abs }}", "{{ $x|round }}", "{{ $x|round(1) }}", "{{ $x|round(2, 'floor') }}", "{{ $x|e }}", "{{ $x|escape }}",
      "{{ $x|wordcount }}", "{{ $x|indent }}", "{{ $x|indent(2, true) }}", "{{ $x|indent('> ', blank=true) }}",
      "{{ $x|center(20) }}|", "{{ $x|truncate(5, true, '') }}", "{{ $x|truncate(8) }}", "{{ $x|batch(2)|list }}",
      "{{ $x|batch(3, 'f')|list }}", "{{ $x|slice(2)|list }}", "{{ $x|slice(3, 'f')|list }}", "{{ $x|items|list }}",
      "{{ $x|dictsort }}", "{{ $x|map('upper')|list }}", "{{ $x|map(attribute='name')|join(',') }}",
      "{{ $x|select|list }}", "{{ $x|reject('string')|list }}", "{{ $x|selectattr('age', 'equalto', 30)|list }}",
      "{{ $x|rejectattr('extra')|list }}", "{{ $x|attr('name') }}", "{{ $x|groupby('age') }}",
      "{{ $x.name }}", "{{ $x['name'] }}", "{{ $x.items }}",
      "{{ $x[0] }}", "{{ $x[-1] }}", "{{ $x[9] }}", "{{ $x[1:] }}", "{{ $x[:-1] }}", "{{ $x[::-1] }}", "{{ $x[1:9:2] }}",
      "{{ $x.strip() }}", "{{ $x.split() }}", "{{ $x.split(',') }}", "{{ $x.split(none, 1) }}", "{{ $x.rsplit(' ', 1) }}",
      "{{ $x.rsplit(none, 1) }}", "{{ $x.splitlines() }}", "{{ $x.splitlines(true) }}", "{{ $x.startswith('A') }}",
      "{{ $x.endswith(('e', 'r')) }}", "{{ $x.upper() }}", "{{ $x.lower() }}", "{{ $x.title() }}", "{{ $x.capitalize() }}",
      "{{ $x.swapcase() }}", "{{ $x.replace('e', '3') }}", "{{ $x.replace('', '.') }}", "{{ $x.find('o') }}",
      "{{ $x.rfind('e') }}", "{{ $x.count('e') }}", "{{ $x.index('a') }}", "{{ $x.partition(' ') }}", "{{ $x.rpartition(',') }}",
      "{{ $x.isdigit() }}", "{{ $x.isalpha() }}", "{{ $x.isspace() }}", "{{ $x.isupper() }}", "{{ $x.zfill(6) }}",
      "{{ $x.ljust(15, '.') }}", "{{ $x.rjust(15) }}", "{{ $x.center(15, '*') }}", "{{ $x.lstrip(' o') }}", "{{ $x.rstrip('e ') }}",
      "{{ $x.removeprefix('A') }}", "{{ $x.get('a') }}", "{{ $x.get('zz', 9) }}", "{{ $x.keys()|list }}", "{{ $x.values()|list }}",
      "{{ $x.copy() }}", "{{ $x.append(1) }}", "{{ $x.pop }}", "{{ $x.pop is defined }}", "{{ '-'.join($x) }}", "{{ -$x }}", "{{ +$x }}", "{{ $x * 2 }}", "{{ 2 * $x }}", "{{ $x ** 2 }}",
      "{{ $x + 1 }}", "{{ $x // 2 }}", "{{ $x % 3 }}", "{{ $x / 4 }}", "{{ '%s' % $x }}", "{{ '%5d|' % $x }}", "{{ '%.2f' % $x }}",
      "{{ '%r' % $x }}", "{{ '<%-8s>' % $x }}", "{{ '%05.1f' % $x }}", "{{ '{} {}'.format($x, 1) }}", "{{ '{a!r}'.format(a=$x) }}",
      "{{ $x ~ '!' }}", "{{ $x ~ $x }}", "{{ 'a' in $x }}", "{{ 1 not in $x }}", "{{ $x if $x else 'else' }}",
      "{% for i in $x %}{{ loop.index }}:{{ i }}{{ ',' if not loop.last }}{% else %}none{% endfor %}",
      "{% for a, b in $x %}{{ a }}={{ b }};{% endfor %}", "{% for i in $x if i %}{{ loop.length }}{{ i }}{% endfor %}",
      "{% set ns = namespace(v=$x) %}{{ ns.v }}{% set ns.v = 2 %}{{ ns.v }}", "{{ dict(k=$x) }}", "{{ dict($x) }}", "{{ range($x)|list }}",
      "{% if $x is in [1, 7, 'x'] %}y{% else %}n{% endif %}", "{{ $x|format(1, 2) }}", "{{ $x|safe }}", "{{ $x(1) }}",
      "{{ $x == 7 }}{{ $x != '7' }}", "{{ $x is sameas none }}", "{{ $x is eq 7 }}", "{{ $x|d }}"};
  return forms;
}

const std::vector<std::string>& PairForms() {
  static const std::vector<std::string> forms = {"{{ $x + $y }}", "{{ $x == $y }}", "{{ $x < $y }}", "{{ $x >= $y }}",
                                                 "{{ $x in $y }}", "{{ $x ~ $y }}", "{{ $x and $y }}", "{{ $x or $y }}",
                                                 "{{ $x - $y }}", "{{ $x * $y }}", "{{ $x % $y }}", "{{ $x // $y }}",
                                                 "{{ $x[$y] }}", "{{ $x|default($y) }}"};
  return forms;
}

// Statements, scopes and white space.
const std::vector<std::string>& Templates() {
  static const std::vector<std::string> templates = {
      "a\n{% if yes %}\nb\n{% endif %}\nc\n", "a  {%- if yes -%}  b  {%- endif -%}  c", "  {% if yes %} x {% endif %}\n  y",
      "\t{%+ if yes %}x{% endif +%}\ny", "{# c #}\nx", "x{#- c -#}\n y", "  {# c #}  \n  z", "{{- name -}} \n x", "{{ name }}\n{{ n }}\n",
      "{% raw %}{{ x }}{% endraw %}", "a\n  {%- raw %} {% x {% endraw -%} \n b", "  {% raw %}\n  x\n  {% endraw %}\n  y",
      "{% set x = 1 %}{% for i in numbers %}{% set x = x + i %}{{ x }} {% endfor %}{{ x }}",
      "{% set ns = namespace(x=0) %}{% for i in numbers %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }} {{ ns }} {{ ns.y }}",
      "{% if yes %}{% set z = 5 %}{% endif %}{{ z }}", "{% set a, b = (1, 2) %}{{ a }}{{ b }}", "{% set a, b = numbers %}{{ a }}",
      "{% set x %}in {{ name }}{% endset %}[{{ x }}]", "{% set x | upper | trim %} in {{ name }} {% endset %}[{{ x }}]",
      "{% macro m(a, b='B', c=none) %}{{ a }}|{{ b }}|{{ c }}{% endmacro %}{{ m(1) }} {{ m(1, c=3) }} {{ m() }} {{ m.name }} {{ m.arguments }}",
      "{% macro m(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, k=4) }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}",
      "{% macro m(a) %}{% endmacro %}{{ m(b=2) }}", "{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}in{% endcall %}",
      "{% macro m(x) %}<{{ caller(x, 2) }}>{% endmacro %}{% call(a, b) m(1) %}{{ a }}{{ b }}{{ name }}{% endcall %}",
      "{% macro fact(k) %}{% if k < 2 %}1{% else %}{{ k * fact(k - 1)|int }}{% endif %}{% endmacro %}{{ fact(6) }}",
      "{% macro m() %}{{ later }}{% endmacro %}{% set later = 3 %}{{ m() }}", "{{ m() }}{% macro m() %}x{% endmacro %}",
      "{% for i in numbers %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}",
      "{% for i in numbers %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.depth }}{{ loop.cycle('a', 'b') }}{{ loop.changed(i) }} {% endfor %}",
      "{% for i in range(6) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
      "{% for i in numbers recursive %}{{ i }}{% if i > 1 %}({{ loop(range(i - 1)) }}){% endif %}{% endfor %}",
      "{% for i in [] %}x{% else %}empty{% endfor %}", "{% for k, v in map.items() %}{{ k }}:{{ v }};{% endfor %}", "{% for k in map %}{{ k }}{% endfor %}",
      "{% for u in users if u.age > 26 %}{{ loop.index }}/{{ loop.length }} {{ u.name }} {% endfor %}",
      "{% for x in nested %}{% for y in x %}{{ loop.index }}{{ y }}{% endfor %}{{ loop.index }}{% endfor %}{{ loop }}",
      "{% set ns = namespace(found=false) %}{% for i in numbers if not ns.found %}{{ i }}{% set ns.found = true %}{% endfor %}",
      "{% with a=1, b=n %}{{ a + b }}{% endwith %}{{ a }}", "{% with %}{% set q = 1 %}{{ q }}{% endwith %}{{ q }}",
      "{% filter upper|trim %} x {{ name }} {% endfilter %}", "{% print name, n %}", "{% generation %}{% set g = 1 %}{{ name }}{{ g }}{% endgeneration %}{{ g }}",
      "{% block x %}{% endblock %}x", "{% unknown %}", "{% if %}", "{{ }}", "{{ 1 + }}", "{{ 'a' 'b' }}", "{{ ('a'\n 'b') }}", "{% endif %}", "{% for x in y %}", "{{ x",
      "{% if yes %}", "{{ [1, 2 }}", "{{ )", "{{ 'a }}", "{{ a.b.c }}", "{{ a.b }}", "{{ missing }}", "{{ missing.x }}", "{{ missing['x'] }}", "{{ missing() }}",
      "{{ name|nosuch }}", "{{ quotes|urlencode }}{{ umlaut|urlencode }}", "{{ name is nosuch }}", "{% break %}", "{{ 1 if no }}", "{{ (1 if no) is defined }}", "{{ 'x' if yes else missing.y }}",
      "{{ 1 < 2 < 3 }}{{ 1 < 3 < 2 }}", "{{ not yes and no or n }}", "{{ 2 + 3 * 4 ** 2 / 8 - 1 }}", "{{ -2 ** 2 }}", "{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 % 2 }} {{ -7.5 // 2 }}",
      "{{ 2 ** -1 }} {{ 2 ** 0.5 }} {{ 10 / 5 }} {{ 1 / 3 }}", "{{ 1 / 0 }}", "{{ 1 % 0 }}", "{{ 1.0 // 0 }}", "{{ 0x1F + 0b101 + 0o17 + 1_000 }}", "{{ 1e3 }} {{ 1.5e-7 }} {{ 123456789012345678 }} {{ 1e22 }} {{ 0.1 + 0.2 }}",
      "{{ 'a\\nb\\t\\x41\\u00e9\\U0001F600\\'\\\"\\\\ \\q \\101' }}", "{{ \"it's\" ~ 'x\"y' }}", "{{ ['it\\'s', 'a\"b', 'a\\'\"', 'tab\\t', '\\x00', '\\u200b', 'é'] }}",
      "{{ [1, [2, (3,)], {'a': {'b': none}}, 1.0, true] }}", "{{ {1: 'a', 'b': 2, none: 3, 1.5: 4, true: 5} }}", "{{ {'a': 1}['a'] }}{{ {'a': 1}.a }}{{ {1: 2}[1.0] }}", "{{ {'a': 1, 'a': 2} }}",
      "{{ (1, 2) + (3,) }}", "{{ [1] + [2] }}", "{{ [1, 2] == [1, 2.0] }}{{ (1,) == [1] }}{{ {'a': 1} == {'a': 1.0} }}", "{{ 'a' < 'b' }}{{ [1, 2] < [1, 3] }}{{ (1, 'a') < (1, 'b') }}", "{{ true + 1 }}{{ true == 1 }}",
      "{{ 'abc'[1] }}{{ 'abc'[-1] }}{{ 'abc'[5] }}{{ 'aäb😀c'[1:4] }}{{ 'aäb'[::-1] }}", "{{ numbers.0 }}{{ nested.1.0 }}", "{{ numbers[0:2] }}{{ numbers[::-1] }}{{ numbers[-2:] }}{{ numbers[5:] }}", "{{ range(3) }}{{ range(1, 10, 3)|list }}{{ range(3)[1] }}{{ 2 in range(3) }}{{ range(3)|length }}",
      "{{ range(1000000000)|length }}", "{{ map.items }}",
      "{{ map['items'] }}", "{{ users|map(attribute='name')|map('upper')|join(', ') }}", "{{ users|map(attribute='extra.deep', default=0)|list }}", "{{ users|selectattr('extra')|map(attribute='name')|list }}", "{{ users|rejectattr('age', '>', 26)|map(attribute='name')|first }}", "{{ users|sort(attribute='age,name')|map(attribute='name')|join }}", "{{ users|sum(attribute='age') }}", "{{ users|groupby('age')|map('first')|list }}", "{% for age, group in users|groupby('age') %}{{ age }}:{{ group|length }} {% endfor %}",
      "{{ numbers|select('odd')|list }}{{ numbers|reject('>', 1)|list }}{{ numbers|select('in', [1, 2])|list }}", "{{ words|sort }}{{ words|sort(case_sensitive=true) }}{{ words|unique|list }}{{ words|min }}{{ words|max }}", "{{ numbers|select|length }}", "{{ (numbers|map('string'))|join }}", "{% set g = numbers|map('string') %}{{ g|list }}{{ g|list }}", "{{ numbers|map('nosuch')|list }}", "{{ numbers|map|list }}",
      "{{ strftime_now('%d %b %Y %H:%M:%S %A %j %-d %% %B %y %p %I') }}", "{{ raise_exception('no: ' ~ name) }}", "{{ joiner(', ')() }}", "{% set j = joiner() %}{{ j() }}a{{ j() }}b{{ j() }}c", "{% set c = cycler('x', 'y') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.next() }}{% set _ = c.reset() %}{{ c.current }}", "{{ namespace(a=1)['a'] }}{{ namespace({'b': 2}).b }}", "{% set x.y = 1 %}", "{% set name.y = 1 %}",
      "{{ '%s and %d and %5.2f%%' % (name, n, f) }}", "{{ '%(a)s' % map }}", "{{ '%s' % (1, 2) }}", "{{ '%d' % 'x' }}", "{{ '%s %s' % 'x' }}", "{{ '%x %X %o' % (255, 255, 8) }}", "{{ '{0} {1} {0}'.format('a', 'b') }}{{ '{a.b}'.format(a={'b': 1}) }}{{ '{{}}'.format() }}", "{{ '{}'.format() }}", "{{ '{'.format() }}",
      "{{ quotes|tojson }}{{ umlaut|tojson }}{{ umlaut|tojson(ensure_ascii=true) }}", "{{ users|tojson(indent=4) }}", "{{ users|tojson(true) }}", "{{ [missing]|tojson }}", "{{ {(1, 2): 3}|tojson }}", "{{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }}", "{{ []|tojson(indent=2) }}{{ {}|tojson(indent=2) }}{{ [[], {}]|tojson(indent=0) }}", "{{ [1e100, 1e-5, 3.0, 12345678901234567890]|tojson }}",
      "{{ text|indent(2) }}|{{ 'a\n\nb'|indent(2, true, true) }}", "{{ 'hello world foo'|truncate(9) }}{{ 'hello world'|truncate(9, true) }}{{ 'hello world'|truncate(9, false, '…', 0) }}", "{{ 'foo bar-baz (qux) [a] {b} <c> d\\'e'|title }}", "{{ 'foo bar-baz d\\'e'.title() }}", "{{ 'ÉCOLE straße'|lower }}{{ 'école straße ŉ ﬁ'|upper }}{{ 'ǆ ß'|capitalize }}{{ 'ΑΒΓ'|lower }}", "{{ 'a b\\u00a0c\\u2003d'.split() }}{{ '\\u3000x\\u2028'|trim }}|", "{{ 'aXbXc'.split('X', 1) }}{{ 'aXbXc'.rsplit('X', 1) }}{{ 'a'.split('') }}", "{{ '  a b c  '.split(none, 1) }}{{ '  a b c  '.rsplit(none, 1) }}", "{{ 'x'.join(['a', 1]) }}", "{{ 2.675|round(2) }} {{ 2.5|round }} {{ 3.5|round }} {{ 1234.5|round(-2) }} {{ 7|round }} {{ -2.5|round }} {{ 2.1|round(0, 'ceil') }}", "{{ '12'|int + 1 }} {{ 'x'|int(9) }} {{ '1e3'|float }} {{ 'nan'|float }} {{ 'inf'|float }} {{ '0x1f'|int(0, 16) }} {{ 12.9|int }} {{ '12.9'|int }} {{ true|int }}",
      "{{ x is defined }}{% set x = none %}{{ x is defined }}{{ x }}", "{% for x in [1] %}{% set y = x %}{% endfor %}{{ y is defined }}", "{% if not yes %}a{% elif n == 7 %}b{% else %}c{% endif %}", "{% if yes: %}x{% endif %}", "{{ yes is defined and n is number }}", "{{ n is not none and n is not string }}", "{{ 'a' is in ['a'] }}", "{{ n is divisibleby(7) }}", "{{ 5 is eq(5) and 5 is lt 6 }}", "{{ [] is defined is defined }}",
      "{{ (numbers|sort)[0] }}", "{{ numbers|sort|first + 1 }}", "{{ name[0]|lower ~ name[1:]|upper }}", "{{ (name ~ n)|length }}", "{{ '' ~ none ~ true ~ 1.0 }}", "{{ none is none == true }}", "{{ 1 == 1.0 == true }}", "{{ 'a' ~ 1 + 2 }}", "{{ [1, 2, 3,] }}{{ (1,) }}{{ {'a': 1,} }}", "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}", "{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
      "{{ numbers | join ( ',' ) }}", "{{ dict(a=1, **{'b': 2}) }}", "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{'a': 1, 'b': 2}) }}", "{{ name.replace(old='A', new='B') }}", "{{ map.get(key='a') }}", "{{ 'a b'.split(maxsplit=1) }}", "{{ map.update({'x': 1}) }}", "{{ words.append('x') }}", "{{ name.__class__ }}", "{{ name.upper }}",
      "{{ nothing.x }}", "{{ nothing['x'] }}", "{{ nothing + 1 }}", "{{ 'a' + 1 }}", "{{ 1 + 'a' }}", "{{ [1] + 'a' }}", "{{ 'a' in nothing }}", "{{ 1 in 'a' }}", "{{ 1 < 'a' }}", "{{ {} < {} }}", "{{ {[1]: 2} }}",
      "é{{ '\n' }}x\r\ny\rz", "{{ '\r\n'|length }}", "x\n\n", "\n", "", "{% set x = '\n' %}{{ x|length }}", "{%- set x = 1 -%}\n\n x", "x {{- ' y ' -}} z", "{{ '{{' }}{{ '%}' }}", "{{ {'a': {'b': 1}} }}", "{{ {'a': {'b': 1}}}}", "a{% if yes %}\n\nb{% endif %}", "{% if yes -%}\n  b\n{%- endif %}\nc"};
  return templates;
}

// clang-format on

std::string OurRendering(const std::string& text, bool* failed) {
  try {
    std::string out;
    for (const Segment& segment : ChatFormat(text).RenderJson(kVariables, {.now = "2026-01-02T03:04:05"})) {
      out += segment.text;
    }
    return out;
  } catch (const Error& error) {
    *failed = true;
    return error.what();
  }
}

TEST(JinjaPythonTest, RendersAsJinja2) {
  if (std::system("python3 -c 'import jinja2' > /dev/null 2>&1") != 0) {
    GTEST_SKIP() << "python3 with jinja2 is not installed";
  }
  Json given;
  given["variables"] = Json::parse(kVariables);
  std::vector<std::string> templates = Templates();
  for (const auto& more : {Filled(Forms(), Values()), Filled(PairForms(), PairValues())})
    templates.insert(templates.end(), more.begin(), more.end());
  given["templates"] = templates;
  std::string folder = (std::filesystem::temp_directory_path() / "mneme_jinja_XXXXXX").string();
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  std::ofstream(folder + "/given.json") << given.dump();
  std::ofstream(folder + "/render.py") << kScript;
  const std::string command =
      "python3 " + folder + "/render.py " + folder + "/given.json " + folder + "/right.json";
  ASSERT_EQ(std::system(command.c_str()), 0);
  std::stringstream right;
  right << std::ifstream(folder + "/right.json").rdbuf();
  const Json results = Json::parse(right.str());
  std::filesystem::remove_all(folder);
  ASSERT_EQ(results.size(), templates.size());
  size_t num_wrong = 0;
  for (size_t i = 0; i < templates.size(); ++i) {
    bool failed = false;
    const std::string ours = OurRendering(templates[i], &failed);
    const bool must_fail = results[i].is_object();
    // Addresses of Python's objects are nobody's text, and its integers have no end.
    if (!must_fail && results[i].get<std::string>().find(" at 0x") != std::string::npos) continue;
    if (failed && ours.find("beyond 128 bits") != std::string::npos) continue;
    // A slice of a literal that has none is undefined there, and an error if a variable holds the same.
    if (failed && ours.find("is not subscriptable") != std::string::npos) continue;
    if (failed == must_fail && (failed || ours == results[i].get<std::string>())) continue;
    if (++num_wrong <= 40) {
      ADD_FAILURE() << templates[i] << "\n  ours:  " << (failed ? "error: " : "") << ours
                    << "\n  right: " << results[i].dump();
    }
  }
  EXPECT_EQ(num_wrong, 0u) << "of " << templates.size();
}

}  // namespace
}  // namespace mneme
