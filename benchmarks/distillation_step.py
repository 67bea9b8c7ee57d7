"""One distillation step in the authors' formulation, in ours and what lies between; see ``distillation_speed.py``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from training.data.tokens import tokenize
from training.methods.parts.consistency import ConsistencyLoss
from training.methods.parts.grid import TimestepGrid
from training.methods.parts.solver import GuidedDDIM
from training.mini import family as mini
from training.mini import world
from training.networks import VgenNetwork
from videolcm_core.families.vgen.keymaps import vgen_to_diffusers
from videolcm_core.networks.vgen.unet3d import UNet3D

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
            num_attention_heads=config.num_heads,
            attention_head_dim=config.head_dim,
            in_channels=config.model_channels,
            num_layers=1,
        )
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
    """One variant of the step, with its own networks and optimiser.

    Args:
        parts: which are ours.
        batch: clips; with ``together`` those of this process.
        device: that computes.
        together: average gradients over the processes of torch's group, as the engine does.
    """

    def __init__(self, parts: Parts, batch: int, device: torch.device, *, together: bool = False) -> None:
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
        if parts.one_teacher_pass:
            self.networks = [VgenNetwork(network) for network in self.networks]
        if parts.compiled:
            self.networks = [torch.compile(network) for network in self.networks]
        if together:
            self.networks[0] = DistributedDataParallel(self.networks[0], gradient_as_bucket_view=True)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-6, weight_decay=0.0, **fused)
        schedule = mini.schedule().to(device)
        self.grid = TimestepGrid.ddim(50)
        self.loss = ConsistencyLoss(
            schedule=schedule, prediction=mini.PREDICTION, solver=GuidedDDIM(schedule, mini.PREDICTION)
        )
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
                given = {"text": context} if self.parts.one_teacher_pass else context
                return network(x.float(), t, given).float()

        return predict

    def teach(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Prompt and negative prompt, in one batch or one after the other."""
        predict = self.call(self.networks[1])
        if self.parts.one_teacher_pass:
            return predict(x, t, context)
        halves = zip(x.chunk(2), t.chunk(2), context.chunk(2), strict=True)
        return torch.cat([predict(*half) for half in halves])

    def __call__(self) -> None:
        """One step."""
        x_0 = self.latents if self.parts.cached_latents else self.encode_videos()
        context = self.contexts if self.parts.cached_text else self.encode_text(self.captions)
        t, t_prev = self.grid.at(torch.randint(len(self.grid.t), (len(x_0),), device=self.device))
        losses, _ = self.loss(
            self.call(self.networks[0]),
            self.teach,
            self.call(self.networks[2]),
            x_0=x_0,
            noise=torch.randn_like(x_0),
            text=context,
            uncond=self.uncond,
            t=t,
            t_prev=t_prev,
            w=W,
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
