"""Files are whole or not there."""

from __future__ import annotations

import numpy as np
import pytest

from jaxoff.files import plain, replacing, write_text


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_text(tmp_path / "new" / "a.txt", "old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_plain_makes_json_of_arrays_and_nan():
    assert plain({1: np.array([1.5, np.nan]), "b": (np.int32(2), True, None)}) == {
        "1": [1.5, None],
        "b": [2, True, None],
    }
