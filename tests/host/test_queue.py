"""Prompts that are cancelled and servers that are killed leave nothing half-written, and work goes on."""

import time

import pytest

import comfy_server
from prompts import long_run


def sampling_has_begun(kind, data):
    return kind == "progress" and data["value"] >= 1


def test_cancelling_the_first_of_two_prompts(comfy, text_to_video):
    before = comfy.outputs()
    first = comfy.submit(long_run(text_to_video, seed=1))
    second = comfy.submit(text_to_video)
    first.wait(until=sampling_has_begun)
    start = time.monotonic()
    comfy.interrupt(first.prompt_id)
    cancelled = first.wait()
    assert cancelled.status == "interrupted"
    assert time.monotonic() - start < 10
    assert cancelled.files == [] and cancelled.steps[-1][0] < 50
    result = second.wait()
    assert result.ok, result.errors
    assert comfy.outputs() - before == {comfy.path(file) for file in result.files if file.type == "output"}


def test_taking_a_waiting_prompt_out_of_the_queue(comfy, text_to_video):
    first = comfy.submit(long_run(text_to_video, seed=2))
    waiting = comfy.submit(text_to_video)
    first.wait(until=sampling_has_begun)
    comfy.delete(waiting.prompt_id)
    comfy.interrupt(first.prompt_id)
    assert first.wait().status == "interrupted"
    queue = comfy.get_json("/queue")
    assert queue == {"queue_running": [], "queue_pending": []}
    assert comfy.get_json(f"/history/{waiting.prompt_id}") == {}


def test_killed_server_leaves_no_partial_output_and_restarts(tmp_comfy, text_to_video):
    server = tmp_comfy()
    running = server.submit(long_run(text_to_video, seed=3))
    running.wait(until=sampling_has_begun)
    server.kill()
    with pytest.raises(comfy_server.ServerError, match="went away"):
        running.wait()
    assert server.outputs() == set()
    server.start()
    assert server.queue(text_to_video).ok
    assert len(server.outputs()) == 1
