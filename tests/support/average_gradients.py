"""Two processes with different gradients average them; process 0 writes what it has afterwards to the given file."""

import json
import sys
from pathlib import Path

import torch

from training.engine.processes import average_gradients, open_accelerator

accelerator = open_accelerator("no", cpu=True)
parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
parameters[0].grad = torch.full((2,), 1.0 + accelerator.process_index)  # of both
if accelerator.process_index:
    parameters[1].grad = torch.full((2,), 4.0)  # of one
average_gradients(accelerator, parameters)
if not accelerator.process_index:
    Path(sys.argv[1]).write_text(json.dumps([None if p.grad is None else p.grad.tolist() for p in parameters]))
accelerator.end_training()
