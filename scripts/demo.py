"""A video from a prompt: start ComfyUI, queue the shipped text-to-video workflow, save the video, stop ComfyUI.

    make demo PROMPT="a horse turns around on the grass" SEED=1 STEPS=4 OUT=output
    make demo COMFYUI=/path/to/ComfyUI         an existing ComfyUI and its Python; nothing in it is changed
    make ui                                    the same server, for the browser; prints links to the first templates

Everything is an option of this script too (`--prompt`, ...); the environment variables of the same names are what
`make` passes. The server has a base directory of its own under `.host`, into which this repository is linked, so an
existing ComfyUI lends its code and its Python and keeps its models, outputs and settings to itself. A demo's base
directory lasts as long as the demo, so several can run at once; a failed one leaves it for its log.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import comfy_server
import host_log
import setup

WORKFLOW = setup.ROOT / "workflows" / "api" / "videolcm_text_to_video.json"
# Templates that `make ui` names: what opens each is its name in a link.
LINKED = {
    "text to video": "videolcm_text_to_video",
    "an image that starts to move": "videolcm_first_frame_to_video",
    "1, 2, 4, 8 steps and the teacher": "videolcm_compare_steps",
}
SHEET_COLUMNS = 4
SHEET_CELL = 192  # pixels; smaller frames are enlarged by a whole factor so that a person can see them


class DemoError(RuntimeError):
    """A wrong setting or a failed run; the message says what to do."""


# ------------------------------------------------------------------------------------------------ settings


def read_settings(arguments: list[str]) -> argparse.Namespace:
    """Settings from the command line, then the environment, then the workflow's own values (None)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given = {
        name: os.environ.get(name) or None for name in ("SEED", "STEPS", "OUT", "COMFYUI", "COMFYUI_PYTHON", "PORT")
    }
    parser.add_argument("--prompt", default=os.environ.get("PROMPT"), help="what the video shows")
    parser.add_argument(
        "--seed", default=given["SEED"], help="0 or a positive whole number; the same seed gives the same video"
    )
    parser.add_argument(
        "--steps", default=given["STEPS"], help="sampling steps, 1 to 50; 4 is what the model was made for"
    )
    parser.add_argument("--out", default=given["OUT"] or "output", help="folder for the video and the contact sheet")
    parser.add_argument("--comfyui", default=given["COMFYUI"], help="an existing ComfyUI instead of one under .host")
    parser.add_argument(
        "--comfyui-python", default=given["COMFYUI_PYTHON"], help="that ComfyUI's Python, when not found beside it"
    )
    parser.add_argument("--ui", action="store_true", help="serve the page and stay in the foreground")
    parser.add_argument("--port", default=given["PORT"] or "8188", help="port of the page (with --ui)")
    parser.add_argument("--prepared", nargs=2, metavar=("TREE", "SECONDS"), help=argparse.SUPPRESS)
    settings = parser.parse_args(arguments)
    settings.seed = whole_number("SEED", settings.seed, 0, 2**64 - 1)
    settings.steps = whole_number("STEPS", settings.steps, 1, 50)
    settings.port = whole_number("PORT", settings.port, 1, 65535)
    if settings.prompt is not None and not settings.prompt.strip():
        raise DemoError('PROMPT is empty; say what the video shows, for example PROMPT="a dog jumps on the sand"')
    return settings


def whole_number(name: str, text: str | None, low: int, high: int) -> int | None:
    """A whole number of the allowed range, or None when nothing was given.

    Raises:
        DemoError: not a number, or outside `low`..`high`.
    """
    if text is None:
        return None
    if not re.fullmatch(r"[+-]?\d+", text.strip()) or not low <= int(text) <= high:
        raise DemoError(f"{name}={text} cannot be used: it must be a whole number from {low} to {high}")
    return int(text)


def find_comfyui(settings: argparse.Namespace) -> tuple[Path, Path]:
    """Source tree and interpreter to use, preparing the ones under `.host` and `.venv` when none was named.

    Raises:
        DemoError: the named ComfyUI or its Python is not there.
        setup.SetupError: preparing failed.
    """
    if settings.comfyui is None:
        setup.setup()
        return setup.host_tree(), setup.venv_python()
    tree = Path(settings.comfyui).expanduser().resolve()
    if not (tree / "main.py").is_file() or not (tree / "comfy").is_dir():
        raise DemoError(f"COMFYUI={settings.comfyui} is not a ComfyUI folder: it has no main.py and comfy/")
    folders = [parent / name for parent in (tree, tree.parent) for name in (".venv", "venv")]
    candidates = [setup.venv_python(folder) for folder in folders] + [tree.parent / "python_embeded" / "python.exe"]
    if settings.comfyui_python:
        candidates = [Path(settings.comfyui_python).expanduser()]
    else:
        candidates.append(Path(sys.executable))
    for python in candidates:
        if (
            shutil.which(python)
            and subprocess.run([python, "-c", "import torch, aiohttp, av, PIL"], capture_output=True).returncode == 0
        ):
            return tree, python
    tried = ", ".join(map(str, candidates))
    raise DemoError(
        f"no Python with ComfyUI's requirements was found (tried {tried}); name it: COMFYUI_PYTHON=/path/to/python"
    )


# ------------------------------------------------------------------------------------------------ prompt


def set_inputs(prompt: dict[str, Any], text: str | None, seed: int | None, steps: int | None) -> dict[str, Any]:
    """The workflow with the user's values; None leaves the workflow's own.

    Nodes are found by what they do, not by their ids: the sampler is the node with a `positive` input and a seed, and
    the prompt is the text node at the other end of that link.

    Raises:
        DemoError: the workflow has no such nodes.
    """
    prompt = json.loads(json.dumps(prompt))
    samplers = [node["inputs"] for node in prompt.values() if "positive" in node["inputs"] and "seed" in node["inputs"]]
    texts = [prompt[inputs["positive"][0]]["inputs"] for inputs in samplers]
    if not samplers or any("text" not in inputs for inputs in texts):
        raise DemoError(f"{WORKFLOW.name} has no sampler with a positive text prompt and a seed")
    for inputs, encoder in zip(samplers, texts, strict=True):
        inputs.update({name: value for name, value in (("seed", seed), ("steps", steps)) if value is not None})
        if text is not None:
            encoder["text"] = text
    return prompt


def file_stem(prompt: dict[str, Any]) -> str:
    """A file name from what was asked: prompt, seed and steps."""
    sampler = next(
        node["inputs"] for node in prompt.values() if "positive" in node["inputs"] and "seed" in node["inputs"]
    )
    words = re.findall(r"[^\W_]+", prompt[sampler["positive"][0]]["inputs"]["text"].lower())
    return f"{'_'.join(words)[:60] or 'video'}_seed{sampler['seed']}_steps{sampler['steps']}"


def stage_of(class_type: str) -> str:
    """Which line of the timing table a node belongs to."""
    if class_type.startswith(("VAEDecode", "Image")):
        return "decode"
    if class_type.startswith(("Save", "Create")):
        return "save"
    return "load model, encode text and sample"


class ProgressBar:
    """Sampling progress: one moving line on a terminal, one line per step elsewhere."""

    shown = ""
    """The last line; a preview tells of the same step again."""

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        """Draw the state that a `progress` message tells of; ignore every other message."""
        if kind != "progress":
            return
        step, steps = data["value"], data["max"]
        line = f"sampling [{'#' * (24 * step // steps):24}] {step}/{steps}"
        if line == self.shown:
            return
        self.shown, moving = line, sys.stdout.isatty()
        print(f"\r{line}" if moving else line, end="" if moving and step < steps else "\n", flush=True)


def write_contact_sheet(video: Path, sheet: Path) -> int:
    """Draw every frame of a video into one image, in reading order.

    Returns:
        The number of frames.

    Raises:
        DemoError: the video has no frames, or cannot be read.
    """
    import av
    from PIL import Image

    try:
        with av.open(str(video)) as container:
            frames = [frame.to_image() for frame in container.decode(video=0)]
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise DemoError(f"{video} cannot be played ({error}); it may be half-written. Run the demo again.") from error
    if not frames:
        raise DemoError(f"{video} has no frames")
    factor = max(1, SHEET_CELL // max(frames[0].size))
    width, height = (side * factor for side in frames[0].size)
    rows = -(-len(frames) // SHEET_COLUMNS)
    image = Image.new("RGB", (SHEET_COLUMNS * (width + 2) + 2, rows * (height + 2) + 2), "white")
    for index, frame in enumerate(frames):
        place = (2 + index % SHEET_COLUMNS * (width + 2), 2 + index // SHEET_COLUMNS * (height + 2))
        image.paste(frame.resize((width, height), Image.Resampling.BICUBIC), place)
    with comfy_server.atomic_path(sheet) as part:
        image.save(part, "PNG")
    return len(frames)


# ------------------------------------------------------------------------------------------------ commands


def make_server(settings: argparse.Namespace, tree: Path) -> comfy_server.ComfyServer:
    """The demo's server, on the CPU where there is nothing faster."""
    arguments = ("--cpu",) if comfy_server.needs_cpu_flag(sys.executable) else ()
    base = setup.BASE if settings.ui else setup.HOST / f"demo-{os.getpid()}"
    setup.link_pack(base)
    options: dict[str, Any] = {"port": settings.port} if settings.ui else {}
    return comfy_server.ComfyServer(tree, sys.executable, base, arguments=arguments, **options)


def demo(settings: argparse.Namespace, tree: Path, setup_seconds: float) -> None:
    """Make one video.

    Raises:
        DemoError: the prompt was refused or failed.
        comfy_server.ServerError: the server did not start or went away.
    """
    if not WORKFLOW.is_file():
        raise DemoError(f"the workflow {WORKFLOW} is missing; is this clone complete?")
    prompt = set_inputs(
        json.loads(WORKFLOW.read_text(encoding="utf-8")), settings.prompt, settings.seed, settings.steps
    )
    stages = {"setup": setup_seconds}
    server = make_server(settings, tree)
    print("starting ComfyUI ...", flush=True)
    start = time.monotonic()
    try:
        server.start()
        stages["server start"] = time.monotonic() - start
        result = server.queue(prompt, timeout=24 * 3600, on_event=ProgressBar())
        if not result.ok or not result.videos:
            what = "; ".join(result.errors) or f"the prompt ended as {result.status} without a video"
            raise DemoError(f"{what}\n(the whole log: {server.log_path})")
        for node_id, seconds in result.seconds().items():
            stage = stage_of(prompt[node_id]["class_type"])
            stages[stage] = stages.get(stage, 0.0) + seconds
        start = time.monotonic()
        made = server.path(result.videos[0])
        video = Path(settings.out).expanduser() / (file_stem(prompt) + made.suffix)
        sheet = video.with_suffix(".png")
        comfy_server.check_whole(made.read_bytes(), made.name)
        # The sheet first: it reads every frame, so that no video is handed out that cannot be played.
        frames = write_contact_sheet(made, sheet)
        comfy_server.copy_atomically(made, video)
        stages["copy and contact sheet"] = time.monotonic() - start
    except comfy_server.ServerError as error:
        raise DemoError(str(error)) from error
    finally:
        start = time.monotonic()
        server.stop()
    shutil.rmtree(server.base, ignore_errors=True)
    stages["server stop"] = time.monotonic() - start
    print(f"\nvideo ({frames} frames)  {video.resolve()}\ncontact sheet       {sheet.resolve()}\n")
    for stage, seconds in stages.items():
        print(f"{stage:36}{seconds:7.1f} s")


def serve(settings: argparse.Namespace, tree: Path) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        DemoError: the port is taken.
        comfy_server.ServerError: the server did not start.
    """
    if not comfy_server.port_is_free(settings.port):
        raise DemoError(f"port {settings.port} is in use; choose another: make ui PORT={settings.port + 1}")
    server = make_server(settings, tree)
    server.log_path.unlink(missing_ok=True)
    ended = threading.Event()
    console = threading.Thread(
        target=host_log.show, args=(server.log_path, ended, settings.comfyui is None), daemon=True
    )
    console.start()
    try:
        server.start()
        links = [f"  {server.url}/?template={name}&source={setup.PACK_NAME}  {what}" for what, name in LINKED.items()]
        print("\nOpen one of these in a browser:", *links, sep="\n")
        print(f"\nAll workflows are under Templates, {setup.PACK_NAME}. Ctrl-C stops.\n", flush=True)
        server.wait()
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()
        ended.set()
        console.join(5)


def main(arguments: list[str]) -> int:
    """Command line; returns the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped then, too
    try:
        settings = read_settings(arguments)
        if settings.prepared is None:
            start = time.monotonic()
            tree, python = find_comfyui(settings)
            # The rest runs under ComfyUI's own Python, which has the packages that read the video and the websocket.
            again = [str(python), __file__, *arguments, "--prepared", str(tree), f"{time.monotonic() - start:.3f}"]
            if os.name == "nt":
                return subprocess.call(again)
            os.execv(again[0], again)
        tree, seconds = Path(settings.prepared[0]), float(settings.prepared[1])
        if settings.ui:
            serve(settings, tree)
        else:
            demo(settings, tree, seconds)
    except (DemoError, setup.SetupError, comfy_server.ServerError) as error:
        print(f"\ndemo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
