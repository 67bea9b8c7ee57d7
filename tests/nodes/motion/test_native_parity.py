"""Motion modules in core's UNet against the authors' code, and what core's features make of them."""

from pathlib import Path

import torch
from precision import distance
from safetensors.torch import load_file

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "animatediff"
ALL = 21
"""Motion modules of a UNet: 8 going down, one in the middle, 12 going up."""


def golden(name):
    return load_file(GOLDEN / f"{name}.safetensors")


def frames_first(video):
    """``[B, C, F, h, w]`` -> the host's ``[B * F, C, h, w]``."""
    return video.movedim(2, 1).flatten(0, 1)


def videos(frames, count):
    return frames.unflatten(0, (count, -1)).movedim(2, 1)


def count_calls(monkeypatch, model):
    """A list that gets the name of each motion module that runs."""
    from_module = {}
    network = model_motion(model).network
    for name in network.names():
        from_module[network.get_submodule(name)] = name
    seen = []
    kind = type(next(iter(from_module)))
    forward = kind.forward

    def spy(self, *args, **kwargs):
        seen.append(from_module[self])
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(kind, "forward", spy)
    return seen


def model_motion(model):
    import importlib

    patch = importlib.import_module(type(model_handler(model)).__module__)
    return patch.motion_of(model)


def model_handler(model):
    patches = model.model_options["transformer_options"]["patches"]["forward_timestep_embed_patch"]
    return next(p for p in patches if hasattr(p, "motion"))


def predict(model, x, t, context, kinds=(1, 0)):
    """The UNet as core's samplers call it, for ``[B, C, F, h, w]``."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([model])
    options = {**model.model_options["transformer_options"], "cond_or_uncond": list(kinds)}
    frames = x.shape[2]
    out = model.model.diffusion_model(
        frames_first(x),
        torch.full((len(x) * frames,), float(t)),
        context.repeat_interleave(frames, 0),
        transformer_options=options,
    )
    return videos(out, len(x))


def test_first(host, animate, monkeypatch):
    recorded = golden("unet_forward_author")
    model = animate()
    seen = count_calls(monkeypatch, model)
    for frames, t in ((8, 999), (16, 259)):
        x = recorded[f"x_{frames}"].repeat(2, 1, 1, 1, 1)
        out = predict(model, x, t, recorded["context"])
        print(distance(out, recorded[f"y_{frames}_{t}"]))
    assert seen == list(model_motion(model).network.names()) * 2
    assert len(set(seen)) == ALL
