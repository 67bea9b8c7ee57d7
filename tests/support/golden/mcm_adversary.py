"""What is compared of MCM's frame adversary: its input, its heads, its losses and the penalty on its gradient."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy

import torch
from mcm import Values, mean_in_a_row, own_precision, tensors_below
from reference import Reference, Result
from torch import Tensor

from training.methods.parts.adversary import (
    ADVERSARIAL_LOSSES,
    gradient_norms,
    gradient_penalty,
)
from training.methods.parts.augmentation import (
    augment,
    change_brightness,
    change_contrast,
    change_saturation,
    cut_hole,
    draw_changes,
    move,
)
from training.methods.parts.discriminator import Discriminator
from training.methods.parts.discriminator_input import View, prepare


def check_gan_losses(reference: Reference) -> Iterator[Result]:
    """Losses of both sides, of every kind."""
    made, real = reference.get("logits_gen"), reference.get("logits_gt")

    def losses() -> Values:
        found = {}
        for name, loss in ADVERSARIAL_LOSSES.items():
            sides = {"G.{}": (loss.generator, made), "D.{}.gt": (loss.real, real), "D.{}.gen": (loss.made, made)}
            found |= {key.format(name): mean_in_a_row(side(x + 0.0)) for key, (side, x) in sides.items()}
        return found

    yield from reference.judge(losses, copies=8)


def check_discriminator_input(reference: Reference) -> Iterator[Result]:
    """Each change of the frames with its recorded draws, all of them from a seed, and what the network sees."""
    x, size = reference.get("x"), int(reference.metadata["resize"])
    whole = View(changes=None, crop=torch.full((len(x), 2), -1))
    yield from reference.judge(lambda: {"preprocess.nodiffaug": prepare(x, whole, size)})
    changes = {"brightness": change_brightness, "saturation": change_saturation, "contrast": change_contrast}
    for name in changes.keys() & reference.tensors.keys():
        yield from reference.judge(lambda n=name: {n: changes[n](x, reference.get(f"{n}.u"))})
    places = {"translation": move, "cutout": cut_hole}
    for name in places.keys() & reference.tensors.keys():
        drawn = torch.stack([reference.get(f"{name}.{axis}").flatten() for axis in "xy"], dim=1)
        yield reference.same(name, name, places[name](x, drawn))
    generator = torch.Generator().manual_seed(int(reference.metadata["torch_seed"]))
    drawn = draw_changes(len(x), *x.shape[2:], generator)
    yield from reference.judge(lambda: {"full_policy": augment(x, drawn)})


def check_discriminator(reference: Reference) -> Iterator[Result]:
    """The heads: logits as they are and after a power iteration, gradients, and the penalty on them."""
    hooks = [str(hook) for hook in reference.metadata["hooks"]]
    state = tensors_below(reference, "sd.")
    projection, text_width = state[f"heads.{hooks[0]}.cmapper.weight"].shape
    kernel = state[f"heads.{hooks[0]}.main.1.fn.0.weight_orig"].shape[-1]
    widths = dict.fromkeys(hooks, int(reference.metadata["embed_dim"]))
    first = Discriminator(widths, text_width, projection, kernel)
    first.load_state_dict(state)
    for case in sorted({n.partition(".")[0] for n in reference.tensors if re.fullmatch(r"b\d+\.c", n)}):
        yield from reference.judge(lambda c=case: _logits(reference, first, hooks, c))
        yield from reference.judge(lambda c=case: _penalty(reference, first, hooks, c))


def _inputs(reference: Reference, hooks: list[str], case: str) -> tuple[Values, Tensor, int]:
    text = reference.get(f"{case}.c") + 0.0
    features = {h: (reference.get(f"{case}.feature.{h}") + 0.0).detach().requires_grad_() for h in hooks}
    return features, text, -(-len(text) // int(reference.metadata["virtual_bs"]))


def _logits(reference: Reference, first: Discriminator, hooks: list[str], case: str) -> Values:
    discriminator = deepcopy(first).to(own_precision())
    features, text, groups = _inputs(reference, hooks, case)
    found = {"eval.logits": discriminator(features, text, groups)}
    for convolution in discriminator.convolutions().values():
        convolution.iterate()
    logits = discriminator(features, text, groups)
    loss = mean_in_a_row(ADVERSARIAL_LOSSES["hinge"].generator(logits))
    loss.backward()
    found |= {"train.logits": logits, "train.gen_hinge": loss}
    found |= {f"train.grad_feature.{h}": features[h].grad for h in hooks}
    for key, parameter in discriminator.named_parameters():
        found |= {f"train.after.{key}": parameter} if parameter.grad is None else {f"train.grad.{key}": parameter.grad}
    return {f"{case}.{key}": value.detach() for key, value in found.items()}


def _penalty(reference: Reference, first: Discriminator, hooks: list[str], case: str) -> Values:
    discriminator = deepcopy(first).to(own_precision())
    features, text, groups = _inputs(reference, hooks, case)
    norms = gradient_norms(discriminator(features, text, groups), features)
    penalty = gradient_penalty(norms).mean()
    penalty.backward()
    found = {"norm": norms, "penalty": penalty}
    found |= {f"grad.{k}": p.grad for k, p in discriminator.named_parameters() if p.grad is not None}
    return {f"{case}.gp.{key}": value.detach() for key, value in found.items()}
