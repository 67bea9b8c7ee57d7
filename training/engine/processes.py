"""One process or many: the accelerator, each process's share of a step, and states that are spread over processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import Tensor, nn


def open_accelerator(
    precision: str = "no", accumulation: int = 1, *, unused_parameters: bool = False, cpu: bool = False
) -> Accelerator:
    """The accelerator of this process; ``accelerate launch`` decides how many there are and how they are joined.

    Args:
        precision: "no", "bf16" or "fp16".
        accumulation: parts that a step's batch is computed in, one after the other.
        unused_parameters: whether a step may leave parameters without gradient (encoders of conditions).
        cpu: stay on the CPU where there is a GPU.

    Raises:
        ValueError: float16 without a GPU.
    """
    if precision == "fp16" and (cpu or not torch.cuda.is_available()):
        raise ValueError("precision is 'fp16', which needs a GPU, and there is none; allowed here: no, bf16. Give "
                         "--precision bf16.")  # fmt: skip
    # One process may make several runs, each with its own precision; the group of processes stays.
    AcceleratorState._reset_state(reset_partial_state=False)
    GradientState._reset_state()
    ddp = DistributedDataParallelKwargs(find_unused_parameters=unused_parameters, gradient_as_bucket_view=True)
    accelerator = Accelerator(
        mixed_precision=precision, gradient_accumulation_steps=accumulation, cpu=cpu, kwargs_handlers=[ddp]
    )
    if is_sharded(accelerator):
        _keep_sums_exact(accelerator.state.fsdp_plugin, precision)
    return accelerator


def _keep_sums_exact(plugin: Any, precision: str) -> None:
    """Gradients are added up in float32: accelerate's default adds bfloat16 over the ranks."""
    if plugin.fsdp_version != 2:
        raise ValueError(f"fsdp_version is {plugin.fsdp_version}; allowed: 2. Use training/configs/fsdp.yaml.")
    from torch.distributed.fsdp import MixedPrecisionPolicy

    compute = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=compute, reduce_dtype=torch.float32, output_dtype=torch.float32, cast_forward_inputs=False
    )


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether parameters are spread over the processes (FSDP)."""
    return accelerator.distributed_type == DistributedType.FSDP


def shard(accelerator: Accelerator, module: nn.Module) -> nn.Module:
    """Move a network without optimiser to this process's device, spread like the student where that is."""
    if is_sharded(accelerator):
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        return fsdp2_prepare_model(accelerator, module)
    return module.to(accelerator.device)


def share(size: int, rank: int, processes: int, accumulation: int) -> list[range]:
    """Samples of a step that a process computes, one range for each part.

    Args:
        size: of the global batch.
        rank: of the process.
        processes: how many there are.
        accumulation: parts.

    Raises:
        ValueError: the batch cannot be divided evenly.
    """
    parts = processes * accumulation
    if size % parts:
        raise ValueError(
            f"the batch of a step is {size} samples, to be divided over {processes} processes x {accumulation} "
            f"accumulated parts; allowed: a multiple of {parts}. Change --batch, --image-batch or --accumulation."
        )
    each = size // parts
    return [range((m * processes + rank) * each, (m * processes + rank + 1) * each) for m in range(accumulation)]


def whole(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state with spread tensors put together on the CPU; every process must call it."""
    return {k: v.full_tensor().cpu() if hasattr(v, "full_tensor") else v for k, v in state.items()}


def fill(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state into a network that may be spread over processes."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    if any(hasattr(p, "full_tensor") for p in module.parameters()):
        set_model_state_dict(module, dict(state), options=StateDictOptions(full_state_dict=True))
    else:
        module.load_state_dict(state)


def optimizer_state(accelerator: Accelerator, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state, put together where it is spread."""
    if not is_sharded(accelerator):
        return optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return {"by_name": get_optimizer_state_dict(module, optimizer, options=options)}


def fill_optimizer(
    accelerator: Accelerator, module: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Take back what `optimizer_state` gave.

    Raises:
        ValueError: the state is of the other kind, spread or not.
    """
    if is_sharded(accelerator) != ("by_name" in state):
        kinds = ("spread (FSDP)", "not spread") if "by_name" in state else ("not spread", "spread (FSDP)")
        raise ValueError(
            f"the checkpoint's optimiser is {kinds[0]} and this run's is {kinds[1]}; allowed: the same kind, with any "
            "number of processes. Launch with the configuration the run began with."
        )
    if not is_sharded(accelerator):
        optimizer.load_state_dict(dict(state))
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    set_optimizer_state_dict(module, optimizer, state["by_name"], options=StateDictOptions(full_state_dict=True))
