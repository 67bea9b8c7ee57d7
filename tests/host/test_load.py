"""Many prompts of every kind through one server: nothing lost or doubled, memory flat, the same seed the same bytes."""

import copy
import hashlib

import psutil

from prompts import quick, sampler_of, set_checkpoint, text_of

PROMPTS = 60
WARM = 18
"""Prompts after which every kind of work was done three times."""
GROWTH = 1.05
LENGTH = {"frames": 4}


def video(prompt, seed):
    prompt = quick(prompt, **LENGTH)
    sampler_of(prompt)["seed"] = seed
    return prompt


def failing(prompt, seed):
    """A text-only model with a condition: an error in the sampler."""
    prompt = video(prompt, seed)
    sampler = sampler_of(prompt)
    prompt["image"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 2, "color": 255 * seed},
    }
    condition = {"condition": "depth", "strength": 1.0, "invert": False, "fit": "crop", "depth_scale": 2.0}
    condition |= {"positive": sampler["positive"], "frames": ["image", 0]}
    prompt["depth"] = {"class_type": "VideoLCMApplyCondition", "inputs": condition}
    sampler["positive"] = ["depth", 0]
    return prompt


def rejected(prompt, seed):
    prompt = copy.deepcopy(prompt)
    set_checkpoint(prompt, "gone.safetensors")
    return prompt


def too_late(prompt, seed):
    """A clip that begins after its end: an error in a node before the sampler."""
    prompt = failing(prompt, seed)
    clip = {"start": 9, "frames": 2, "sample_fps": 8.0, "width": 64, "height": 64, "fit": "crop", "source_fps": 8.0}
    prompt["clip"] = {"class_type": "VideoLCMPrepareFrames", "inputs": {"source": ["image", 0], **clip}}
    prompt["depth"]["inputs"]["frames"] = ["clip", 0]
    return prompt


def other_text(prompt, seed):
    prompt = video(prompt, seed)
    text_of(prompt)["text"] = f"a horse of number {seed}"
    return prompt


def memory(server):
    return psutil.Process(server.process.pid).memory_info().rss // 1024


def cancelled(server, prompt, seed):
    prompt = quick(prompt)
    sampler_of(prompt).update(steps=50, seed=seed)
    running = server.submit(prompt)
    running.wait(until=lambda kind, data: kind == "progress")
    server.interrupt(running.prompt_id)
    return running.wait()


def test_sixty_mixed_prompts(tmp_comfy, text_to_video):
    # Without its cache the host does everything anew, as for sixty users.
    server = tmp_comfy(arguments=("--cache-none",))
    kinds = [
        (video, "success"),
        (failing, "error"),
        (other_text, "success"),
        (rejected, "rejected"),
        (too_late, "error"),
    ]
    files, sums, levels, ends = set(), {}, [], []
    for number in range(PROMPTS):
        seed = number // 6 % 2
        if number % 6 == 5:
            result, wanted = cancelled(server, text_to_video, seed), "interrupted"
            assert result.files == []
        else:
            make, wanted = kinds[number % 6]
            result = server.queue(make(text_to_video, seed))
        ends.append(result.status)
        assert result.status == wanted, (number, result.errors)
        assert len(result.videos) == (wanted == "success")
        for file in result.videos:
            content = server.fetch(file)
            assert server.path(file) not in files
            files.add(server.path(file))
            sums.setdefault((number % 6, seed), set()).add(hashlib.sha256(content).hexdigest())
        if number + 1 >= WARM and (number + 1) % 6 == 0:
            levels.append(memory(server))
    print([round(level / 1024) for level in levels])
    assert max(levels) <= GROWTH * levels[0]
    assert server.outputs() == files and len(files) == 2 * PROMPTS // 6
    assert all(len(found) == 1 for found in sums.values()) and len(sums) == 4
    assert len({next(iter(found)) for found in sums.values()}) == 4
    assert server.get_json("/queue") == {"queue_running": [], "queue_pending": []}
    assert ends.count("interrupted") == PROMPTS // 6
