"""Compare this repository's numbers with recorded reference values: ``python tests/parity.py DIR``.

Runs every file of a folder of reference values on the CPU in float32, in float64 and in float64 with the roundings of
float32 put in one by one. It prints how far the recorded values and ours are from the exact ones (maximum absolute
error), and what float32 rounding explains of it (tests/support/precision.py). Exits with 1 when an error is larger, or
when a file is of no known kind. Kinds are told by the beginning of the file's name and by what is inside:

unet_, recipe_, fullsize_   networks, with weights regenerated from the seed in the file
sampler_lcm, sampler_ddim   samplers with a recorded network
e2e_lcm, e2e_ddim           samplers with a network
distill_step                one step of training
annotators                  depth, edge and line networks

Of AnimateDiff and AnimateLCM, with weights regenerated from the shape lists beside the files:

motion_module               one motion module, under both conventions of its group norm
unet_forward_               Stable Diffusion's UNet with motion modules
lcm_, sampler_lcm           sampling runs with it, and with a formula
i2v_                        image to video: its encoder, and the UNet with it
lcm_lora_, mcm_lora_        LoRAs
hsv_align, svd_solver       colours of frames, noise levels of AnimateLCM-SVD
paper_formulas              what the paper alone says

Of MCM:

motion_representations      representations of motion, their distances and gradients
spatial_head, ema           the heads that learn one, and their twins
boundary_scalings           of the consistency function
ddim_solver_                schedule, grid, predictions, a solver's step
guidance_scale_embedding    features of the guidance
lcm_sampling                sampling runs with recorded outputs
cd_assembly                 a step out of recorded outputs
tiny_unet3d                 a step of a small network with a LoRA as student
discriminator_              its input, its heads, the penalty
gan_losses                  of both sides
frame_sampling, lcm_timesteps, kohya_keys   JSON: chosen frames, timesteps, names in LoRA files
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "tests" / "support" / "golden")]

import torch  # noqa: E402
from animatediff import (  # noqa: E402
    check_closed_form,
    check_i2v_forward,
    check_lcm_steps,
    check_lora_forward,
    check_motion_module,
    check_unet_forward,
)
from animatelcm import (  # noqa: E402
    check_colours,
    check_edm,
    check_image_encoder,
    check_lora_merge,
    check_paper_formulas,
)
from annotators import check_annotators  # noqa: E402
from checks import (  # noqa: E402
    Check,
    check_e2e_ddim,
    check_e2e_lcm,
    check_sampler_ddim,
    check_sampler_lcm,
    check_unet,
)
from distillation import check_distill_step  # noqa: E402
from mcm import (  # noqa: E402
    check_boundary,
    check_ema,
    check_guidance_embedding,
    check_motion,
    check_solver,
    check_spatial_head,
)
from mcm_adversary import check_discriminator, check_discriminator_input, check_gan_losses  # noqa: E402
from mcm_sampling import (  # noqa: E402
    check_frame_sampling,
    check_kohya_keys,
    check_lcm_sampling,
    check_lcm_timesteps,
)
from mcm_step import check_assembly, check_step  # noqa: E402
from reference import Reference, Result, config_of  # noqa: E402
from safetensors import SafetensorError, safe_open  # noqa: E402

from videolcm_core.networks.vgen.unet3d import UNet3D  # noqa: E402


class Kind(NamedTuple):
    """A kind of reference file.

    Attributes:
        prefix: Of the file's name.
        check: What is compared.
        marker: Pattern of a tensor, or of an entry of a JSON file, that every file of the kind has.
    """

    prefix: str
    check: Check
    marker: str


KINDS = (
    Kind("unet_", check_unet, r"in\.x"),
    Kind("recipe_", check_unet, r"in\.x"),
    Kind("fullsize_", check_unet, r"in\.x"),
    Kind("sampler_lcm", check_sampler_lcm, r"\w+\.n\d+\.final"),
    Kind("sampler_ddim", check_sampler_ddim, r"v_cond"),
    Kind("e2e_lcm", check_e2e_lcm, r"(.+\.)?final"),
    Kind("e2e_ddim", check_e2e_ddim, r"y_negative"),
    Kind("distill_step", check_distill_step, r".*"),
    Kind("annotators", check_annotators, r"midas\.raw"),
    Kind("motion_module", check_motion_module, r"y_author_\d+"),
    Kind("unet_forward_", check_unet_forward, r"y_\d+_\d+"),
    Kind("lcm_", check_lcm_steps, r"denoised_0"),
    Kind("sampler_lcm", check_closed_form, r"final_\d+_\d+"),
    Kind("i2v_", check_i2v_forward, r"y_\d+"),
    Kind("i2v_", check_image_encoder, r"sd\.conv_in\.weight"),
    Kind("lcm_lora_", check_lora_forward, r"y_\d+(_.+)?"),
    Kind("mcm_lora_", check_lora_forward, r"y_\d+(_.+)?"),
    Kind("lcm_lora_", check_lora_merge, r"before\..+"),
    Kind("hsv_align", check_colours, r"target_bgr"),
    Kind("svd_solver", check_edm, r"sigmas"),
    Kind("paper_formulas", check_paper_formulas, r"x_t_next"),
    Kind("motion_representations", check_motion, r"lowpass_filter"),
    Kind("spatial_head", check_spatial_head, r"\w+\.online\.conv_out\.weight"),
    Kind("boundary_scalings", check_boundary, r"c_skip\.s[\d.]+"),
    Kind("ddim_solver_", check_solver, r"step\.x_prev"),
    Kind("ema", check_ema, r"after\d+"),
    Kind("gan_losses", check_gan_losses, r"logits_gen"),
    Kind("guidance_scale_embedding", check_guidance_embedding, r"emb\d+"),
    Kind("lcm_sampling", check_lcm_sampling, r"\w+\.denoised0"),
    Kind("discriminator_input", check_discriminator_input, r"full_policy"),
    Kind("cd_assembly", check_assembly, r"noisy_model_input"),
    Kind("tiny_unet3d", check_step, r"real\.model_pred"),
    Kind("frame_sampling", check_frame_sampling, r"seed\d+_n\d+_k\d+"),
    Kind("lcm_timesteps", check_lcm_timesteps, r"orig\d+_steps\d+"),
    Kind("kohya_keys", check_kohya_keys, r"kohya_keys"),
    Kind("discriminator_head", check_discriminator, r"b\d+\.eval\.logits"),
)
# Not reference values: the recipe, indices and notes beside them, weights that other files name.
IGNORED_SUFFIXES = (".py", ".md", ".txt", ".pyc")


def files_in(folder: Path) -> list[Path]:
    """Files to run or to refuse, without hidden ones, notes, weights of other files, and JSON of no known kind."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and not path.name.startswith(".")
        and path.suffix not in IGNORED_SUFFIXES
        and not path.name.endswith(".weights.safetensors")
        and (path.suffix != ".json" or find_kind(path) is not None)
    ]


def prefixes() -> list[str]:
    """Beginnings of names, each once."""
    return list(dict.fromkeys(kind.prefix for kind in KINDS))


def find_kind(path: Path) -> Kind | None:
    """The kind of a file, by the beginning of its name and its tensors; where two fit, the longer beginning."""
    named = sorted((kind for kind in KINDS if path.name.startswith(kind.prefix)), key=lambda kind: -len(kind.prefix))
    if not named or path.suffix not in (".json", ".safetensors"):
        return None
    try:
        names = entries_of(path) if path.suffix == ".json" else tensors_of(path)
    except (OSError, SafetensorError, ValueError):
        return named[0]  # which says what is wrong with it
    return next((kind for kind in named if any(re.fullmatch(kind.marker, name) for name in names)), None)


def tensors_of(path: Path) -> list[str]:
    """Names of a file's tensors."""
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def entries_of(path: Path) -> list[str]:
    """Names of a JSON file's entries and values; none where it has others."""
    content = json.loads(path.read_text())
    if not isinstance(content, dict):
        return []
    values = content.get("values")
    return [*content, *(values if isinstance(values, dict) else ())]


def open_reference(path: Path) -> Reference:
    """A file of tensors, or of JSON, whose content is the metadata then."""
    if path.suffix == ".json":
        return Reference(path, json.loads(path.read_text()), {})
    return Reference.open(path)


def available_memory() -> int | None:
    """Bytes that can be used without swapping; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def lacks_memory(reference: Reference) -> str:
    """Why a network does not fit into memory; empty when it does."""
    network = UNet3D(config_of(reference.metadata), device="meta")
    # float32 weights, one float64 tensor while filling, activations.
    needed = sum(p.numel() for p in network.parameters()) * 4 * 1.25 + 1e9
    available = available_memory()
    if available is None or available >= needed:
        return ""
    return f"needs {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available"


def check_file(path: Path) -> Iterator[Result]:
    """Results of one file."""
    kind = find_kind(path)
    assert kind is not None
    reference = open_reference(path)
    yield from kind.check(reference)
    unused = reference.unused()
    if unused:
        yield Result("not compared", 0.0, 0.0, ", ".join(unused))


def run_file(path: Path, report: Callable[[str], None]) -> int:
    """Check one file and print its results.

    Returns:
        Number of failures.
    """
    if find_kind(path) is None:
        report(f"FAILED   {path.name}: a file of no known kind ({', '.join(prefixes())})")
        return 1
    if path.name.startswith("fullsize_") and (why := lacks_memory(Reference.open(path))):
        report(f"left out {path.name}: {why}")
        return 0
    failures, start = 0, time.monotonic()
    report(f"{path.name}")
    try:
        for result in check_file(path):
            failures += not result.passed
            state = "ok    " if result.passed else "FAILED"
            note = f"  ({result.note})" if result.note else ""
            report(f"  {state} {result.error:9.2e} of {result.tolerance:8.1e}  {result.case}{note}")
    except Exception as error:
        failures += 1
        report(f"  FAILED {type(error).__name__}: {error}")
    report(f"  {time.monotonic() - start:.1f} s")
    return failures


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "tests" / "golden", help="of reference values")
    parser.add_argument("--only", default="", help="run only files whose name contains this")
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is no folder")
    files = [path for path in files_in(options.folder) if options.only in path.name]
    if not files:
        parser.error(f"{options.folder} has no reference files; expected names begin with {', '.join(prefixes())}")
    torch.use_deterministic_algorithms(True, warn_only=True)
    failures = sum(run_file(path, lambda line: print(line, flush=True)) for path in files)
    print(f"{len(files)} files, {failures} failures" if failures else f"{len(files)} files, all passed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
