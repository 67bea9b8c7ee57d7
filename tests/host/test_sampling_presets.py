"""Model Sampling, Scheduler and Match Colours through a real server: graphs saved before, and the newer inputs."""

import json

import pytest

import setup
from prompts import inputs_of, quick, sampler_of

BEFORE = {
    "prediction": "v",
    "zsnr": True,
    "original_steps": 50,
    "beta_schedule": "scaled_linear",
    "timestep_scaling": 10.0,
}


def patched(prompt, **inputs):
    """The prompt with Model Sampling before its sampler."""
    prompt = quick(prompt)
    sampler = sampler_of(prompt)
    prompt["patch"] = {"class_type": "VideoLCMSampling", "inputs": {"model": sampler["model"], **BEFORE, **inputs}}
    sampler["model"] = ["patch", 0]
    return prompt


@pytest.mark.parametrize("inputs", [{}, {"preset": "videolcm", "beta_end": 0.012}], ids=["saved before", "preset"])
def test_model_sampling(comfy, text_to_video, inputs):
    result = comfy.queue(patched(text_to_video, **inputs))
    assert result.ok, result.errors


def test_preset_of_another_kind_of_model(comfy, text_to_video):
    result = comfy.queue(patched(text_to_video, preset="animatelcm-svd"))
    assert result.status == "error" and result.error["node_type"] == "VideoLCMSampling"
    assert "the MODEL is a VideoLCMModel (V_PREDICTION); allowed: Stable Video Diffusion" in result.errors[0]


@pytest.mark.parametrize("original_steps", [0, 50])
def test_scheduler_takes_the_grid_of_the_model(comfy, original_steps):
    prompt = json.loads((setup.ROOT / "workflows" / "api" / "videolcm_custom_sampling.json").read_text())
    inputs_of(prompt, "VideoLCMScheduler").update({"mode.original_steps": original_steps, "steps": 1})
    result = comfy.queue(prompt)
    assert result.ok, result.errors


def test_match_colours(comfy, text_to_video):
    prompt = quick(text_to_video)
    shown = inputs_of(prompt, "CreateVideo")
    colours = {"images": shown["images"], "reference": shown["images"], "hue": 0.03, "saturation": 1.0, "value": 1.0}
    prompt["colours"] = {"class_type": "VideoLCMMatchColours", "inputs": colours}
    shown["images"] = ["colours", 0]
    result = comfy.queue(prompt)
    assert result.ok and "colours" in result.executed, result.errors
