"""Our distillation step against the authors' formulation of it: same network, batch, precision and hardware.

``python benchmarks/distillation_speed.py`` runs both, and what lies between them part by part, turn by turn in one
process, so that a machine that slows down slows all; it prints samples a second of each, the median of the ratios of
neighbouring turns, and exits with 1 when ours is not ``--goal`` times as fast. The authors' loop
(``train_videolcm_t2v_entrance.py``): clips through the VAE and captions through the text encoder in every step, a
prompt pass and a negative pass of the teacher, an average updated parameter by parameter; and layers as they wrote
them, for which diffusers' ``UNet3DConditionModel`` stands: the same function of the same weights, checked here. Ours:
our layers, latents and text from the cache, both passes in one batch, the teacher in low precision, fused updates.

On one CPU thread, seconds are those of the processor, so that other programs do not count. ``--device cuda`` measures
the wall time of finished work.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from training import mini
from training.data import world
from training.data.tokens import tokenize
from training.methods.consistency_distillation import ConsistencyDistillation
from videolcm_core.checkpoints.keymaps import vgen_to_diffusers
from videolcm_core.models.unet3d import UNet3D

ROOT = Path(__file__).resolve().parent.parent
W, EMA = 9.0, 0.95


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Which parts of the step are ours."""

    our_layers: bool = False
    cached_latents: bool = False
    cached_text: bool = False
    one_teacher_pass: bool = False
    frozen_teacher: bool = False
    fused_updates: bool = False
    compiled: bool = False


AUTHORS = Parts()
OURS = Parts(
    our_layers=True,
    cached_latents=True,
    cached_text=True,
    one_teacher_pass=True,
    frozen_teacher=True,
    fused_updates=True,
)
LADDER = {
    "authors' formulation": AUTHORS,
    "+ our layers": replace(AUTHORS, our_layers=True),
    "+ latents from the cache": replace(AUTHORS, our_layers=True, cached_latents=True),
    "+ text from the cache": replace(AUTHORS, our_layers=True, cached_latents=True, cached_text=True),
    "+ prompt and negative prompt in one batch": replace(OURS, frozen_teacher=False, fused_updates=False),
    "+ frozen teacher in bfloat16": replace(OURS, fused_updates=False),
    "+ fused AdamW and average: ours": OURS,
}


class Published(nn.Module):
    """Diffusers' network with the weights of ours, called as ours is."""

    def __init__(self, ours: UNet3D) -> None:
        super().__init__()
        import diffusers
        from diffusers.models.transformers.transformer_temporal import TransformerTemporalModel

        config = ours.config
        levels = len(config.channel_mult)
        self.network = diffusers.UNet3DConditionModel(
            block_out_channels=tuple(config.model_channels * mult for mult in config.channel_mult),
            layers_per_block=config.num_res_blocks,
            down_block_types=("CrossAttnDownBlock3D",) * levels,
            up_block_types=("CrossAttnUpBlock3D",) * levels,
            cross_attention_dim=config.context_dim,
            attention_head_dim=config.head_dim,
        )
        # Its first temporal transformer has eight heads whatever the configuration says.
        self.network.transformer_in = TransformerTemporalModel(
            num_attention_heads=config.num_heads, attention_head_dim=config.head_dim,
            in_channels=config.model_channels, num_layers=1,
        )  # fmt: skip
        own = ours.state_dict()
        weights = {other: own[key] for key, other in vgen_to_diffusers(own).items()}
        weights = {key: value.squeeze(-1) if value.ndim == 3 else value for key, value in weights.items()}
        weights["conv_in.weight"] = weights["conv_in.weight"][:, :4]
        self.network.load_state_dict(weights)
        for module in self.network.modules():
            if isinstance(module, nn.Dropout):
                module.p = config.dropout

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """As ours."""
        return self.network(x, t, context).sample


class Step:
    """One variant of the step, with its own networks and optimiser."""

    def __init__(self, parts: Parts, batch: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.parts, self.device = parts, device
        whole = mini.load_all_in_one(ROOT / "models" / "videolcm-mini-teacher.safetensors")
        self.text, self.autoencoder = whole.text.to(device), whole.autoencoder.to(device)
        network = whole.unet if parts.our_layers else Published(whole.unet).train(False).requires_grad_(False)
        self.teacher = network.to(device)
        self.student = copy.deepcopy(self.teacher).requires_grad_(True).train(True)
        self.target = copy.deepcopy(self.teacher)
        if parts.frozen_teacher:
            self.teacher = self.teacher.bfloat16()
        fused = {"fused": True} if parts.fused_updates else {"foreach": False}
        self.networks = [self.student, self.teacher, self.target]
        if parts.compiled:
            self.networks = [torch.compile(network) for network in self.networks]
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-6, weight_decay=0.0, **fused)
        self.method = ConsistencyDistillation(mini.schedule().to(device), prediction=mini.PREDICTION)
        self.videos = torch.randint(0, 256, (batch, world.FRAMES, world.SIZE, world.SIZE, 3), dtype=torch.uint8)
        self.captions = [c.caption for c in world.held_out()[:batch]]
        self.uncond = self.encode_text([""])
        self.latents, self.contexts = self.encode_videos(), self.encode_text(self.captions)

    @torch.no_grad()
    def encode_text(self, captions: list[str]) -> Tensor:
        """Token embeddings ``[B, 77, D]``."""
        return self.text(tokenize(captions).to(self.device)).float()

    @torch.no_grad()
    def encode_videos(self) -> Tensor:
        """Latents ``[B, 4, F, h, w]``."""
        frames = self.videos.to(self.device).flatten(0, 1).permute(0, 3, 1, 2).float().div(255)
        with self.autocast():
            found = self.autoencoder.encode(frames.contiguous(memory_format=torch.channels_last)).float()
        return found.unflatten(0, self.videos.shape[:2]).transpose(1, 2)

    def autocast(self) -> torch.autocast:
        """Bfloat16, for every variant."""
        return torch.autocast(self.device.type, torch.bfloat16)

    def call(self, network: nn.Module) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """A network as the method calls it."""

        def predict(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
            with self.autocast():
                return network(x.float(), t, context).float()

        return predict

    def teach(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Prompt and negative prompt, in one batch or one after the other."""
        if self.parts.frozen_teacher:
            return self.networks[1](x.bfloat16(), t, context.bfloat16()).float()
        predict = self.call(self.networks[1])
        if self.parts.one_teacher_pass:
            return predict(x, t, context)
        halves = zip(x.chunk(2), t.chunk(2), context.chunk(2), strict=True)
        return torch.cat([predict(*half) for half in halves])

    def __call__(self) -> None:
        """One step."""
        x_0 = self.latents if self.parts.cached_latents else self.encode_videos()
        context = self.contexts if self.parts.cached_text else self.encode_text(self.captions)
        losses, _ = self.method.loss(
            self.call(self.networks[0]), self.teach, self.call(self.networks[2]), x_0, context, self.uncond, w=W
        )
        self.optimizer.zero_grad(set_to_none=True)
        losses.mean().backward()
        self.optimizer.step()
        self.follow()

    @torch.no_grad()
    def follow(self) -> None:
        """The float32 average."""
        pairs = list(zip(self.target.parameters(), self.student.parameters(), strict=True))
        if self.parts.fused_updates:
            torch._foreach_lerp_([a for a, _ in pairs], [p.detach() for _, p in pairs], 1 - EMA)
            return
        for average, parameter in pairs:
            average.mul_(EMA).add_(parameter.detach(), alpha=1 - EMA)


def seconds(step: Step) -> float:
    """Time of one step; see the top of this file for which."""
    cuda = step.device.type == "cuda"
    clock = time.process_time if not cuda and torch.get_num_threads() == 1 else time.perf_counter
    if cuda:
        torch.cuda.synchronize(step.device)
    start = clock()
    step()
    if cuda:
        torch.cuda.synchronize(step.device)
    return clock() - start


@torch.no_grad()
def largest_difference(first: nn.Module, second: nn.Module, device: torch.device) -> float:
    """Of two networks' outputs for the same input, in float32."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, world.FRAMES, world.SIZE // 8, world.SIZE // 8, generator=generator).to(device)
    context = torch.randn(1, 77, mini.UNET.context_dim, generator=generator).to(device)
    t = torch.tensor([500], device=device)
    return (first(x, t, context) - second(x, t, context)).abs().max().item()


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="also a line with torch.compile (minutes to begin)")
    parser.add_argument("--goal", type=float, default=2.0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    ladder = LADDER | ({"+ torch.compile": replace(OURS, compiled=True)} if options.compile else {})
    steps = {name: Step(parts, options.batch, device) for name, parts in ladder.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    difference = largest_difference(*(steps[name].teacher for name in list(steps)[:2]), device)
    for step in steps.values():
        step()
    for _ in range(options.rounds):
        for name, step in steps.items():
            times[name].append(seconds(step))
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(f"{hardware}, {options.threads} threads, torch {torch.__version__}, batch {options.batch}, bfloat16 autocast")
    print(f"largest difference of the two networks' outputs: {difference:.1e}")
    print("| step | samples/s | times the authors' | times the line above |\n|---|---|---|---|")
    first, before = next(iter(times)), next(iter(times))
    ratio = 1.0
    for name, values in times.items():
        ratio, gain = (statistics.median(a / b for a, b in zip(times[n], values, strict=True)) for n in (first, before))
        rate = options.batch / statistics.median(values)
        print(f"| {name} | {rate:.2f} | {ratio:.2f} | {gain:.2f} |", flush=True)
        before = name
    return 0 if ratio >= options.goal else 1


if __name__ == "__main__":
    sys.exit(main())
