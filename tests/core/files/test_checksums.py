"""Checksums: shipped files are what was written, new ones carry their own, and errors say when a file is damaged."""

import hashlib
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from videolcm_core.files.annotator_files import ANNOTATORS, load_annotator
from videolcm_core.files.checksums import CHECKSUM_KEY, SUMS_NAME, fits_checksum
from videolcm_core.files.errors import CheckpointError
from videolcm_core.files.loading import load_unet
from videolcm_core.files.lora import read_lora
from videolcm_core.files.reading import load_state_dict
from videolcm_core.files.writing import save_safetensors

MODELS = Path(__file__).resolve().parents[3] / "models"
SHIPPED = sorted(MODELS.rglob("*.safetensors"))
TENSORS = {"a.weight": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.float16)}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_are_what_was_committed(path):
    assert fits_checksum(path) is True


def test_every_shipped_file_has_a_line_and_every_line_a_file():
    listed = {
        sums.parent / line.split()[1]
        for sums in MODELS.rglob(SUMS_NAME)
        for line in sums.read_text(encoding="utf-8").splitlines()
    }
    assert listed == set(SHIPPED) and len(SHIPPED) >= 5


@pytest.fixture
def written(tmp_path):
    return save_safetensors(TENSORS, tmp_path / "a.safetensors", {"videolcm.w": "2"})


def flip(path, at):
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(bytes(data))


def test_a_written_file_carries_the_standards_checksum(written):
    with safe_open(written, "pt") as file:
        said = file.metadata()[CHECKSUM_KEY]
    data = written.read_bytes()
    content = data[8 + int.from_bytes(data[:8], "little") :]
    assert said == f"0x{hashlib.sha256(content).hexdigest()}" and len(content) == 58
    assert fits_checksum(written) is True


def test_a_checksum_is_not_taken_along(written, tmp_path):
    tensors, metadata, _ = load_state_dict(written)
    assert metadata == {"videolcm.w": "2"}
    changed = save_safetensors({**tensors, "b": tensors["b"] + 1}, tmp_path / "b.safetensors", metadata)
    assert fits_checksum(changed) is True


@pytest.mark.parametrize("at", [-1, -20, -58])
def test_one_bit_is_noticed(written, at):
    flip(written, at)
    assert fits_checksum(written) is False


def test_without_a_checksum_nothing_is_known(tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors", {CHECKSUM_KEY: "0x12"})
    torch.save(TENSORS, tmp_path / "a.pth")
    (tmp_path / "text.txt").write_text("hello")
    for path in [*tmp_path.iterdir(), tmp_path / "none.safetensors"]:
        assert fits_checksum(path) is None


def test_a_list_beside_a_file_counts_for_every_format(tmp_path):
    torch.save(TENSORS, tmp_path / "a.pth")
    digest = hashlib.sha256((tmp_path / "a.pth").read_bytes()).hexdigest()
    (tmp_path / SUMS_NAME).write_text(f"{'0' * 64}  b.pth\n{digest} *a.pth\n", encoding="utf-8")
    assert fits_checksum(tmp_path / "a.pth") is True
    flip(tmp_path / "a.pth", -1)
    assert fits_checksum(tmp_path / "a.pth") is False


def nan_weight(path):
    """The last four bytes, of a weight, become NaN."""
    path.write_bytes(path.read_bytes()[:-4] + b"\xff\xff\xff\xff")


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def broken_header(path):
    flip(path, 12)


def changed_shape(path):
    path.write_bytes(re.sub(rb'"shape":\[\d', b'"shape":[7', path.read_bytes(), count=1))


READERS = {
    "unet": (load_unet, "videolcm-mini.safetensors"),
    "lora": (read_lora, "videolcm-mini.safetensors"),
    "tensors": (load_state_dict, "videolcm-mini.safetensors"),
    "annotator": (lambda path: load_annotator(path, ANNOTATORS), "annotators/videolcm-mini-depth.safetensors"),
}


@pytest.mark.parametrize("damage", [nan_weight, cut, broken_header, changed_shape], ids=lambda f: f.__name__)
@pytest.mark.parametrize("reader", READERS)
def test_the_error_of_a_damaged_file_says_so_and_how_to_get_it(tmp_path, reader, damage):
    read, name = READERS[reader]
    path = tmp_path / Path(name).name
    path.write_bytes((MODELS / name).read_bytes())
    sums = ((MODELS / name).parent / SUMS_NAME).read_text(encoding="utf-8")
    (tmp_path / SUMS_NAME).write_text(sums, encoding="utf-8")
    damage(path)
    with pytest.raises(CheckpointError) as error:
        read(path)
    text = str(error.value)
    assert text.startswith(f"{path.name}: got a damaged file, whose bytes do not fit its checksum (")
    assert "Get it again from where it came from" in text and "git checkout -- models" in text and len(text) <= 1500


def test_an_undamaged_file_of_bad_weights_is_not_called_damaged(tmp_path):
    path = save_safetensors({"a": torch.full((3,), float("nan"))}, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match="got NaN or infinite values in a; .* Use an earlier"):
        load_state_dict(path)
