"""What a wrong sampling run says, through a real server: the error is ours and stands on the node it belongs to."""

import pytest
from windows import window_settings

from prompts import quick, sampler_of


def guided(prompt, cfg, **inputs):
    """The prompt with guidance, and with a negative prompt where its text is given."""
    prompt = quick(prompt)
    sampler = sampler_of(prompt)
    sampler["cfg"] = cfg
    if "text" in inputs:
        clip = prompt[sampler["positive"][0]]["inputs"]["clip"]
        prompt["negative"] = {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": inputs["text"]}}
        sampler["negative"] = ["negative", 0]
    elif "constant" in inputs:
        sampler["negative"] = inputs["constant"]
    return prompt


@pytest.mark.parametrize("inputs", [{}, {"constant": None}], ids=["no input", "null"])
def test_guidance_without_a_negative_prompt(comfy, text_to_video, inputs):
    result = comfy.queue(guided(text_to_video, 2.0, **inputs))
    assert result.status == "error" and result.error["node_type"] == "VideoLCMSampler"
    assert "cfg is 2.0 and no negative prompt is connected" in result.errors[0]
    assert "Connect `negative`" in result.errors[0] and "set cfg to 1" in result.errors[0]


def test_guidance_with_a_negative_prompt(comfy, text_to_video):
    result = comfy.queue(guided(text_to_video, 2.0, text="a car"))
    assert result.ok, result.errors
    assert "negative" in result.executed


def test_a_negative_prompt_without_guidance_is_not_computed(comfy, text_to_video):
    result = comfy.queue(guided(text_to_video, 1.0, text="a car that nothing asks for"))
    assert result.ok, result.errors
    assert not {"negative"} & ({*result.executed} | result.cached)


def test_windows_that_do_not_move_on(comfy, text_to_video):
    prompt = quick(text_to_video)
    sampler = sampler_of(prompt)
    prompt["windows"] = {
        "class_type": "ContextWindowsManual",
        "inputs": window_settings(8, 12, model=sampler["model"], causal_window_fix=True),
    }
    sampler["model"] = ["windows", 0]
    result = comfy.queue(prompt)
    assert result.status == "error" and result.error["node_type"] == "VideoLCMSampler"
    assert "context_overlap is 12 and context_length 8; allowed: an overlap from 0 to 7" in result.errors[0]
