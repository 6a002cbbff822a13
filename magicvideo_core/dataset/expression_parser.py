"""The grammar of filters: from a text to a tree of operations, with the place of each for messages.

or        := and (OR and)*                      and  := not (AND not)*                not := NOT not | predicate
predicate := sum [compare sum | [NOT] IN (literal, ...) | [NOT] LIKE|ILIKE 'text' | [NOT] BETWEEN sum AND sum
             | IS [NOT] NULL]
sum       := product ((+ | -) product)*         product := value ((* | /) value)*
value     := number | 'text' | TRUE | FALSE | column | "column" | (or) | -value | LOWER|UPPER|LENGTH|ABS(or)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from magicvideo_core.errors import ConfigError

COMPARISONS = ("=", "==", "!=", "<>", "<", "<=", ">", ">=")
FUNCTIONS = ("LOWER", "UPPER", "LENGTH", "ABS")
_KEYWORDS = {"AND", "OR", "NOT", "IN", "LIKE", "ILIKE", "BETWEEN", "IS", "NULL", "TRUE", "FALSE"}
_MAX_DEPTH = 40
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|(?P<text>'(?:[^']|'')*')|(?P<quoted>\"[^\"]+\")"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_.]*)|(?P<sign><=|>=|<>|!=|==|[=<>+\-*/(),])|(?P<end>$))"
)


@dataclass(frozen=True, slots=True)
class Node:
    """One operation or leaf of an expression: its name, what it works on, and where it stands in the text."""

    op: str
    args: tuple[Any, ...]
    at: int


class Parser:
    """Recursive descent over the grammar above; every method takes what it names and returns its node.

    `parse` returns the root; `columns` are then the names that the text holds. Raises ConfigError.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.columns: set[str] = set()
        self._tokens = _tokenize(text)
        self._next = 0
        self._depth = 0

    def parse(self) -> Node:
        root = self._or()
        kind, value, at = self._tokens[self._next]
        if kind != "end":
            raise wrong(self.text, at, f"{value!r} is one too many: join conditions by AND or OR")
        return root

    def _or(self) -> Node:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise wrong(self.text, self._at, f"more than {_MAX_DEPTH} levels of parentheses")
        node = self._joined(self._and, "OR")
        self._depth -= 1
        return node

    def _and(self) -> Node:
        return self._joined(self._not, "AND")

    def _joined(self, part: Callable[[], Node], keyword: str) -> Node:
        at = self._at
        # One node for all: a long list of conditions needs no deep stack.
        parts = [part()]
        while self._take(keyword) is not None:
            parts.append(part())
        return parts[0] if len(parts) == 1 else Node(keyword, tuple(parts), at)

    def _not(self) -> Node:
        at = self._take("NOT")
        if at is None:
            return self._predicate()
        # NOT NOT x is x: a long chain of them needs no deep stack.
        times = 1
        while self._take("NOT") is not None:
            times += 1
        node = self._predicate()
        return Node("NOT", (node,), at) if times % 2 else node

    def _predicate(self) -> Node:
        node = self._sum()
        kind, value, at = self._tokens[self._next]
        if kind == "sign" and value in COMPARISONS:
            self._next += 1
            return Node("compare", (value, node, self._sum()), at)
        if self._take("IS") is not None:
            inverted = self._take("NOT") is not None
            self._expect("NULL")
            return _negated(Node("IS NULL", (node,), at), inverted)
        inverted = self._take("NOT") is not None
        if self._take("IN") is not None:
            return _negated(Node("IN", (node, self._literals()), at), inverted)
        if self._take("BETWEEN") is not None:
            low = self._sum()
            self._expect("AND")
            ends = (Node("compare", (">=", node, low), at), Node("compare", ("<=", node, self._sum()), at))
            return _negated(Node("AND", ends, at), inverted)
        for name in ("LIKE", "ILIKE"):
            if self._take(name) is not None:
                return _negated(Node(name, (node, self._pattern()), at), inverted)
        if inverted:
            raise wrong(self.text, self._at, "after NOT there must be IN, LIKE, ILIKE or BETWEEN")
        return node

    def _sum(self) -> Node:
        return self._left_to_right(self._product, "+-")

    def _product(self) -> Node:
        return self._left_to_right(self._value, "*/")

    def _left_to_right(self, part: Callable[[], Node], signs: str) -> Node:
        node = part()
        terms = 1
        while self._tokens[self._next][0] == "sign" and self._tokens[self._next][1] in signs:
            _, sign, at = self._tokens[self._next]
            self._next += 1
            terms += 1
            if terms > _MAX_DEPTH:
                raise wrong(self.text, at, f"more than {_MAX_DEPTH} terms")
            node = Node("arithmetic", (sign, node, part()), at)
        return node

    def _value(self) -> Node:
        kind, value, at = self._tokens[self._next]
        self._next += 1
        if kind in ("number", "text"):
            return Node("literal", (_literal(kind, value),), at)
        if kind == "sign" and value == "(":
            node = self._or()
            self._expect(")")
            return node
        if kind == "sign" and value == "-" and self._tokens[self._next][:2] != ("sign", "-"):
            return Node("arithmetic", ("-", Node("literal", (0,), at), self._value()), at)
        if kind == "quoted":
            return self._column(value[1:-1], at)
        name = value.upper()
        if kind == "word" and name in ("TRUE", "FALSE"):
            return Node("literal", (name == "TRUE",), at)
        if kind == "word" and name in FUNCTIONS and self._tokens[self._next][1] == "(":
            self._next += 1
            node = Node("function", (name, self._or()), at)
            self._expect(")")
            return node
        if kind == "word" and name == "NULL":
            raise wrong(self.text, at, "nothing equals NULL: write IS NULL or IS NOT NULL")
        if kind == "word" and name not in _KEYWORDS:
            return self._column(value, at)
        raise wrong(self.text, at, f"a value or a column is missing before {value!r}" if value else "it ends too early")

    def _column(self, name: str, at: int) -> Node:
        self.columns.add(name)
        return Node("column", (name,), at)

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
            raise wrong(self.text, at, "IN takes numbers or 'texts'")
        return _literal(kind, value)

    def _pattern(self) -> str:
        kind, value, at = self._tokens[self._next]
        self._next += 1
        if kind != "text":
            raise wrong(self.text, at, "LIKE takes a 'text' with % for any characters and _ for one")
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
            raise wrong(self.text, at, f"{what} is missing" + (f" before {value!r}" if value else " at the end"))
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
            raise wrong(text, len(text) - len(rest), what)
        tokens.append((match.lastgroup, match[match.lastgroup], match.start(match.lastgroup)))
        place = match.end()
    return tokens


def _literal(kind: str, value: str) -> Any:
    if kind == "text":
        return value[1:-1].replace("''", "'")
    return int(value) if value.isdigit() and len(value) < 19 else float(value)


def _negated(node: Node, inverted: bool) -> Node:
    return Node("NOT", (node,), node.at) if inverted else node


def wrong(text: str, at: int, what: str) -> ConfigError:
    """Return the error of a filter, which says at which character (from 0) what is wrong."""
    return ConfigError(f"Filter {text!r}, character {at + 1}: {what}.")
