"""Peak memory and seconds of node runs, each above what the process holds at rest; a process of its own.

    python tests/support/measure_nodes.py PACK BASE FOLDER        prints {case: [MB, seconds, shape, notes]} as JSON

The films in FOLDER are those of `tests/nodes/conditions/test_film_costs.py`.
"""

import gc
import json
import logging
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "tools"), str(ROOT / "scripts")]

import torch  # noqa: E402
from in_process_host import load_host  # noqa: E402

PREPARE = {"frames": 16, "start": 0, "sample_fps": 8.0, "width": 64, "height": 64, "fit": "crop", "source_fps": 8.0}
CONDITION = {"condition": "depth", "strength": 1.0, "invert": True, "fit": "crop", "depth_scale": 2.0}
TEXT = [[torch.zeros(1, 77, 8), {}]]
SKETCH = {"low_threshold": 60, "high_threshold": 160, "blur": 1.0, "line_width": 0.02, "contrast": 1.6}


def cases(folder, nodes):
    """Name -> (node id, inputs)."""
    from comfy_api.latest import InputImpl

    def film(name):
        return InputImpl.VideoFromFile(str(folder / name))

    photo = nodes.NODE_CLASS_MAPPINGS["LoadImage"]().load_image("photo.jpg")[0]
    prepare, apply = "VideoLCMPrepareFrames", "VideoLCMApplyCondition"
    return {
        "16 frames of 1080p30": (prepare, {"source": film("30.mp4"), **PREPARE}),
        "16 frames of 1080p60": (prepare, {"source": film("60.mp4"), **PREPARE}),
        "16 frames of 1080p60, every one, large": (
            prepare,
            {"source": film("60.mp4"), **PREPARE, "sample_fps": 0.0, "width": 448, "height": 256},
        ),
        "start 1400 of 640x360": (prepare, {"source": film("long.mp4"), **PREPARE, "start": 1400}),
        "start 1400 of uneven 640x360": (prepare, {"source": film("uneven.mkv"), **PREPARE, "start": 1400}),
        "photo for 48 frames": (prepare, {"source": photo, **PREPARE, "frames": 48}),
        "photo as VIDEO for 48 frames": (prepare, {"source": film("photo.jpg"), **PREPARE, "frames": 48}),
        "photo as VIDEO to a condition": (apply, {"positive": TEXT, "frames": film("photo.jpg"), **CONDITION}),
        "1080p60 to a condition": (apply, {"positive": TEXT, "frames": film("60.mp4"), **CONDITION}),
        "640x360 to a condition": (apply, {"positive": TEXT, "frames": film("long.mp4"), **CONDITION}),
        "1080p60 to a first frame": (
            apply,
            {"positive": TEXT, "frames": film("60.mp4"), **CONDITION, "condition": "first frame"},
        ),
        "1080p60 to inpainting": (
            "VideoLCMInpaintCondition",
            {
                "positive": TEXT,
                "frames": film("60.mp4"),
                "mask": torch.ones(1, 1080, 1920),
                "strength": 1.0,
                "fit": "crop",
            },
        ),
        "1080p60 to sketch": ("VideoLCMSketchExtractor", {"source": film("60.mp4"), "method": "canny", **SKETCH}),
        "1080p60 to depth": (
            "VideoLCMDepthEstimator",
            {"source": film("60.mp4"), "model_name": "videolcm-mini-depth.safetensors", "normalize": False},
        ),
        "1080p60 to motion": (
            "VideoLCMMotionExtractor",
            {"source": film("60.mp4"), "method": "optical flow", "fill": False},
        ),
        "1080p60 to codec vectors": (
            "VideoLCMMotionExtractor",
            {"source": film("60.mp4"), "method": "codec vectors", "fill": False},
        ),
    }


def status(field):
    """Megabytes of a line in the kernel's status of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def result_shape(result):
    value = result[0]
    while isinstance(value, list | tuple):
        value = value[-1]
    if isinstance(value, dict):
        value = value["videolcm_conditions"][0].frames
    return list(value.shape)


class Notes(logging.Handler):
    def __init__(self):
        super().__init__()
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


def main(pack, base, folder, *only):
    torch.set_num_threads(1)
    nodes = load_host(Path(pack), Path(base))
    notes, found = Notes(), {}
    logging.getLogger().addHandler(notes)
    with torch.inference_mode():
        for name, (node_id, inputs) in cases(Path(folder), nodes).items():
            if only and name not in only:
                continue
            notes.texts.clear()
            gc.collect()
            rest, begun = status("VmRSS"), time.monotonic()
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            result = nodes.NODE_CLASS_MAPPINGS[node_id].EXECUTE_NORMALIZED(**inputs).result
            seconds, shape = time.monotonic() - begun, result_shape(result)
            found[name] = [round(status("VmHWM") - rest), round(seconds, 2), shape, list(notes.texts)]
            del result
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
