"""What a distillation needs, calculated before it runs: parameters, memory of one GPU by part, FLOPs, time of a step.

Activations and FLOPs are counted on tensors without memory, by running the network's own forward pass on them. For the
1.4 B network, 16 frames of 448 x 256, bfloat16, print the table with ``python -m training.engine.costs``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig

from .commands import run_command

GIB: Final = 2.0**30
PEAK: Final = {"A100": 312e12, "H100": 989e12, "H200": 989e12, "L40S": 362e12, "RTX 4090": 165e12}
"""Dense bfloat16 FLOP/s that the makers state."""
UTILISATION: Final = 0.35
"""Share of the peak that a video UNet of this kind is assumed to reach; convolutions and short attentions."""
STEP_FORWARDS: Final = 6.0
"""Forward passes that a step costs: student 1 and its backward 2, teacher 2 (prompt and none), target 1."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What trains, and how it is spread.

    Attributes:
        lora_rank: 0 trains all weights.
        checkpointing: blocks keep their inputs only.
        processes: that the states are spread over (FSDP); 1 keeps them whole (DDP).
        average: whether a slow average is kept beside the target.
        teacher_bytes: of a weight of the teacher.
        compute_bytes: of an activation.
    """

    lora_rank: int = 0
    checkpointing: bool = False
    processes: int = 1
    average: bool = False
    teacher_bytes: int = 2
    compute_bytes: int = 2


@dataclass(frozen=True, kw_only=True)
class NetworkCosts:
    """Numbers of one network, for one clip.

    Attributes:
        parameters: all.
        lora_per_rank: parameters of adapters of rank 1, of those layers that get one.
        forward_flops: of a forward pass.
        saved: numbers kept for the backward pass.
        saved_checkpointed: the same with the blocks' inputs only, and the largest block computed again.
    """

    parameters: int
    lora_per_rank: int
    forward_flops: float
    saved: int
    saved_checkpointed: int


def projections(network: nn.Module) -> list[str]:
    """Names of all attention and feed-forward projections."""
    return [n for n, m in network.named_modules() if isinstance(m, nn.Linear) and "transformer_blocks" in n]


def _per_rank(layer: nn.Module) -> int:
    """Parameters of an adapter of rank 1: one row of its inputs (of a convolution its window), one of its outputs."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight[0].numel() + weight.shape[0]


@contextmanager
def kept_numbers(network: nn.Module, sizes: Callable[[], dict[int, int]]) -> Iterator[None]:
    """Collect how many numbers each storage has that autograd keeps; parameters are no activations.

    Args:
        network: whose parameters do not count.
        sizes: what takes the numbers just now, by storage.
    """
    own = {p.untyped_storage()._cdata for p in network.parameters()}
    keep: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            keep.append(tensor)  # a storage that is freed gives its number to another
            sizes()[storage._cdata] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        yield


@contextmanager
def _counting(network: UNet3D, buckets: dict[str, dict[int, int]], inputs: list[int]) -> Iterator[None]:
    """Collect what autograd keeps by block."""
    current = ["outside"]
    blocks = {
        f"block {i}": b for i, b in enumerate((*network.input_blocks, *network.middle_block, *network.output_blocks))
    }
    hooks = []
    for name, block in blocks.items():

        def enter(_: nn.Module, given: tuple, name: str = name) -> None:
            current[0] = name
            inputs.append(given[0].numel())

        def leave(*_: object) -> None:
            current[0] = "outside"

        hooks += [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]
    with kept_numbers(network, lambda: buckets.setdefault(current[0], {})):
        yield
    for hook in hooks:
        hook.remove()


def measure(
    config: UNetConfig,
    shape: tuple[int, int, int],
    tokens: int = 77,
    adapted: Callable[[nn.Module], Iterable[str]] = projections,
) -> NetworkCosts:
    """Count a network's parameters, FLOPs and activations for one clip.

    Args:
        config: shape of the network.
        shape: frames, height and width of the latents.
        tokens: of the text.
        adapted: names of the layers that get an adapter, as `training.students.lora.target_names` gives them.
    """
    from torch.utils.flop_counter import FlopCounterMode

    network = UNet3D(config, device="meta")
    x = torch.empty(1, config.in_channels, *shape, device="meta")
    t, context = torch.zeros(1, device="meta"), torch.empty(1, tokens, config.context_dim, device="meta")
    buckets: dict[str, dict[int, int]] = {}
    inputs: list[int] = []
    with FlopCounterMode(display=False) as counter, _counting(network, buckets, inputs):
        network(x, t, context)
    inside = {k: sum(v.values()) for k, v in buckets.items()}
    merged = {k: v for bucket in buckets.values() for k, v in bucket.items()}
    return NetworkCosts(
        parameters=sum(p.numel() for p in network.parameters()),
        lora_per_rank=sum(_per_rank(network.get_submodule(name)) for name in adapted(network)),
        forward_flops=float(counter.get_total_flops()),
        saved=sum(merged.values()),
        saved_checkpointed=sum(inputs) + inside.get("outside", 0) + max(v for k, v in inside.items() if k != "outside"),
    )


def memory(network: NetworkCosts, layout: Layout, clips: int) -> dict[str, float]:
    """GiB on one GPU by part.

    Args:
        network: from `measure`.
        layout: what trains, and how it is spread.
        clips: on this GPU at a time.
    """
    n, spread = network.parameters, layout.processes
    trained = network.lora_per_rank * layout.lora_rank if layout.lora_rank else n
    frozen = n if layout.lora_rank else 0
    saved = network.saved_checkpointed if layout.checkpointing else network.saved
    parts = {
        "student": 4.0 * (trained + frozen) / spread,
        "gradients": 4.0 * trained / spread,
        "AdamW": 8.0 * trained / spread,
        "target": 4.0 * n / spread,
        "average": 4.0 * n / spread if layout.average else 0.0,
        "teacher": float(layout.teacher_bytes) * n / spread,
        # Autocast keeps the student's weights in low precision until the backward pass; FSDP those of a block.
        "casts": float(layout.compute_bytes) * n if layout.compute_bytes < 4 and spread == 1 else 0.0,
        "activations": float(layout.compute_bytes) * saved * clips,
    }
    return {k: v / GIB for k, v in parts.items()}


def step_flops(network: NetworkCosts, layout: Layout, clips: int) -> float:
    """FLOPs of a step of ``clips`` clips; checkpointing computes the student's forward pass twice."""
    return network.forward_flops * clips * (STEP_FORWARDS + (1.0 if layout.checkpointing else 0.0))


def step_seconds(flops: float) -> str:
    """Estimate of a step's time on this machine, in words; on a CPU from a matrix product measured now."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        peak = next((v for k, v in PEAK.items() if k in name), None)
        if peak is None:
            seconds = flops / (1e14 * UTILISATION)
            return f"unknown for {name}; at {UTILISATION:.0%} of 100 TFLOP/s {seconds:.2f} s a step"
        return f"about {flops / (peak * UTILISATION):.2f} s a step on {name}, at {UTILISATION:.0%} of its peak"
    side = 512
    a = torch.rand(side, side)
    a @ a
    began, products = time.perf_counter(), 0
    while time.perf_counter() - began < 0.2:
        a @ a
        products += 1
    rate = 2 * side**3 * products / (time.perf_counter() - began)
    return f"about {flops / (rate * UTILISATION):.1f} s a step on this CPU ({rate / 1e9:.0f} GFLOP/s measured)"


def table(
    config: UNetConfig,
    shape: tuple[int, int, int],
    clips: int,
    adapted: Callable[[nn.Module], Iterable[str]] = projections,
) -> str:
    """Markdown: memory and time of usual layouts.

    Args:
        config: shape of the network.
        shape: frames, height and width of the latents.
        clips: of a GPU at a time.
        adapted: as in `measure`.
    """
    network = measure(config, shape, adapted=adapted)
    layouts = {
        "full, DDP": Layout(),
        "full, DDP, checkpointing": Layout(checkpointing=True),
        "full, FSDP x 4": Layout(processes=4),
        "full, FSDP x 4, checkpointing": Layout(processes=4, checkpointing=True),
        "LoRA 64, DDP": Layout(lora_rank=64),
        "LoRA 64, DDP, checkpointing": Layout(lora_rank=64, checkpointing=True),
    }
    gpus = ("A100", "H100")
    lines = [
        f"{network.parameters / 1e9:.3f} B parameters, {shape[0]} frames of {8 * shape[2]} x {8 * shape[1]}, {clips} "
        f"clip{'s' if clips > 1 else ''} a GPU at a time; a forward pass is {network.forward_flops / 1e12:.2f} TFLOP a "
        "clip. GiB on each GPU:",
        "",
        "| layout | student | gradients | AdamW | target | teacher | casts | activations | **sum** | TFLOP a step | "
        + " | ".join(f"s a step, {g}" for g in gpus)
        + " |",
        "|---|" + "---:|" * (9 + len(gpus)),
    ]
    for name, layout in layouts.items():
        parts, flops = memory(network, layout, clips), step_flops(network, layout, clips)
        shown = [parts[k] for k in ("student", "gradients", "AdamW", "target", "teacher", "casts", "activations")]
        cells = [f"{v:.1f}" for v in shown] + [f"**{sum(parts.values()):.1f}**", f"{flops / 1e12:.0f}"]
        cells += [f"{flops / (PEAK[g] * UTILISATION):.2f}" for g in gpus]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table of the released networks' size."""
    from ..students.lora import LoraOptions, target_names

    print(table(UNetConfig(), (16, 32, 56), 1, lambda network: target_names(network, LoraOptions())))


if __name__ == "__main__":
    run_command(main)
