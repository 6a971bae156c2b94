"""Memory that is used again: by one request at a time, not for long, and never while somebody may still write there."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine import shared
from service.engine.pool import LARGEST, SMALLEST, Mappings, Piece, Pool
from tests.engine.fakes import descriptors_kept, wait_for


@given(st.integers(1, LARGEST))
def test_a_piece_is_large_enough_and_not_much_larger(size: int) -> None:
    piece = Pool().take(size)
    assert piece is not None
    assert size <= len(piece.memory) <= max(SMALLEST, 2 * size)


def test_what_is_larger_is_nobody_s_to_keep() -> None:
    assert Pool().take(LARGEST + 1) is None


def test_the_piece_that_was_used_last_comes_first() -> None:
    pool = Pool()
    first, second = pool.take(100_000), pool.take(100_000)
    assert first is not None and second is not None and first is not second
    pool.give(first)
    pool.give(second)
    assert pool.take(120_000) is second
    assert pool.take(120_000) is first
    assert pool.take(100) is not first


def test_a_spoiled_piece_is_not_used_again() -> None:
    pool = Pool()
    piece = pool.take(100_000)
    assert piece is not None
    piece.spoiled = True
    pool.give(piece)
    assert pool.take(100_000) is not piece


def test_no_more_is_kept_than_may_be() -> None:
    with descriptors_kept():
        pool = Pool(idle_bytes=3 * SMALLEST, idle_s=0.2)
        pieces = [pool.take(1) for _ in range(5)]
        for piece in pieces:
            assert piece is not None
            pool.give(piece)
        assert [len(piece.memory) for piece in pieces if piece] == [0, 0, SMALLEST, SMALLEST, SMALLEST]
        del piece, pieces  # what stays goes too, after a while


def test_a_piece_s_size_stays() -> None:
    piece = Piece(SMALLEST)
    with pytest.raises(PermissionError):
        os.ftruncate(piece.descriptor, 0)


def test_a_mapping_is_made_once_and_seen_by_both() -> None:
    piece, other = Piece(SMALLEST), Piece(SMALLEST)
    mappings = Mappings()
    there = mappings.of(os.dup(piece.descriptor))
    assert mappings.of(os.dup(piece.descriptor)) is there
    assert mappings.of(other.descriptor) is not there
    layout = shared.place({"label": np.arange(7)}, there, 100)
    assert layout is not None
    assert shared.read(piece.memory, layout)["label"].tolist() == list(range(7))
    assert not shared.read(piece.memory, layout)["label"].flags.writeable


def test_mappings_are_given_back() -> None:
    now = 0.0
    mappings = Mappings(most_bytes=2 * SMALLEST, idle_s=5.0, clock=lambda: now)
    pieces = [Piece(SMALLEST) for _ in range(4)]
    with descriptors_kept():
        for piece in pieces:
            mappings.of(piece.descriptor)
        assert len(list(mappings)) == 2
        now = 4.0
        kept = mappings.of(pieces[3].descriptor)
        now = 6.0
        mappings.forget_idle()
        assert list(mappings) == [kept]
        del kept
        now = 10.0
        mappings.forget_idle()
        assert not list(mappings)


ARRAYS = st.lists(st.integers(0, 40), max_size=4)


@given(ARRAYS, st.integers(0, 600))
def test_what_finds_room_is_read_there_and_what_does_not_leaves_it_alone(counts: list[int], start: int) -> None:
    memory = memoryview(bytearray(b"\xaa" * 1024))
    arrays = {f"a{index}": np.arange(count, dtype="<i4") for index, count in enumerate(counts)}
    layout = shared.place(arrays, memory, start)
    assert bytes(memory[:start]) == b"\xaa" * start
    if layout is None:
        assert bytes(memory) == b"\xaa" * 1024
        assert start + sum(array.nbytes + shared.ALIGNMENT for array in arrays.values()) > 1024
    else:
        assert {name: found.tolist() for name, found in shared.read(memory, layout).items()} == {
            name: array.tolist() for name, array in arrays.items()
        }


def test_idle_memory_goes_back_without_another_request() -> None:
    pool = Pool(idle_s=0.1)
    piece = pool.take(1)
    assert piece is not None
    pool.give(piece)
    wait_for(lambda: not len(piece.memory))
    time.sleep(0.05)
    assert pool.take(1) is not piece
