"""Filters in the words of SQL's WHERE, over the columns of a table: computed by Arrow, nothing is executed.

As in SQL a comparison with NULL is NULL, and a row whose filter is NULL is not chosen. What is divided by zero is NULL.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from magicvideo_core.dataset.expression_parser import Node, Parser, wrong
from magicvideo_core.errors import ConfigError

MAX_LENGTH = 4000
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


@dataclass(frozen=True, slots=True)
class Filter:
    """A parsed filter; made by `parse_filter`."""

    text: str
    columns: frozenset[str]
    _root: Node

    def mask(self, table: pa.Table) -> pa.ChunkedArray:
        """Return for each row whether the filter holds; NULL is false.

        Raises ConfigError where the table has no such column, or where kinds do not go together.
        """
        found = _evaluate(self._root, table, self.text)
        if _kind(found) != "truth":
            raise wrong(self.text, self._root.at, f"a filter must be true or false, and this is a {_kind(found)}")
        whole: Any = found if not isinstance(found, pa.Scalar) else pa.chunked_array([[found.as_py()] * table.num_rows])
        return pc.fill_null(whole.cast(pa.bool_()), pa.scalar(False))


def parse_filter(text: str) -> Filter:
    """Return the filter that a text stands for. Raises ConfigError, saying where in the text what is wrong."""
    if len(text) > MAX_LENGTH:
        raise ConfigError(f"A filter of {len(text)} characters is too long: at most {MAX_LENGTH}, or several filters.")
    parser = Parser(text)
    root = parser.parse()
    return Filter(text, frozenset(parser.columns), root)


def _evaluate(node: Node, table: pa.Table, text: str) -> Any:
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


def _is_in(node: Node, table: pa.Table, text: str) -> Any:
    values = _evaluate(node.args[0], table, text)
    found = pa.scalar(False)
    for each in node.args[1]:
        first, second = _alike(node, [values, pa.scalar(each)], text)
        found = pc.or_kleene(found, pc.equal(first, second))
    return found


def _of_kind(kind: str, node: Node, table: pa.Table, text: str) -> Any:
    found = _evaluate(node, table, text)
    if _kind(found) != kind:
        raise wrong(text, node.at, f"a {kind} is needed, and this is a {_kind(found)}")
    return found


def _alike(node: Node, sides: Sequence[Any], text: str) -> Sequence[Any]:
    """Return two values that can be compared: a text beside a time is read as one."""
    kinds = [_kind(each) for each in sides]
    if sorted(kinds) == ["text", "time"]:
        moment = sides[kinds.index("time")].type
        try:
            return [each if kind == "time" else _as_time(each, moment) for each, kind in zip(sides, kinds, strict=True)]
        except pa.ArrowInvalid:
            raise wrong(text, node.at, "a time is written '2026-11-23' or '2026-11-23 06:00:00', in UTC") from None
    if kinds[0] != kinds[1]:
        raise wrong(text, node.at, f"a {kinds[0]} and a {kinds[1]} cannot be compared")
    return sides


def _as_time(value: Any, moment: pa.DataType) -> Any:
    return value.cast(pa.timestamp("us")).cast(pa.int64()).cast(pa.timestamp("us", tz="UTC")).cast(moment)


def _column_of(table: pa.Table, node: Node, text: str) -> pa.ChunkedArray:
    name = node.args[0]
    if name not in table.column_names:
        close = get_close_matches(name, table.column_names, n=1)
        hint = f"is {close[0]!r} meant?" if close else f"there are {', '.join(table.column_names)}"
        raise wrong(text, node.at, f"there is no column {name!r}: {hint}")
    column = table[name]
    if _kind(column) == "thing":
        raise wrong(text, node.at, f"column {name!r} holds {column.type}, which cannot be compared")
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
