"""Counts of a web process, and what becomes of them where the disk has no room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict

from service.web import reserved
from service.web.reserved import BYTES, ReservedDict


def full(_descriptor: int, _start: int, _size: int) -> None:
    raise OSError(28, "No space left on device")


def test_the_blocks_are_there_before_a_count_is(tmp_path: Path) -> None:
    path = tmp_path / "counter_1.db"
    counts = ReservedDict(str(path))
    assert os.stat(path).st_blocks * 512 >= BYTES
    counts.write_value("a", 2.0, 0.0)
    counts.close()
    assert [found[:2] for found in MmapedDict.read_all_values_from_file(str(path))] == [("a", 2.0)]


def test_more_counts_than_there_is_room_for_take_more(tmp_path: Path) -> None:
    path = tmp_path / "counter_1.db"
    counts = ReservedDict(str(path))
    for number in range(100):
        counts.write_value(f"{number}" * 3000, float(number), 0.0)
    assert os.stat(path).st_blocks * 512 >= 2 * BYTES
    assert [value for _key, value, _time in counts.read_all_values()] == list(range(100))


def test_without_room_they_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserved.os, "posix_fallocate", full)
    path = tmp_path / "counter_1.db"
    counts = ReservedDict(str(path))
    counts.write_value("a", 2.0, 0.0)
    assert counts.read_value("a") == (2.0, 0.0)
    assert not path.exists()


def test_where_the_room_ends_they_go_on_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = ReservedDict(str(tmp_path / "counter_1.db"))
    for number in range(200):
        if number == 10:
            monkeypatch.setattr(reserved.os, "posix_fallocate", full)
        counts.write_value(f"{number:04d}" * 500, float(number), 0.0)
    assert [value for _key, value, _time in counts.read_all_values()] == list(range(200))
    counts.write_value("0003" * 500, 33.0, 0.0)
    assert counts.read_value("0003" * 500)[0] == 33.0


def test_a_folder_that_takes_no_file(tmp_path: Path) -> None:
    counts = ReservedDict(str(tmp_path / "missing" / "counter_1.db"))
    counts.write_value("a", 1.0, 0.0)
    assert counts.read_value("a")[0] == 1.0
