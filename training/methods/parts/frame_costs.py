"""What a step of MCM needs on a GPU, by calculation: ``python -m training.methods.parts.frame_costs`` prints the table.

The student's network, Stable Diffusion's decoder, DINOv2 ViT-S/14 and the discriminator are run on tensors without
memory (but for the last); FLOPs and what autograd keeps are counted there, as in `training.engine.costs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from videolcm_core.networks.vgen.unet3d import UNetConfig

from ...engine.commands import run_command
from ...engine.costs import GIB, PEAK, UTILISATION, Layout, kept_numbers, measure, memory, projections
from .discriminator import Discriminator
from .features import DINO_BLOCKS

VIEW: Final = 224
"""Side of what DINOv2 sees."""
DINO_WIDTH: Final = 384
TEXT_WIDTH: Final = 1024
"""Of ViT-g-14's text vectors."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one call.

    Attributes:
        flops: of the forward pass.
        saved: numbers kept for the backward pass.
        parameters: of the network.
    """

    flops: float
    saved: int
    parameters: int


def counted(network: nn.Module, call: Callable[[], Any]) -> Cost:
    """Count a call.

    Args:
        network: whose parameters are no activations.
        call: runs it.
    """
    from torch.utils.flop_counter import FlopCounterMode

    sizes: dict[int, int] = {}
    with FlopCounterMode(display=False) as counter, kept_numbers(network, lambda: sizes):
        call()
    parameters = sum(p.numel() for p in network.parameters())
    return Cost(flops=float(counter.get_total_flops()), saved=sum(sizes.values()), parameters=parameters)


def decoder_cost(height: int, width: int) -> Cost:
    """Stable Diffusion's decoder, one frame of latents; gradients reach the latents only."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    with torch.device("meta"):
        network: Any = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )
        del network.encoder
        latents = torch.empty(1, 4, height, width, requires_grad=True)
    network.requires_grad_(False)
    return counted(network, lambda: network.decode(latents))


def features_cost() -> Cost:
    """DINOv2 ViT-S/14, one view; gradients reach the image only."""
    from transformers import Dinov2Config, Dinov2Model

    with torch.device("meta"):
        config = Dinov2Config(hidden_size=DINO_WIDTH, num_attention_heads=6, image_size=VIEW, patch_size=14)
        network = Dinov2Model(config).requires_grad_(False)
        image = torch.empty(1, 3, VIEW, VIEW, requires_grad=True)
    return counted(network, lambda: network(image))


def discriminator_cost() -> Cost:
    """The heads, one view's features; small enough to be run."""
    network = Discriminator(dict.fromkeys(map(str, DINO_BLOCKS), DINO_WIDTH), TEXT_WIDTH)
    features = {str(block): torch.zeros(1, (VIEW // 14) ** 2, DINO_WIDTH) for block in DINO_BLOCKS}
    text = torch.zeros(1, TEXT_WIDTH)
    return counted(network, lambda: network(features, text, 1))


@dataclass(frozen=True, kw_only=True)
class StepCost:
    """Of one clip.

    Attributes:
        flops: of a step.
        memory: GiB on a GPU by part.
    """

    flops: float
    memory: dict[str, float]


def step_cost(
    config: UNetConfig,
    shape: tuple[int, int, int],
    clips: int,
    *,
    frames: int = 2,
    lambda_real: float = 0.5,
    checkpointing: bool = True,
    adapted: Callable[[nn.Module], Iterable[str]] = projections,
) -> StepCost:
    """Calculate a step with a LoRA of rank 64, in 16 bits, and the paper's adversary.

    Student 1 forward pass and 2 for its backward, teacher 2, target 1, the origin of simulated trajectories
    ``1 - lambda_real``. Of each seen frame: decoder 1 + 1 (the latents' gradient) for the student, 1 for the
    discriminator; features the same, and 1 of a real image; the discriminator 1 + 1, then two images forward and
    backward.

    Args:
        config: of the network.
        shape: frames, height and width of the latents.
        clips: of a GPU at a time.
        frames: of a clip that the discriminator sees.
        lambda_real: share of the trajectories that begin at clips.
        checkpointing: blocks keep their inputs only, and are computed twice.
        adapted: names of the layers that get an adapter.
    """
    network = measure(config, shape, adapted=adapted)
    decoder, features, judge = decoder_cost(*shape[1:]), features_cost(), discriminator_cost()
    own = network.forward_flops * (6.0 + (1.0 - lambda_real) + (1.0 if checkpointing else 0.0))
    seen = 3.0 * decoder.flops + 4.0 * features.flops + 8.0 * judge.flops
    layout = Layout(lora_rank=64, checkpointing=checkpointing)
    parts = memory(network, layout, clips)
    parts.pop("target")  # the network itself, without gradients
    parts.pop("average")
    parts["decoder"] = 2.0 * decoder.parameters / GIB
    parts["features"] = 2.0 * features.parameters / GIB
    parts["discriminator"] = 16.0 * judge.parameters / GIB
    parts["frames"] = 2.0 * clips * frames * (decoder.saved + features.saved + judge.saved) / GIB
    return StepCost(flops=own + frames * seen, memory=parts)


def table(adapted: Callable[[nn.Module], Iterable[str]] = projections) -> str:
    """Markdown: ModelScope's teacher at 256 x 256, 16 frames."""
    config, shape, gpus = UNetConfig(), (16, 32, 32), ("A100", "H100")
    names = ("student", "gradients", "AdamW", "teacher", "casts", "activations", "decoder", "features", "discriminator")
    lines = [
        "| clips a GPU at a time | "
        + " | ".join((*names, "frames"))
        + " | **sum** | TFLOP a clip | "
        + " | ".join(f"s for 16 clips, {gpu}" for gpu in gpus)
        + " |",
        "|---|" + "---:|" * (len(names) + 3 + len(gpus)),
    ]
    for clips, checkpointing in ((1, False), (4, False), (4, True)):
        cost = step_cost(config, shape, clips, checkpointing=checkpointing, adapted=adapted)
        cells = [f"{cost.memory[name]:.2f}" for name in (*names, "frames")]
        cells += [f"**{sum(cost.memory.values()):.1f}**", f"{cost.flops / 1e12:.1f}"]
        cells += [f"{16 * cost.flops / (PEAK[gpu] * UTILISATION):.1f}" for gpu in gpus]
        name = f"{clips}, checkpointing" if checkpointing else str(clips)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    from ...students.lora import LoraOptions, target_names

    print(table(lambda network: target_names(network, LoraOptions())))


if __name__ == "__main__":
    run_command(main)
