"""What a wrong condition says, through a real server: on the node and in the error."""

import copy

from prompts import quick


def with_depth(prompt, **picture):
    """The prompt with a depth condition of one colour before its sampler."""
    prompt = quick(copy.deepcopy(prompt))
    sampler = next(node for node in prompt.values() if node["class_type"] == "VideoLCMSampler")
    image = {"width": 64, "height": 64, "batch_size": 2, "color": 0} | picture
    prompt["picture"] = {"class_type": "EmptyImage", "inputs": image}
    prompt["depth"] = {
        "class_type": "VideoLCMApplyCondition",
        "inputs": {
            "positive": sampler["inputs"]["positive"],
            "condition": "depth",
            "frames": ["picture", 0],
            "strength": 1.0,
            "invert": False,
            "fit": "crop",
            "depth_scale": 2.0,
        },
    }
    sampler["inputs"]["positive"] = ["depth", 0]
    return prompt


def notes(result):
    """Node and text of each note that the page was sent."""
    texts = [message[8:] for message in result.previews if message[:4] == (3).to_bytes(4, "big")]
    sizes = [int.from_bytes(m[4:8], "big") for m in result.previews if m[:4] == (3).to_bytes(4, "big")]
    return [(text[:size].decode(), text[size:].decode()) for text, size in zip(texts, sizes, strict=True)]


def test_text_only_model_and_a_black_depth(comfy, text_to_video):
    result = comfy.queue(with_depth(text_to_video))
    assert result.status == "error"
    assert result.error["node_type"] == "VideoLCMSampler"
    assert "no encoder for the condition 'depth'; it is a text-only model" in result.errors[0]
    assert [(node, "all black" in text) for node, text in notes(result)] == [("depth", True)]
    # Mended in the page: the note of the last run goes.
    mended = comfy.queue(with_depth(text_to_video, color=0xFFFFFF))
    assert mended.status == "error" and notes(mended) == [("depth", "")]


def test_values_outside_the_schema_are_refused(comfy, text_to_video):
    prompt = with_depth(text_to_video)
    prompt["depth"]["inputs"] |= {"condition": "pose", "strength": 3.0}
    result = comfy.queue(prompt)
    assert result.status == "rejected" and "pose" in str(result.node_errors) and "strength" in str(result.node_errors)
