"""The evaluation: samplers against known answers, cells and caches, workers that agree, tables."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import setup
from training import evaluate
from training.data.corpus import Corpus, write_index
from training.evaluation import measures, models, prompts, results, sampling, sources, tables, workers
from training.evaluation.samplers import SAMPLERS, Settings, trailing_timesteps
from training.mini import family as mini
from training.mini import world
from training.mini.corpus import corpus_of, shard_path
from videolcm_core.diffusion.samplers import sample_ddim
from videolcm_core.diffusion.schedule import Schedule, ddim_timesteps

SCHEDULE = mini.schedule()
SPREAD = 0.6


def gaussian_network(x, t):
    """The exact v-prediction for data distributed as N(0, SPREAD^2)."""
    alpha, sigma = (f(t).view(-1, 1, 1, 1, 1) for f in (SCHEDULE.alpha_t, SCHEDULE.sigma_t))
    variance = alpha**2 * SPREAD**2 + sigma**2
    return alpha * sigma * (1 - SPREAD**2) / variance * x


def sampled(name, steps):
    noise = torch.randn(2, 4, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    settings = Settings(schedule=SCHEDULE, prediction="v")
    result = SAMPLERS[name].run(gaussian_network, noise, steps, settings, lambda x, i: torch.randn(x.shape))
    return noise, result


@pytest.mark.parametrize(("name", "steps"), [("ddim-trailing", 500), ("dpm++", 50)])
def test_many_steps_solve_the_ordinary_differential_equation(name, steps):
    """Of Gaussian data the probability flow scales the noise to the data's spread."""
    noise, result = sampled(name, steps)
    torch.testing.assert_close(result, SPREAD * noise, rtol=0.02, atol=0.01)


def test_the_authors_grid_is_the_cores_sampler():
    noise, result = sampled("ddim", 4)
    torch.testing.assert_close(result, sample_ddim(gaussian_network, noise, 4, SCHEDULE))
    assert ddim_timesteps(4).tolist() == [751, 501, 251, 1]
    assert trailing_timesteps(4).tolist() == [999, 749, 499, 249]
    assert trailing_timesteps(6).tolist() == [999, 832, 666, 499, 332, 166]
    with pytest.raises(ValueError, match="1 to 1000"):
        trailing_timesteps(0)


@pytest.mark.parametrize("name", ["ddim-trailing", "dpm++", "lcm"])
def test_one_step_from_pure_noise_is_the_networks_clean_prediction(name):
    noise, result = sampled(name, 1)
    clean = -gaussian_network(noise, torch.full((2,), 999))
    if name == "ddim-trailing":  # the authors' DDIM arrives at the noise level of t = 0
        start = torch.tensor(0)
        clean = SCHEDULE.alpha_t(start) * clean + SCHEDULE.sigma_t(start) * noise
    torch.testing.assert_close(result, clean, rtol=0, atol=2e-3)


def test_cells_are_parsed():
    rows = sampling.parse_cells("teacher:dpm++:4,50:3")
    assert [(r.name, r.network_calls) for r in rows] == [("teacher dpm++@4 cfg 3", 8), ("teacher dpm++@50 cfg 3", 100)]
    assert sampling.parse_cells("w9:lcm:4")[0].name == "w9@4"
    assert sampling.parse_cells("teacher:ddim:4")[0].cfg == 0.0, "still to be chosen"
    for wrong, message in (("teacher:4", "teacher:ddim:4,50"), ("teacher:euler:4", "ddim-trailing")):
        with pytest.raises(ValueError, match=message.replace("+", r"\+")):
            sampling.parse_cells(wrong)


def test_clips_keep_their_prompt_and_noise_however_many_are_asked_for():
    asked = [prompts.Prompt(text=str(i)) for i in range(3)]
    assert prompts.in_turn(asked, 5) == prompts.in_turn(asked, 40)[:5] == [*asked, *asked[:2]]
    few, _ = sampling.noise_of(range(3, 5), (4, 2, 3, 3))
    many, _ = sampling.noise_of(range(0, 6), (4, 2, 3, 3))
    torch.testing.assert_close(few, many[3:5], rtol=0, atol=0)


# --------------------------------------------------------------------------- a whole run on a corpus of noise


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """One clip of every held-out combination."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    for combination in world.held_out():
        clips = rng.integers(0, 256, (1, world.FRAMES, world.SIZE, world.SIZE, 3), dtype=np.uint8)
        np.savez(shard_path(folder, combination), clips=clips)
    write_index(corpus_of(folder))
    return folder


class Brightness(nn.Module):
    """Stands where the I3D does: a few numbers of a clip."""

    def forward(self, video):
        return video[:, :, ::5, ::50, ::60].flatten(1)[:, :12]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(corpus, out, monkeypatch, *more):
    bright = measures.Measure(title="", rows=lambda m, c: Brightness()(c.videos.movedim(-1, 1).float()))
    monkeypatch.setitem(measures.MEASURES, "fvd", bright)
    arguments = ["--corpus", str(corpus), "--out", str(out), "--clips", "10", "--reference", "8"]
    arguments += ["--metrics", "fvd", "flicker", "--cfg", "1.5"]
    evaluate.main([*arguments, "--cells", "student:lcm:1", "teacher:dpm++:1", *more])
    return json.loads((out / "results.json").read_text())


def test_one_command_writes_table_plot_and_protocol_and_resumes(corpus, tmp_path, monkeypatch):
    document = run(corpus, tmp_path, monkeypatch)
    assert list(document["rows"]) == ["real", "real, autoencoded", "student@1", "teacher dpm++@1 cfg 1.5"]
    row = document["rows"]["student@1"]
    low, high = row["values"]["fvd"][1:]
    assert low <= row["values"]["fvd"][0] <= high and row["values"]["flicker"][0] > 0
    assert "fvd" not in document["rows"]["real"]["values"]
    assert document["rows"]["real, autoencoded"]["values"]["fvd_latent"][0] == pytest.approx(0.0, abs=1e-6)
    assert row["network_calls"] == 1 and document["rows"]["teacher dpm++@1 cfg 1.5"]["network_calls"] == 2
    assert document["protocol"]["clips a cell"] == 10 and "64 x 64" in document["protocol"]["reference"]
    for name in ("results.md", "fvd.svg", "fvd.png", "student@1.png"):
        assert (tmp_path / name).stat().st_size > 100
    # Killed in the middle: one chunk is missing, and only that one is made again, the same.
    chunks = sorted(tmp_path.glob("cells/student@1-*/clips_*.pt"))
    kept, gone = (torch.load(c, weights_only=True)["value"] for c in chunks)
    time_kept = chunks[0].stat().st_mtime_ns
    chunks[1].unlink()
    for other in chunks[1].parent.glob("f*_000008-000010.pt"):
        other.unlink()
    again = run(corpus, tmp_path, monkeypatch)
    assert chunks[0].stat().st_mtime_ns == time_kept
    assert torch.equal(torch.load(chunks[1], weights_only=True)["value"], gone)
    assert again["rows"]["student@1"]["values"] == row["values"]
    assert kept.shape == (8, world.FRAMES, world.SIZE, world.SIZE, 3) and len(gone) == 2


def test_two_processes_make_the_same_clips_as_one(corpus, tmp_path):
    source = sources.RowSource(
        kind="cell", row=sampling.Row(model="student", steps=1), weights=mini_file(), hashes=("a",), clips=10, data=""
    )
    asked = tuple(prompts.of_corpus(Corpus.open(corpus)))
    rows = []
    for count in (1, 2):
        setup = workers.Setup(out=tmp_path / str(count), prompts=asked, corpus=corpus)
        with workers.open_workers(setup, count) as team:
            team.run(source, ["flicker"])
            rows.append((team.rows(source, "flicker"), team.clips(source, 10)))
    assert torch.equal(rows[0][1], rows[1][1]) and torch.equal(rows[0][0], rows[1][0])


def mini_file():
    return setup.ROOT / "models" / "videolcm-mini.safetensors"


PROGRAM = """
import os, sys, time
from pathlib import Path
from training.evaluation import workers
with workers.open_workers(workers.Setup(out=Path(sys.argv[1]), prompts=()), 2) as team:
    print(team.pool.submit(os.getpid).result(), flush=True)
    time.sleep(600)
"""


def runs(pid):
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] not in "ZX"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="tells running processes by /proc")
def test_workers_end_with_the_command_that_was_killed(tmp_path):
    command = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=Path(evaluate.__file__).parents[1], stdout=subprocess.PIPE
    )
    worker = int(command.stdout.readline())
    assert runs(worker)
    command.kill()
    command.wait(30)
    ended = time.monotonic() + 60
    while runs(worker) and time.monotonic() < ended:
        time.sleep(0.2)
    assert not runs(worker)


def test_running_checkpoints_are_completed_by_other_files(tmp_path):
    whole = mini.load_all_in_one(mini_file())
    unet, text = whole.unet.state_dict(), whole.text.state_dict()
    teacher = {f"unet.{k}": v for k, v in unet.items()} | {
        f"text.{k}": v + 1 if v.ndim > 1 else v for k, v in text.items()
    }
    torch.save({"step": 3, "task": {"average": teacher}}, tmp_path / "teacher.pt")
    torch.save({"step": 3, "task": {"average": unet, "student": {}}}, tmp_path / "student.pt")
    torch.save({"step": 3, "task": {"other": 1}}, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match="no text encoder and no autoencoder"):
        models.load_model(tmp_path / "student.pt")
    loaded = models.load_model(tmp_path / "student.pt", [tmp_path / "teacher.pt", mini_file()])
    assert all(torch.equal(v, unet[k]) for k, v in loaded.unet.state_dict().items())
    weight = next(k for k, v in text.items() if v.ndim > 1)
    used = loaded.encoders.text_encoder.state_dict()
    assert torch.equal(used[weight], text[weight] + 1), "the teacher's, not the shipped one"
    with pytest.raises(ValueError, match="releases none of them"):
        models.load_model(tmp_path / "foreign.pt", [mini_file()])
    with pytest.raises(FileNotFoundError, match="none.pt"):
        models.load_model(tmp_path / "none.pt")


def test_a_cell_samples_at_its_files_own_settings(tmp_path):
    """Size, rate, grid and scaling are the file's; of a run, its recipe's on what its teacher's file says."""
    entries = {"original_steps": "100", "timestep_scaling": "4.5", "width": "96", "height": "48", "frames": "8"}
    entries |= {"fps": "12", "prediction": "x_0", "zero_terminal_snr": "no", "beta_schedule": "linear"}
    with safe_open(mini_file(), "pt") as file:
        tensors, metadata = {k: file.get_tensor(k) for k in file.keys()}, file.metadata()
    path = tmp_path / "other.safetensors"
    save_file(tensors, path, metadata | {f"videolcm.{k}": v for k, v in entries.items()})
    loaded = models.load_model(path)
    assert (loaded.original_steps, loaded.timestep_scaling) == (100, 4.5)
    assert loaded.latent_shape == (4, 8, 6, 12) and loaded.fps == 12
    assert loaded.teacher.prediction == "x_0"
    plain = Schedule.create("linear", zero_terminal_snr=False, dtype=torch.float64)
    assert torch.equal(loaded.teacher.schedule.alphas_cumprod, plain.alphas_cumprod)
    unet = {k.removeprefix("model.diffusion_model."): v for k, v in tensors.items() if k.startswith("model.")}
    recipe = {"original_steps": 40, "timestep_scaling": 7.0, "learning_rate": 1e-4}
    torch.save({"step": 3, "task": {"student": unet}, "description": recipe}, tmp_path / "run.pt")
    running = models.load_model(tmp_path / "run.pt", [path])
    assert (running.original_steps, running.timestep_scaling) == (40, 7)
    assert running.latent_shape == (4, 8, 6, 12) and running.teacher.prediction == "x_0"
    assert running.teacher.settings.sampling == "lcm" and running.teacher.file == "run.pt"
    torch.save(
        {"step": 3, "task": {"student": unet}, "description": {"original_steps": 2000}},
        tmp_path / "run.pt",
    )
    with pytest.raises(ValueError, match=r"run.pt: got videolcm.original_steps '2000'; allowed: 1 to 1000"):
        models.load_model(tmp_path / "run.pt", [path])


def test_another_file_sampler_or_condition_is_another_cache(tmp_path):
    row = sampling.Row(model="student", steps=4)
    base = {"kind": "cell", "row": row, "hashes": ("a",), "clips": 8, "data": "d"}
    others = [{}, {"hashes": ("b",)}, {"given": ("depth",)}, {"data": "other"}]
    others.append({"row": sampling.Row(model="student", steps=4, cfg=2.0)})
    folders = {sources.RowSource(**(base | other)).folder(tmp_path) for other in others}
    assert len(folders) == 5
    more = sources.RowSource(**(base | {"clips": 12}))
    assert sources.RowSource(**base).folder(tmp_path) == more.folder(tmp_path)
    names = [workers.chunk_path(tmp_path, "clips", c).name for c in more.chunks]
    assert names == ["clips_000000-000008.pt", "clips_000008-000012.pt"]


def test_missing_weights_and_networks_are_named(corpus, tmp_path):
    common = ["--corpus", str(corpus), "--out", str(tmp_path), "--cfg", "1.5"]
    with pytest.raises(FileNotFoundError, match="fetch_i3d.sh"):
        evaluate.main([*common, "--metrics", "fvd", "--i3d", str(tmp_path / "none.ckpt")])
    with pytest.raises(ValueError, match="no file for w9"):
        evaluate.main([*common, "--metrics", "flicker", "--cells", "w9:lcm:4"])


def test_table_and_ratio():
    value = {"fvd": [100.4, 90.0, 110.0], "all": [0.83, 0.8, 0.86]}
    rows = {"real": {"values": {"all": [1.0, 1.0, 1.0]}}, "student@4": {"values": value, "network_calls": 4}}
    text = tables.markdown(rows, columns=tables.columns_of(measures.with_judges("mini")))
    assert "| student@4 | 4 | 100 ± 10 | 83 ± 3 % |" in text and "| real | - | - | 100 ± 0 % |" in text
    first = torch.tensor([1.0, 2.0, 3.0]).double()
    assert results.ratio(first, 2 * first, 0.5) == [0.5, 0.5, 0.5]
