"""Our UNet against diffusers' UNet3DConditionModel: same weights, same input, same process, turn by turn.

``python benchmarks/unet_vs_diffusers.py`` prints, for float32 and bfloat16, the median seconds of one forward pass of
each and the median of the ratios of neighbouring runs, so that a machine that slows down slows both. Below 1 ours is
faster; exits with 1 when it is not. On one thread seconds are those of the processor, so that other programs do not
count; on more they are wall time, which needs an idle machine.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from videolcm_core.families.vgen.keymaps import vgen_to_diffusers
from videolcm_core.networks.vgen.unet3d import UNet3D, UNetConfig


def build_ours(width: int, context_dim: int, dtype: torch.dtype) -> UNet3D:
    """The released topology at some width, with every residual branch awake."""
    torch.manual_seed(0)
    config = UNetConfig(model_channels=width, context_dim=context_dim, concat_channels=0)
    network = UNet3D(config)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return network.to(dtype).train(False).requires_grad_(False)


def build_theirs(ours: UNet3D, width: int, context_dim: int, dtype: torch.dtype) -> nn.Module:
    """Diffusers' network with the weights of ours."""
    import diffusers

    network = diffusers.UNet3DConditionModel(
        block_out_channels=tuple(width * mult for mult in ours.config.channel_mult),
        cross_attention_dim=context_dim,
        attention_head_dim=ours.config.head_dim,
    )
    own = ours.state_dict()
    weights = {other: own[key] for key, other in vgen_to_diffusers(own).items()}
    network.load_state_dict({key: value.squeeze(-1) if value.ndim == 3 else value for key, value in weights.items()})
    return network.to(dtype).train(False).requires_grad_(False)


def seconds(call: Callable[[], Tensor]) -> float:
    """Time of one call; see the top of this file for which."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call()
    return clock() - start


def compare(dtype: torch.dtype, options: argparse.Namespace) -> float:
    """Print one line; returns the median ratio ours / theirs."""
    ours = build_ours(options.width, options.context_dim, dtype)
    theirs = build_theirs(ours, options.width, options.context_dim, dtype)
    x = torch.randn(1, 4, options.frames, options.height, options.latent_width, dtype=dtype)
    t, context = torch.tensor([500]), torch.randn(1, 77, options.context_dim, dtype=dtype)
    calls = {"ours": lambda: ours(x, t, context), "theirs": lambda: theirs(x, t, context).sample}
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.inference_mode():
        difference = (calls["ours"]() - calls["theirs"]()).abs().max().item()
        for _ in range(options.rounds):
            for name, call in calls.items():
                times[name].append(seconds(call))
    ratio = statistics.median(a / b for a, b in zip(times["ours"], times["theirs"], strict=True))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(
        f"{str(dtype).removeprefix('torch.'):9} ours {medians['ours']:7.3f} s  diffusers {medians['theirs']:7.3f} s  "
        f"ratio {ratio:.2f}  largest difference {difference:.1e}",
        flush=True,
    )
    return ratio


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64, help="channels of the first level (released models: 320)")
    parser.add_argument("--context-dim", type=int, default=1024, help="width of the text (released models: 1024)")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--height", type=int, default=16, help="of the latents")
    parser.add_argument("--latent-width", type=int, default=24, help="of the latents")
    parser.add_argument("--rounds", type=int, default=5, help="forward passes of each")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; {vars(options)}")
    ratios = [compare(dtype, options) for dtype in (torch.float32, torch.bfloat16)]
    return 0 if max(ratios) <= 1.0 else 1


if __name__ == "__main__":
    sys.exit(main())
