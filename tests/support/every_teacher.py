"""Distil every kind of teacher that is read, with every recipe, on this run's processes: three steps of tiny networks.

Run by ``torchrun``; prints one line for each. The networks have the layers and key names of the authors' files, the
data has text only, as the README's commands give it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

import tiny_training as tiny  # noqa: E402
import torch  # noqa: E402

from training.engine.processes import open_accelerator  # noqa: E402
from training.engine.task import MethodTask  # noqa: E402
from training.methods import Inputs, find_method  # noqa: E402
from training.recipes.videolcm import RECIPES  # noqa: E402
from training.students import full_student, lora_student  # noqa: E402
from training.students.lora import LoraOptions  # noqa: E402
from training.teachers import load_teacher  # noqa: E402
from videolcm_core.files.writing import save_safetensors  # noqa: E402
from videolcm_core.networks.vgen.unet3d import UNet3D  # noqa: E402

VCOMPOSER = frozenset({"depth", "masked", "sketch", "motion", "image", "local_image", "single_sketch"})
KINDS = {
    "t2v": {},
    "tft2v_t2v": {"conditions": frozenset({"image"})},
    "vcomposer": {"conditions": VCOMPOSER},
    "tft2v_vcomposer": {"conditions": VCOMPOSER},
    "t2vbase": {"concat_channels": 0},
    "all encoders": {"conditions": VCOMPOSER | {"canny", "histogram"}, "use_fps": True, "num_image_tokens": 1},
}


def teacher_of(folder: Path, name: str):
    """A tiny file of a kind, read as a user's is."""
    torch.manual_seed(0)
    network = UNet3D(replace(tiny.CONFIG, **KINDS[name]))
    for parameter in network.parameters():
        if parameter.ndim > 1 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    path = folder / f"{name.replace(' ', '_')}.safetensors"
    if not path.exists():
        save_safetensors(network.state_dict(), path, {"videolcm.head_dim": str(tiny.CONFIG.head_dim)})
    return load_teacher(path)


def steps_of(teacher, recipe, student) -> list[float]:
    """Losses of three steps; the last of them on images where the recipe has such steps."""
    recipe = replace(recipe, steps=3, batch=4, image_batch=4, precision="no", images=min(recipe.images, 1), videos=2)
    accelerator = open_accelerator("no", cpu=True)
    inputs = Inputs(teacher=teacher, student=student, device=accelerator.device)
    batches = tiny.TinyBatches(image_every=3 if recipe.images else 0)
    task = MethodTask(batches, find_method("videolcm").build(recipe, inputs), accelerator)
    return [task.step(index, torch.Generator())["loss"] for index in range(3)]


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    accelerator = open_accelerator("no", cpu=True)
    folder = folder / str(accelerator.process_index)
    folder.mkdir(parents=True, exist_ok=True)
    for name in KINDS:
        for recipe_name, make in RECIPES.items():
            teacher = teacher_of(folder, name)
            losses = steps_of(teacher, make(), full_student(teacher))
            if accelerator.is_main_process:
                print(f"{name} {recipe_name} {accelerator.num_processes} {[round(x, 6) for x in losses]}", flush=True)
    teacher = teacher_of(folder, "all encoders")
    losses = steps_of(teacher, RECIPES["paper"](), lora_student(teacher, LoraOptions(rank=2)))
    if accelerator.is_main_process:
        print(f"all encoders lora {accelerator.num_processes} {[round(x, 6) for x in losses]}", flush=True)
    accelerator.end_training()


if __name__ == "__main__":
    main()
