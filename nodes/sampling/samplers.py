"""Nodes that sample."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from .. import host
from ..model.edm_sampling import AnimateLCMSVDSampling
from ..model.guard import check_shape
from ..model.model_sampling import VideoLCMModelSampling
from ..schema import combo, make, schema
from .sigmas import NOISE_DEVICES, ddim_sigmas, lcm_sigmas, make_sampler, original_steps_of, own_grid

CATEGORY = "VideoLCM/sampling"
NOISE_DEVICE_TOOLTIP = (
    "Where the noise of the steps is drawn. cpu: a seed gives the same video on every machine. gpu: as core's lcm "
    "sampler, another video on another card."
)
STRENGTH_TOOLTIP = (
    "1 makes a new video. Less starts from the given latent with noise on it and keeps more of it the lower it is. "
    "The model's grid (50 timesteps for VideoLCM) is cut to this part first, so steps may be at most its length times "
    "strength."
)


class VideoLCMSampler(io.ComfyNode):
    """Latent in, video latent out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMSampler",
            display_name="VideoLCM Sampler",
            category=CATEGORY,
            description="Samples a video in a few steps, with the settings these models were distilled for: core's lcm "
            "sampler on the model's own timesteps, no guidance.",
            search_aliases=["videolcm", "lcm sampler", "few-step video", "4 steps", "text to video", "ksampler video"],
            inputs=[
                make(
                    io.Model,
                    "model",
                    tooltip="From Load VideoLCM Checkpoint, Load VideoLCM Model or Apply Motion Module, or another "
                    "consistency model with VideoLCM Model Sampling (AnimateLCM-SVD).",
                ),
                make(io.Conditioning, "positive", tooltip="What to show, from CLIP Text Encode."),
                make(
                    io.Conditioning,
                    "negative",
                    optional=True,
                    lazy=True,
                    tooltip="What to avoid. Needed, and only then computed, when cfg is not 1.",
                ),
                make(io.Latent, "latent", tooltip="From Empty VideoLCM Latent, or a video from VAE Encode."),
                make(
                    io.Int,
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed and settings give the same video.",
                ),
                make(
                    io.Int,
                    "steps",
                    default=4,
                    min=1,
                    max=50,
                    tooltip="Network calls. 4 is what the models are made for; 1 is a sketch, 8 adds a little detail.",
                ),
                make(
                    io.Float,
                    "cfg",
                    default=1.0,
                    min=1.0,
                    max=20.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Guidance. 1 for distilled models: guidance was distilled into them (VideoLCM at 9), more "
                    "applies it twice and doubles the time. AnimateLCM takes 1 to 2, 1.5 with a negative prompt.",
                ),
                make(
                    io.Float,
                    "strength",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip=STRENGTH_TOOLTIP,
                ),
                combo("noise_device", NOISE_DEVICES, "cpu", advanced=True, tooltip=NOISE_DEVICE_TOOLTIP),
            ],
            outputs=[
                io.Latent.Output(display_name="LATENT", tooltip="The video, for VAE Decode."),
                io.Latent.Output(
                    display_name="denoised",
                    tooltip="The model's last prediction of the clean video; the same at the end.",
                ),
            ],
        )

    @classmethod
    def check_lazy_status(cls, cfg: float, negative: Any = ..., **_: Any) -> list[str]:
        """Ask for the negative prompt only when it is used.

        The host gives None for a link that was not computed yet, and nothing at all where no link is: asked for that,
        it would fail with words of its own, and `execute` could not say what to do.
        """
        return ["negative"] if cfg != 1.0 and negative is None else []

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        latent: dict[str, Any],
        seed: int,
        steps: int,
        cfg: float,
        strength: float,
        noise_device: str,
        negative: Any = None,
    ) -> io.NodeOutput:
        """Sample one video.

        Raises:
            ValueError: If guidance is asked for without a negative prompt, or steps and strength do not fit the grid.
        """
        if cfg != 1.0 and negative is None:
            raise ValueError(
                f"cfg is {cfg} and no negative prompt is connected; allowed: cfg 1 without one. Connect `negative` "
                f"(an empty CLIP Text Encode will do), or set cfg to 1."
            )
        host.forget_notes()
        check_shape(latent["samples"])
        sampling = model.get_model_object("model_sampling")
        _warn_if_foreign(sampling)
        sigmas = lcm_sigmas(sampling, steps, original_steps_of(sampling), strength)
        samples = host.prepare_latent(model, {**latent, "samples": one_video(latent["samples"])})
        last: dict[str, Tensor] = {}
        result = host.sample_custom(
            model,
            host.prepare_noise(samples, seed, latent.get("batch_index")),
            cfg,
            make_sampler(noise_device),
            sigmas,
            positive=positive,
            negative=positive if negative is None else negative,
            latent_image=samples,
            noise_mask=latent.get("noise_mask"),
            callback=host.prepare_callback(model, len(sigmas) - 1, last),
            disable_pbar=host.progress_bar_disabled(),
            seed=seed,
        )
        denoised = model.model.process_latent_out(last["x0"].cpu()) if "x0" in last else result
        return io.NodeOutput(_with_samples(latent, result), _with_samples(latent, denoised))


def one_video(samples: Tensor) -> Tensor:
    """Frames as the batch, from either layout.

    Raises:
        ValueError: If there is more than one video.
    """
    if samples.ndim != 5:
        return samples
    if samples.shape[0] != 1:
        raise ValueError(
            f"The latent holds {samples.shape[0]} videos, shape {list(samples.shape)}; allowed: one video a run. Queue "
            f"the workflow once for each, or use Empty VideoLCM Latent."
        )
    return samples[0].movedim(1, 0)


def _with_samples(latent: dict[str, Any], samples: Tensor) -> dict[str, Any]:
    kept = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio")}
    return {**kept, "samples": samples}


def _warn_if_foreign(sampling: Any) -> None:
    if isinstance(sampling, AnimateLCMSVDSampling):
        return
    if not isinstance(sampling, VideoLCMModelSampling):
        host.tell(f"VideoLCM Sampler: this MODEL samples as {type(sampling).__name__}; add VideoLCM Model Sampling.")
    elif not sampling.options.distilled:
        host.tell("VideoLCM Sampler: this MODEL is a teacher, not distilled; use KSampler with euler and 50 steps.")


class VideoLCMScheduler(io.ComfyNode):
    """Noise levels for SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMScheduler",
            display_name="VideoLCM Scheduler",
            category=CATEGORY,
            description="The timesteps of the authors' samplers, as SIGMAS for SamplerCustomAdvanced.",
            search_aliases=["videolcm sigmas", "lcm scheduler", "ddim authors", "timesteps"],
            inputs=[
                make(io.Model, "model", tooltip="The model to sample: its schedule turns timesteps into noise levels."),
                make(io.Int, "steps", default=4, min=1, max=999, tooltip="Network calls: lcm 4, ddim 50."),
                io.DynamicCombo.Input(
                    "mode",
                    options=[io.DynamicCombo.Option("lcm", _lcm_inputs()), io.DynamicCombo.Option("ddim", [])],
                    tooltip="lcm: for distilled models, with the lcm sampler or Sampler VideoLCM. ddim: the teacher's "
                    "timesteps 981, 961, ..., 1 as in the authors' code, with the euler sampler.",
                ),
            ],
            outputs=[io.Sigmas.Output(display_name="SIGMAS", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, model: Any, steps: int, mode: dict[str, Any]) -> io.NodeOutput:
        """Choose the timesteps.

        Raises:
            ValueError: If steps and strength do not fit the grid.
        """
        host.forget_notes()
        sampling = model.get_model_object("model_sampling")
        if mode["mode"] == "ddim":
            return io.NodeOutput(ddim_sigmas(sampling, steps))
        original_steps = mode["original_steps"] or original_steps_of(sampling)
        sigmas = lcm_sigmas(sampling, steps, original_steps, mode["strength"])
        _warn_if_other_grid(sampling, original_steps)
        return io.NodeOutput(sigmas)


def _warn_if_other_grid(sampling: Any, original_steps: int) -> None:
    """Graphs hold 50, the default once, and a model of another grid may have come into them since."""
    own = own_grid(sampling)
    if own is not None and own != original_steps:
        host.tell(
            f"VideoLCM Scheduler: original_steps is {original_steps} and this MODEL was distilled on {own}; set "
            f"original_steps to 0 for the MODEL's own."
        )


def _lcm_inputs() -> list[Any]:
    return [
        make(
            io.Int,
            "original_steps",
            default=0,
            min=0,
            max=1000,
            tooltip="Length of the grid of timesteps to choose from. 0: the one that the model was distilled on (50 "
            "for VideoLCM, 100 for AnimateLCM).",
        ),
        make(io.Float, "strength", default=1.0, min=0.01, max=1.0, step=0.01, tooltip=STRENGTH_TOOLTIP),
    ]


class SamplerVideoLCM(io.ComfyNode):
    """Core's lcm sampler with noise drawn on the CPU."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="SamplerVideoLCM",
            display_name="Sampler VideoLCM",
            category=CATEGORY,
            description="Core's lcm sampler with its step noise drawn on the CPU, so that a seed gives the same video "
            "on every machine. For SamplerCustomAdvanced.",
            search_aliases=["lcm", "videolcm sampler", "cpu noise", "reproducible seed"],
            inputs=[
                combo("noise_device", NOISE_DEVICES, "cpu", tooltip=NOISE_DEVICE_TOOLTIP),
                make(
                    io.Float,
                    "s_noise",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Factor on the noise added between steps; the models were trained at 1. Less is smoother.",
                ),
                make(
                    io.Float,
                    "noise_clip_std",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    advanced=True,
                    tooltip="Clamp the noise at this many standard deviations; 0 leaves it as it is.",
                ),
            ],
            outputs=[io.Sampler.Output(display_name="SAMPLER", tooltip="For SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, noise_device: str, s_noise: float, noise_clip_std: float) -> io.NodeOutput:
        """Make the sampler."""
        return io.NodeOutput(make_sampler(noise_device, s_noise, noise_clip_std))
