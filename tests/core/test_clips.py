"""Clips in columns: the same clips, cut into shards, compared and hashed without an object for each."""

from threading import Barrier

import pytest

from magicvideo_core.clips import Clip, ClipTable, Shards
from magicvideo_core.concurrent_io import map_concurrently
from magicvideo_core.ids import short_hash

CLIPS = [Clip(f"{number:016x}", f"prompt {number}", "", number, extra={"n": [number]}) for number in range(10)]


def test_a_table_is_a_sequence_of_its_clips() -> None:
    table = ClipTable.of(CLIPS)
    assert (len(table), table[3], table[-1], list(table[2:4])) == (10, CLIPS[3], CLIPS[9], CLIPS[2:4])
    assert table == CLIPS and table[::2] == CLIPS[::2] and table != ClipTable.of(CLIPS[::-1])
    assert table.hash() == ClipTable.of(CLIPS[::-1]).hash() != table[1:].hash()
    assert ClipTable.of([]).hash() == ClipTable.concat([]).hash()
    assert table[:6].num_lacking(table) == 4 and table.num_lacking(table[:6]) == 0
    assert list(ClipTable.of([*CLIPS, *CLIPS]).distinct("prompt")) == [clip.prompt for clip in CLIPS]


@pytest.mark.parametrize("ids", [[f"{7 * number:016x}" for number in range(9000, 0, -1)], ["b", "ab", 'c"é'], []])
def test_a_table_is_hashed_as_the_list_of_its_sorted_ids(ids: list[str]) -> None:
    table = ClipTable.of(Clip(each, "") for each in ids)
    for part, own in ((table, ids), (table[1:], ids[1:])):
        assert part.hash() == short_hash(sorted(own))


def test_shards_are_slices_and_can_be_put_together_again() -> None:
    shards = Shards.cut(CLIPS, 4)
    assert [len(shard) for shard in shards] == [4, 4, 2]
    assert shards[1] == CLIPS[4:8] and shards[-1] == CLIPS[8:]
    again = Shards.of([shards[2], CLIPS[:4]])
    assert [shard.ids() for shard in again] == [shards[2].ids(), shards[0].ids()]
    with pytest.raises(IndexError):
        shards[3]


def test_calls_run_beside_each_other_and_come_back_in_order() -> None:
    together = Barrier(4, timeout=20)

    def call(number: int) -> int:
        together.wait()
        return number

    assert list(map_concurrently(call, range(12), 4)) == list(range(12))


def test_the_first_error_is_raised_in_its_place_and_few_calls_follow_it() -> None:
    called = []

    def call(number: int) -> int:
        called.append(number)
        return 1 // (number - 2)

    results = map_concurrently(call, range(100), 2)
    assert [next(results), next(results)] == [-1, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert len(called) < 10
