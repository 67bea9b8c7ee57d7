"""Tuples in tuples in a pickle are counted without running it; real files stay far below the bound."""

import io
import pickle
import time

import pytest
import torch

from videolcm_core.files.errors import CheckpointError
from videolcm_core.files.pickle_depth import DEEPEST, nests_too_deeply
from videolcm_core.files.reading import load_state_dict


def nested(levels: int, twice: bool = True) -> tuple:
    value: tuple = (1,)
    for _ in range(levels - 1):
        value = (value, value) if twice else (value,)
    return value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("twice", [True, False])
def test_levels_are_counted(protocol, twice):
    assert not nests_too_deeply(pickle.dumps([nested(DEEPEST, twice), {}, {"a": (1, 2)}], protocol))
    assert nests_too_deeply(pickle.dumps([nested(DEEPEST + 1, twice)], protocol))


def test_nonsense_is_left_to_the_reader():
    for data in (b"", b"\x00" * 20, b"\x80\x02(((", b"\x80\x02tttt", b"\x80\x02h\x07."):
        assert not nests_too_deeply(data)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_file_that_would_hash_for_hours_is_refused_at_once(tmp_path, new_format):
    # Written as an object of levels that no one hashes: the key is put in by hand.
    path = tmp_path / "deep.pth"
    opened = io.BytesIO()
    torch.save({"weight": torch.zeros(2), "deep": nested(45)}, opened, _use_new_zipfile_serialization=new_format)
    path.write_bytes(opened.getvalue())
    begun = time.monotonic()
    with pytest.raises(CheckpointError, match="deeply nested tuples"):
        load_state_dict(str(path))
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("new_format", [True, False])
def test_ordinary_files_are_read(tmp_path, new_format):
    path = tmp_path / "plain.pth"
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 4))
    torch.save({"state_dict": network.state_dict(), "step": 7}, path, _use_new_zipfile_serialization=new_format)
    state, _, info = load_state_dict(str(path))
    assert set(state) == set(network.state_dict()) and info.step == 7
