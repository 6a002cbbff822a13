"""Filters: what they choose is what DuckDB chooses by the same words, and wrong ones are one sentence."""

from datetime import UTC, datetime

import duckdb
import pyarrow as pa
import pytest

from magicvideo_core.dataset.expressions import MAX_LENGTH, parse_filter
from magicvideo_core.errors import ConfigError

ROWS = pa.table(
    {
        "n": pa.array(range(8), pa.int32()),
        "sharpness": pa.array([0.5, None, 30.0, 12.25, 0.0, 100.0, None, 7.0], pa.float64()),
        "prompt": pa.array(["a Red circle", "it's 100% red", None, "blue_square", "", "a red star", "x", "b"]),
        "held_out": pa.array([True, False, None, True, False, None, True, False]),
        "started_at": pa.array(
            [datetime(2026, 11, day, 12, tzinfo=UTC) for day in range(20, 28)], pa.timestamp("us", tz="UTC")
        ),
        "extra.source": pa.array(["web", "own", None, "web", "web", "own", "own", None]),
    }
)


@pytest.mark.parametrize(
    "text",
    [
        "sharpness > 7",
        "sharpness >= 7 AND n != 5 OR n = 1",
        "n = 1 OR n = 2 AND sharpness > 50",
        "NOT sharpness > 7",
        "NOT (sharpness > 7 AND n < 4) AND NOT held_out",
        "held_out",
        "NOT NOT held_out OR sharpness IS NULL",
        "sharpness IS NOT NULL AND held_out IS NULL",
        "sharpness BETWEEN 7 AND 30",
        "n NOT BETWEEN 2 AND 5 AND sharpness <= 10",
        "n IN (1, 3, 5)",
        "n NOT IN (1, 3, 5)",
        "prompt NOT IN ('x', 'b')",
        "prompt = 'it''s 100% red'",
        "prompt LIKE '%red%'",
        "prompt ILIKE '%red%' AND prompt NOT LIKE '%star'",
        "prompt LIKE 'blue_squar_'",
        "lower(prompt) = 'a red circle' or length(prompt) < 2",
        "\"extra.source\" = 'web'",
        "n + 1 * 2 >= 6 - 2",
        "-n < -3",
        "abs(n - 4) / 2 <= 1",
        "n > 0 AND sharpness / n > 5",
        "n > 1e0 AND n < 6.5 AND n <> .5",
        "held_out = TRUE AND n > 0",
        "started_at >= '2026-11-23 12:00:00' and started_at < '2026-11-26'",
        "TRUE",
        "n = 0 OR FALSE",
    ],
)
def test_it_chooses_what_duckdb_chooses(text: str) -> None:
    found = ROWS.filter(parse_filter(text).mask(ROWS))["n"].to_pylist()
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("clips", ROWS)
        expected = [row[0] for row in connection.sql(f"SELECT n FROM clips WHERE {text} ORDER BY n").fetchall()]
    assert found == expected


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "it ends too early"),
        ("sharpnes > 3", "character 1: there is no column 'sharpnes': is 'sharpness' meant"),
        ("n > ", "it ends too early"),
        ("n > 'three'", "character 3: a number and a text cannot be compared"),
        ("n = NULL", "write IS NULL"),
        ("n AND held_out", "a truth is needed, and this is a number"),
        ("n + 1", "a filter must be true or false"),
        ("n > 1 held_out", "join conditions by AND or OR"),
        ("(n > 1", ") is missing at the end"),
        ("prompt = 'open", "character 10: a text without its closing quote"),
        ("n > 1; DROP TABLE clips", "';' means nothing here"),
        ("__import__('os')", "join conditions by AND or OR"),
        ("prompt LIKE n", "LIKE takes a 'text'"),
        ("n IN ()", "IN takes numbers"),
        ("started_at > 'yesterday'", "a time is written"),
        ("n NOT 3", "after NOT there must be"),
        ("(" * 100 + "n" + ")" * 100, "levels of parentheses"),
        ("1" + "+1" * 100 + " > n", "terms"),
        ("n > 1 AND " * MAX_LENGTH, "too long"),
    ],
)
def test_a_wrong_filter_is_one_sentence(text: str, what: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_filter(text).mask(ROWS)
    assert what in str(error.value) and "\n" not in str(error.value)


def test_many_conditions_need_no_deep_stack() -> None:
    text = " AND ".join(["n>-1"] * 300) + " AND " + "NOT " * 200 + "n < 2"
    assert parse_filter(text).mask(ROWS).to_pylist() == [True, True, *[False] * 6]
    assert parse_filter("1 / n > 0").mask(ROWS).to_pylist() == [False, *[True] * 7]
    assert parse_filter("n > 1 AND lower(prompt) = 'b' OR sharpness > 1").columns == {"n", "prompt", "sharpness"}
