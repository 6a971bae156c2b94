"""Shared memory: what one process packs another unpacks, and nobody can shrink it meanwhile."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.engine import shared
from service.errors import InternalError

ARRAYS = st.dictionaries(
    st.text("abcdef_", min_size=1, max_size=8),
    hnp.arrays(
        st.sampled_from([np.dtype(t) for t in ("<f8", "<f4", "u1", "<i4", "<i8", "?")]),
        hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=7),
    ),
    max_size=5,
)


@given(ARRAYS)
def test_unpack_returns_what_pack_took(arrays: dict[str, np.ndarray]) -> None:
    descriptor, layout = shared.pack(arrays)
    found = shared.unpack(descriptor, layout)
    os.close(descriptor)
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        assert not found[name].flags.writeable


def test_none_is_left_out() -> None:
    descriptor, layout = shared.pack({"coord": np.zeros((2, 3)), "color": None})
    assert list(shared.unpack(descriptor, layout)) == ["coord"]
    os.close(descriptor)


def test_views_outlive_the_descriptor() -> None:
    descriptor, layout = shared.pack({"a": np.arange(5)})
    found = shared.unpack(descriptor, layout)
    os.close(descriptor)
    assert found["a"].sum() == 10


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="only Linux seals memory")
def test_packed_memory_cannot_shrink() -> None:
    descriptor, _layout = shared.pack({"a": np.arange(5000)})
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    os.close(descriptor)


@pytest.mark.parametrize(
    "lie", [{"start": 1 << 40}, {"start": -8}, {"shape": [6]}, {"shape": [-1]}, {"dtype": "|O"}, {"dtype": "<f16"}]
)
def test_a_layout_that_lies_is_refused(lie: dict[str, object]) -> None:
    descriptor, layout = shared.pack({"a": np.arange(5)})
    layout[0].update(lie)
    with pytest.raises(InternalError, match="'a' does not fit"):
        shared.unpack(descriptor, layout)
    os.close(descriptor)
