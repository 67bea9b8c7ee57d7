"""The sheet of decoded predictions: what fits into the time, and how it is laid out."""

import pytest
import torch


@pytest.fixture(scope="module")
def preview(host):
    return host.pack("nodes.model.preview")


@pytest.mark.parametrize(
    ("frames", "most", "count"),
    [
        (16, 16.0, 16),
        (16, 15.9, 12),
        (16, 4.2, 4),
        (16, 0.9, 0),
        (5, 99.0, 5),
        (5, 4.5, 4),
        (48, 99.0, 16),
        (1, 1.0, 1),
    ],
)
def test_as_many_frames_as_fit(preview, frames, most, count):
    assert preview.fitting(frames, most) == count


@pytest.mark.parametrize(
    ("count", "rows", "columns"), [(16, 4, 4), (12, 3, 4), (6, 2, 3), (5, 2, 3), (2, 1, 2), (1, 1, 1)]
)
def test_grid_keeps_the_reading_order(preview, count, rows, columns):
    images = torch.linspace(0, 1, count)[:, None, None, None].expand(count, 3, 4, 8)
    sheet = preview.grid(images)
    assert sheet.shape == (rows * 4, columns * 8, 3) and sheet.dtype == torch.uint8
    shown = sheet[::4, ::8, 0].flatten()[:count]
    assert shown.tolist() == (torch.linspace(0, 1, count) * 255).round().int().tolist()


def test_a_run_without_time_shows_nothing_and_a_long_one_everything(host, preview):
    model = host.pack("videolcm_core.networks.autoencoder").TinyAutoencoder().requires_grad_(False)
    watcher, frames = preview.Preview(model.taesd_decoder), torch.zeros(16, 4, 2, 2)
    assert watcher.sheet(frames, sampled=100.0, sampling=100.0, spent=0.0).shape == (64, 64, 3)
    each = watcher.seconds * 4
    assert watcher.sheet(frames, sampled=each, sampling=2 * each, spent=0.0).shape == (16, 16, 3)
    assert watcher.sheet(frames, sampled=0.0, sampling=0.0, spent=1.0) is None
    # What is spent is saved up again first.
    assert watcher.sheet(frames, sampled=1e-6, sampling=100.0, spent=0.08) is None


def test_a_masked_run_keeps_its_mask_and_callback(preview):
    given = []

    def executor(*arguments, **options):
        given.append((arguments, options))

    watcher = preview.Preview(torch.nn.Identity())
    watcher(executor, 1, 2, 3, 4, 5, 6, True, seed=8)
    watcher(executor, 1, 2, 3, 4, 5, callback=6)
    # Nobody watches here, so nothing is changed.
    assert given == [((1, 2, 3, 4, 5, 6, True), {"seed": 8}), ((1, 2, 3, 4, 5, 6), {})]


def test_only_the_tiny_decoder_is_shown(model, preview):
    clone = model.clone()
    preview.attach_preview(clone, {"decoder.conv_in.weight": torch.zeros(1)})
    assert clone.wrappers == model.wrappers
