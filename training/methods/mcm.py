"""Motion from a video teacher, appearance from images: MCM (Zhai et al., arXiv 2406.06890)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..networks import Control, VgenNetwork
from ..recipes.mcm import MCMRecipe
from ..students import LoraStudent
from .method import AdamW, Follower, Inputs, Losses, Method, MicroBatch, Needs, Networks, Phase, Trained
from .parts import previews
from .parts.adversary import ADVERSARIAL_LOSSES
from .parts.discriminator import Discriminator, SingularVectors
from .parts.distance import huber
from .parts.features import load_features
from .parts.frame_adversary import FrameAdversary, FrameAutoencoder, FrameDecoder, Real
from .parts.grid import TimestepGrid
from .parts.guidance import UniformGuidance
from .parts.motion import MOTIONS
from .parts.motion_consistency import MotionConsistency, Represent
from .parts.motion_head import MotionHead
from .parts.penalty import PenaltyWeight
from .parts.sample_draws import Purpose, SampleDraws
from .parts.solver import GuidedDDIM, Pair, Predict
from .parts.text_vectors import load_text_vectors
from .parts.trajectory import is_simulated, simulated_origin


class MCM(Method):
    """A LoRA student that is its own target, a head that learns what motion is, a discriminator of single frames."""

    name = "mcm"
    recipe: MCMRecipe
    trained: dict[str, Trained]

    def __init__(self, recipe: MCMRecipe, inputs: Inputs) -> None:
        r, teacher, student = recipe, inputs.teacher, inputs.student
        self.recipe, self.teacher, self.student, self.released = r, teacher, student, r.release
        if not isinstance(student, LoraStudent):
            raise ValueError("MCM's student is a LoRA and all weights train; allowed: adapters. Give --lora 64.")
        self.needs = Needs(pixels=bool(r.adversarial_weight))
        schedule = teacher.schedule.to(inputs.device, torch.float32)
        self.grid = TimestepGrid.ddim(r.original_steps, schedule.num_timesteps)
        self.guidance, self.motion = UniformGuidance(r.w_low, r.w_high), MOTIONS[r.motion]
        self.consistency = MotionConsistency(
            schedule=schedule,
            prediction=teacher.prediction,
            solver=GuidedDDIM(schedule, teacher.prediction),
            distance=huber(r.huber_c),
            timestep_scaling=r.timestep_scaling,
        )
        # The average is copied before the student is moved, spread or compiled.
        self.followers: dict[str, Follower] = {"average": student.average(r)} if r.average_ema else {}
        network = VgenNetwork(student.network.train(True), recompute=inputs.recompute)
        self.trained = {"student": self._trained(network, r.rate, weights=student.network, clip_norm=r.clip_norm)}
        frozen = teacher.network.to(r.teacher_dtype).requires_grad_(False).train(False)
        self.frozen: dict[str, nn.Module] = {"teacher": VgenNetwork(frozen)}
        self.phases = (Phase(name="student", trains=("student",)),)
        self._made: dict[range, tuple[Tensor, Tensor]] = {}
        self._looks: dict[str, str] = {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(r.seed)
            if self.motion.head is not None:
                self._add_head(MotionHead(teacher.config.out_channels, self.motion.head))
            if r.adversarial_weight:
                self._add_adversary(inputs.autoencoder or teacher.autoencoder)

    def _trained(self, module: nn.Module, rate: Callable[[int], float], **more: object) -> Trained:
        r = self.recipe
        return Trained(
            module=module,
            parameters=lambda: [p for p in module.parameters() if p.requires_grad],
            rate=rate,
            optimizer=AdamW(beta1=r.beta1, beta2=r.beta2, eps=r.adam_eps, weight_decay=r.weight_decay),
            **more,  # type: ignore[arg-type]
        )

    def _add_head(self, head: MotionHead) -> None:
        """The student's side of a learned representation, and the target's, which follows it."""
        self.trained["head"] = self._trained(head, self.recipe.rate)
        self.followers["head_ema"] = Follower(
            module=head.twin(),
            values=lambda: {name: p.detach() for name, p in head.named_parameters()},
            decay=lambda _: self.recipe.head_ema,
        )
        self.phases = (Phase(name="student", trains=("student", "head")),)

    def _add_adversary(self, autoencoder: nn.Module | None) -> None:
        """The discriminator, what it looks through, and its losses.

        Raises:
            ValueError: there is no autoencoder, or the feature network's file is missing.
        """
        r, teacher = self.recipe, self.teacher
        if autoencoder is None:
            raise ValueError(
                "the frame adversary decodes latents and the teacher's file has no autoencoder; allowed: --vae FILE "
                "(Stable Diffusion's), --autoencoder FILE (ours), or --adversarial-weight 0. Give one."
            )
        features = load_features(r.features, r.features_file)
        self.text = load_text_vectors(r.disc_text, r.disc_text_file, teacher.config.context_dim)
        self._looks = features.identity() | self.text.identity()  # before anything is cast
        discriminator = Discriminator(features.widths, self.text.width)
        vectors = SingularVectors(discriminator)
        decoder = FrameDecoder(autoencoder.requires_grad_(False).train(False))
        self.frozen |= {"features": features, "decoder": decoder}
        self.trained["discriminator"] = self._trained(discriminator, r.disc_rate_at)
        self.followers["vectors"] = Follower(module=vectors, values=vectors.iterated, decay=lambda _: 0.0)
        self.phases += (Phase(name="discriminator", trains=("discriminator",)),)
        self.adversary = FrameAdversary(
            loss=ADVERSARIAL_LOSSES[r.adversarial_loss],
            frames=r.disc_frames,
            group=r.disc_group,
            size=r.feature_size,
            augments=r.augments,
            real_by_part=r.real_by_part,
            penalised=bool(r.penalty_weight),
            real_decoded=r.real_decoded,
        )
        if r.real_decoded:
            self.frozen["autoencoder"] = FrameAutoencoder(autoencoder)
        if r.penalty_weight:
            weight = PenaltyWeight(
                r.penalty_weight, limit=r.penalty_limit, factor=r.penalty_factor, wait=r.penalty_wait
            )
            # A follower of nothing: it changes itself after a step, and is kept with the checkpoint.
            self.followers["penalty"] = Follower(module=weight, values=dict, decay=lambda _: 0.0)
            self.penalty = weight

    @classmethod
    def build(cls, recipe: MCMRecipe, inputs: Inputs) -> MCM:
        """See `Method`."""
        return cls(recipe, inputs)

    def loss(self, phase: str, networks: Networks, micro: MicroBatch) -> Losses:
        """The student's: motion as the target has it, frames that please; the discriminator's: real from made."""
        control = Control(pixels=micro.conditions, count=len(micro.latents))
        draws = SampleDraws(micro.draws)

        def called(name: str) -> Predict:
            return lambda x, t, text: networks[name](x, t, {"text": text, "control": control})

        if phase == "discriminator":
            return self._discriminator_loss(networks, micro, draws)
        pair = self._pair(called("student"), micro, draws)
        made = self.consistency.predicted(called("student"), pair, micro.text)["prediction"]
        w = self.guidance(micro.draws.guidance)
        goal = self.consistency.goal(called("teacher"), called("student"), pair, micro.text, micro.uncond, w)
        values = self.consistency.compare(made, goal["target"], *self._represent(networks))
        if not self.recipe.adversarial_weight:
            return Losses(values=values, t=pair.t)
        told = {"motion": values.detach()}
        self._made[micro.samples] = made.detach(), pair.t
        pleasing = self.adversary.generator_loss(networks, made, self.text(micro.captions, micro.text), draws)
        told["pleasing"] = pleasing.detach()
        return Losses(values=values + self.recipe.adversarial_weight * pleasing, t=pair.t, told=told)

    def _discriminator_loss(self, networks: Networks, micro: MicroBatch, draws: SampleDraws) -> Losses:
        """Of what the student made in its own phase, before it moved."""
        made, t = self._made.pop(micro.samples)
        text = self.text(micro.captions, micro.text)
        if (stills := micro.stills) is not None:
            vectors = self.text(stills.captions, stills.text.flatten(0, 1))
            real = Real(images=stills.pixels.flatten(0, 1), text=vectors)
        else:
            assert micro.pixels is not None
            real = self.adversary.real_of(micro.pixels, text, draws)
        judged = self.adversary.discriminator_loss(networks, made, real, text, draws)
        return Losses(values=judged.values, t=t, told=judged.told)

    def identity(self) -> dict[str, str]:
        """Networks that the discriminator looks through: its weights go with theirs."""
        return self._looks

    def after_step(self, index: int, told: Mapping[str, float]) -> list[str]:
        """Raise the penalty's weight where the discriminator runs away."""
        if "penalty" not in told or not self.penalty.observe(index, told["penalty"]):
            return []
        return [
            f"step {index}: the penalty on the discriminator's gradient is {told['penalty']:.4g}, at least "
            f"{self.penalty.limit:g}: its weight is {float(self.penalty.weight):.4g} from now on. If it happens again "
            "and again, lower --disc-rate."
        ]

    def _represent(self, networks: Networks) -> tuple[Represent, Represent]:
        """How the student's latents and the target's are seen."""
        if self.motion.head is None:
            return self.motion, self.motion
        return lambda x: self.motion(networks["head"](x)), lambda x: self.motion(networks["head_ema"](x))

    def _pair(self, student: Predict, micro: MicroBatch, draws: SampleDraws) -> Pair:
        """Noised latents of clips or of the student's own latents (eq. 9)."""
        x_0 = micro.latents
        simulated = is_simulated(micro.draws.source, self.recipe.lambda_real)
        if bool(simulated.any()):
            noise = draws.noise(x_0, Purpose.ORIGIN)
            schedule, prediction = self.consistency.schedule, self.teacher.prediction
            own = simulated_origin(student, schedule, prediction, noise, micro.text)
            x_0 = torch.where(simulated.view(-1, 1, 1, 1, 1), own, x_0)
        t, t_prev = self.grid.at(self.grid.index(micro.draws.grid).to(x_0.device))
        return self.consistency.pair(x_0, micro.draws.noise, t, t_prev)

    def released_state(self) -> Mapping[str, Tensor]:
        """Those of the released network, adapters merged."""
        return self.student.effective_state(None if self.released == "student" else self.released_network())

    def sample(self, network: nn.Module, scenes: previews.Scenes, steps: int, device: torch.device) -> Tensor:
        """By multistep consistency sampling."""
        return previews.student_latents(self.recipe, self.teacher, network, scenes, steps, device)

    def sample_teacher(self, scenes: previews.Scenes, steps: int, device: torch.device) -> Tensor:
        """By DDIM at the middle of the guidance that is distilled."""
        return previews.teacher_latents(self.recipe.w, self.teacher, scenes, steps, device)


METHOD = MCM
