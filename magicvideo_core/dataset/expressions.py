"""Filters in the words of SQL's WHERE, over the columns of a table: parsed here and computed by Arrow, nothing is executed.

    or        := and (OR and)*                      and  := not (AND not)*                not := NOT not | predicate
    predicate := sum [compare sum | [NOT] IN (literal, ...) | [NOT] LIKE|ILIKE 'text' | [NOT] BETWEEN sum AND sum
                 | IS [NOT] NULL]
    sum       := product ((+ | -) product)*         product := value ((* | /) value)*
    value     := number | 'text' | TRUE | FALSE | column | "column" | (or) | -value | LOWER|UPPER|LENGTH|ABS(or)

As in SQL a comparison with NULL is NULL, and a row whose filter is NULL is not chosen. What is divided by zero is NULL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from magicvideo_core.errors import ConfigError

MAX_LENGTH = 4000
_MAX_DEPTH = 40
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|(?P<text>'(?:[^']|'')*')|(?P<quoted>\"[^\"]+\")"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_.]*)|(?P<sign><=|>=|<>|!=|==|[=<>+\-*/(),])|(?P<end>$))"
)
_COMPARE: dict[str, Callable[..., Any]] = {
    "=": pc.equal,
    "==": pc.equal,
    "!=": pc.not_equal,
    "<>": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_ARITHMETIC: dict[str, Callable[..., Any]] = {"+": pc.add, "-": pc.subtract, "*": pc.multiply}
# What each takes, and its result: (kind, computation).
_FUNCTIONS: dict[str, tuple[str, Callable[..., Any]]] = {
    "LOWER": ("text", pc.utf8_lower),
    "UPPER": ("text", pc.utf8_upper),
    "LENGTH": ("text", pc.utf8_length),
    "ABS": ("number", pc.abs),
}
_KEYWORDS = {"AND", "OR", "NOT", "IN", "LIKE", "ILIKE", "BETWEEN", "IS", "NULL", "TRUE", "FALSE"}


@dataclass(frozen=True, slots=True)
class _Node:
    """One operation or leaf of an expression: its name, what it works on, and where it stands in the text."""

    op: str
    args: tuple[Any, ...]
    at: int


@dataclass(frozen=True, slots=True)
class Filter:
    """A parsed filter; made by `parse_filter`."""

    text: str
    columns: frozenset[str]
    _root: _Node

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        """Return for each row whether the filter holds; NULL is false.

        Raises ConfigError where the table has no such column, or where kinds do not go together.
        """
        found = _evaluate(self._root, table, self.text)
        if _kind(found) != "truth":
            raise _error(self.text, self._root.at, f"a filter must be true or false, and this is a {_kind(found)}")
        whole: Any = found if not isinstance(found, pa.Scalar) else pa.chunked_array([[found.as_py()] * table.num_rows])
        return pc.fill_null(whole.cast(pa.bool_()), pa.scalar(False))


def parse_filter(text: str) -> Filter:
    """Return the filter that a text stands for. Raises ConfigError, saying where in the text what is wrong."""
    if len(text) > MAX_LENGTH:
        raise ConfigError(f"A filter of {len(text)} characters is too long: at most {MAX_LENGTH}, or several filters.")
    parser = _Parser(text)
    root = parser.parse()
    return Filter(text, frozenset(parser.columns), root)


class _Parser:
    """Recursive descent over the grammar above; every method takes what it names and returns its node."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.columns: set[str] = set()
        self._tokens = _tokenize(text)
        self._next = 0
        self._depth = 0

    def parse(self) -> _Node:
        root = self._or()
        kind, value, at = self._tokens[self._next]
        if kind != "end":
            raise _error(self.text, at, f"{value!r} is one too many: join conditions by AND or OR")
        return root

    def _or(self) -> _Node:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _error(self.text, self._at, f"more than {_MAX_DEPTH} levels of parentheses")
        node = self._joined(self._and, "OR")
        self._depth -= 1
        return node

    def _and(self) -> _Node:
        return self._joined(self._not, "AND")

    def _joined(self, part: Callable[[], _Node], keyword: str) -> _Node:
        at = self._at
        # One node for all: a long list of conditions needs no deep stack.
        parts = [part()]
        while self._take(keyword) is not None:
            parts.append(part())
        return parts[0] if len(parts) == 1 else _Node(keyword, tuple(parts), at)

    def _not(self) -> _Node:
        at = self._take("NOT")
        if at is None:
            return self._predicate()
        # NOT NOT x is x: a long chain of them needs no deep stack.
        times = 1
        while self._take("NOT") is not None:
            times += 1
        node = self._predicate()
        return _Node("NOT", (node,), at) if times % 2 else node

    def _predicate(self) -> _Node:
        node = self._sum()
        kind, value, at = self._tokens[self._next]
        if kind == "sign" and value in _COMPARE:
            self._next += 1
            return _Node("compare", (value, node, self._sum()), at)
        if self._take("IS") is not None:
            inverted = self._take("NOT") is not None
            self._expect("NULL")
            return _negated(_Node("IS NULL", (node,), at), inverted)
        inverted = self._take("NOT") is not None
        if self._take("IN") is not None:
            return _negated(_Node("IN", (node, self._literals()), at), inverted)
        if self._take("BETWEEN") is not None:
            low = self._sum()
            self._expect("AND")
            ends = (_Node("compare", (">=", node, low), at), _Node("compare", ("<=", node, self._sum()), at))
            return _negated(_Node("AND", ends, at), inverted)
        for name in ("LIKE", "ILIKE"):
            if self._take(name) is not None:
                return _negated(_Node(name, (node, self._pattern()), at), inverted)
        if inverted:
            raise _error(self.text, self._at, "after NOT there must be IN, LIKE, ILIKE or BETWEEN")
        return node

    def _sum(self) -> _Node:
        return self._left_to_right(self._product, "+-")

    def _product(self) -> _Node:
        return self._left_to_right(self._value, "*/")

    def _left_to_right(self, part: Callable[[], _Node], signs: str) -> _Node:
        node = part()
        terms = 1
        while self._tokens[self._next][0] == "sign" and self._tokens[self._next][1] in signs:
            _, sign, at = self._tokens[self._next]
            self._next += 1
            terms += 1
            if terms > _MAX_DEPTH:
                raise _error(self.text, at, f"more than {_MAX_DEPTH} terms")
            node = _Node("arithmetic", (sign, node, part()), at)
        return node

    def _value(self) -> _Node:
        kind, value, at = self._tokens[self._next]
        self._next += 1
        if kind in ("number", "text"):
            return _Node("literal", (_literal(kind, value),), at)
        if kind == "sign" and value == "(":
            node = self._or()
            self._expect(")")
            return node
        if kind == "sign" and value == "-" and self._tokens[self._next][:2] != ("sign", "-"):
            return _Node("arithmetic", ("-", _Node("literal", (0,), at), self._value()), at)
        if kind == "quoted":
            return self._column(value[1:-1], at)
        name = value.upper()
        if kind == "word" and name in ("TRUE", "FALSE"):
            return _Node("literal", (name == "TRUE",), at)
        if kind == "word" and name in _FUNCTIONS and self._tokens[self._next][1] == "(":
            self._next += 1
            node = _Node("function", (name, self._or()), at)
            self._expect(")")
            return node
        if kind == "word" and name == "NULL":
            raise _error(self.text, at, "nothing equals NULL: write IS NULL or IS NOT NULL")
        if kind == "word" and name not in _KEYWORDS:
            return self._column(value, at)
        raise _error(
            self.text, at, f"a value or a column is missing before {value!r}" if value else "it ends too early"
        )

    def _column(self, name: str, at: int) -> _Node:
        self.columns.add(name)
        return _Node("column", (name,), at)

    def _literals(self) -> tuple[Any, ...]:
        self._expect("(")
        values = [self._constant()]
        while self._tokens[self._next][1] == ",":
            self._next += 1
            values.append(self._constant())
        self._expect(")")
        return tuple(values)

    def _constant(self) -> Any:
        kind, value, at = self._tokens[self._next]
        self._next += 1
        if kind == "sign" and value == "-" and self._tokens[self._next][0] == "number":
            self._next += 1
            return -_literal("number", self._tokens[self._next - 1][1])
        if kind not in ("number", "text"):
            raise _error(self.text, at, "IN takes numbers or 'texts'")
        return _literal(kind, value)

    def _pattern(self) -> str:
        kind, value, at = self._tokens[self._next]
        self._next += 1
        if kind != "text":
            raise _error(self.text, at, "LIKE takes a 'text' with % for any characters and _ for one")
        return str(_literal(kind, value))

    @property
    def _at(self) -> int:
        return self._tokens[self._next][2]

    def _take(self, keyword: str) -> int | None:
        """Go past a keyword; returns its place, None where something else stands here."""
        kind, value, at = self._tokens[self._next]
        if kind != "word" or value.upper() != keyword:
            return None
        self._next += 1
        return at

    def _expect(self, what: str) -> None:
        kind, value, at = self._tokens[self._next]
        if value.upper() != what or kind == "text":
            raise _error(self.text, at, f"{what} is missing" + (f" before {value!r}" if value else " at the end"))
        self._next += 1


def _tokenize(text: str) -> list[tuple[str, str, int]]:
    """Return (kind, text, place) of every token, the last one of the kind `end`."""
    tokens: list[tuple[str, str, int]] = []
    place = 0
    while not tokens or tokens[-1][0] != "end":
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup is None:
            rest = text[place:].lstrip()
            what = "a text without its closing quote" if rest[:1] in ("'", '"') else f"{rest[:1]!r} means nothing here"
            raise _error(text, len(text) - len(rest), what)
        tokens.append((match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
        place = match.end()
    return tokens


def _literal(kind: str, value: str) -> Any:
    if kind == "text":
        return value[1:-1].replace("''", "'")
    return int(value) if value.isdigit() and len(value) < 19 else float(value)


def _negated(node: _Node, inverted: bool) -> _Node:
    return _Node("NOT", (node,), node.at) if inverted else node


def _evaluate(node: _Node, table: pa.Table, text: str) -> Any:
    """Return a node's values over the rows of a table: a column, or a scalar where it is the same for all."""
    if node.op == "literal":
        return pa.scalar(node.args[0])
    if node.op == "column":
        return _column_of(table, node, text)
    if node.op in ("AND", "OR"):
        parts = [_of_kind("truth", each, table, text) for each in node.args]
        return reduce(pc.and_kleene if node.op == "AND" else pc.or_kleene, parts)
    if node.op == "NOT":
        return pc.invert(_of_kind("truth", node.args[0], table, text))
    if node.op == "IS NULL":
        return pc.is_null(_evaluate(node.args[0], table, text))
    if node.op in ("LIKE", "ILIKE"):
        values = _of_kind("text", node.args[0], table, text)
        return pc.match_like(values, node.args[1], ignore_case=node.op == "ILIKE")
    if node.op == "IN":
        return _is_in(node, table, text)
    if node.op == "function":
        kind, compute = _FUNCTIONS[node.args[0]]
        return compute(_of_kind(kind, node.args[1], table, text))
    if node.op == "arithmetic":
        sign, *sides = node.args
        first, second = (_of_kind("number", each, table, text).cast(pa.float64()) for each in sides)
        if sign != "/":
            return _ARITHMETIC[sign](first, second)
        return pc.divide(first, pc.if_else(pc.equal(second, pa.scalar(0.0)), pa.scalar(None, pa.float64()), second))
    sign, *sides = node.args
    first, second = _alike(node, [_evaluate(each, table, text) for each in sides], text)
    return _COMPARE[sign](first, second)


def _is_in(node: _Node, table: pa.Table, text: str) -> Any:
    values = _evaluate(node.args[0], table, text)
    found = pa.scalar(False)
    for each in node.args[1]:
        first, second = _alike(node, [values, pa.scalar(each)], text)
        found = pc.or_kleene(found, pc.equal(first, second))
    return found


def _of_kind(kind: str, node: _Node, table: pa.Table, text: str) -> Any:
    found = _evaluate(node, table, text)
    if _kind(found) != kind:
        raise _error(text, node.at, f"a {kind} is needed, and this is a {_kind(found)}")
    return found


def _alike(node: _Node, sides: Sequence[Any], text: str) -> Sequence[Any]:
    """Return two values that can be compared: a text beside a time is read as one."""
    kinds = [_kind(each) for each in sides]
    if sorted(kinds) == ["text", "time"]:
        moment = sides[kinds.index("time")].type
        try:
            return [each if kind == "time" else _as_time(each, moment) for each, kind in zip(sides, kinds, strict=True)]
        except pa.ArrowInvalid:
            raise _error(text, node.at, "a time is written '2026-11-23' or '2026-11-23 06:00:00', in UTC") from None
    if kinds[0] != kinds[1]:
        raise _error(text, node.at, f"a {kinds[0]} and a {kinds[1]} cannot be compared")
    return sides


def _as_time(value: Any, moment: pa.DataType) -> Any:
    return value.cast(pa.timestamp("us")).cast(pa.int64()).cast(pa.timestamp("us", tz="UTC")).cast(moment)


def _column_of(table: pa.Table, node: _Node, text: str) -> pa.ChunkedArray:
    name = node.args[0]
    if name not in table.column_names:
        close = get_close_matches(name, table.column_names, n=1)
        hint = f"is {close[0]!r} meant?" if close else f"there are {', '.join(table.column_names)}"
        raise _error(text, node.at, f"there is no column {name!r}: {hint}")
    column = table[name]
    if _kind(column) == "thing":
        raise _error(text, node.at, f"column {name!r} holds {column.type}, which cannot be compared")
    return column


def _kind(value: Any) -> str:
    kind = value.type
    if pa.types.is_boolean(kind):
        return "truth"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "text"
    return "time" if pa.types.is_timestamp(kind) else "thing"


def _error(text: str, at: int, what: str) -> ConfigError:
    return ConfigError(f"Filter {text!r}, character {at + 1}: {what}.")
