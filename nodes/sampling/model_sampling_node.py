"""Node that changes how a MODEL is sampled."""

from __future__ import annotations

from typing import Any, Final

from comfy_api.latest import io

from ...videolcm_core.diffusion.prediction import PREDICTIONS
from ...videolcm_core.diffusion.schedule import BETA_END, BETA_SCHEDULES, BETA_START
from .. import host
from ..model.edm_sampling import SVD_PRESET, AnimateLCMSVDSampling
from ..model.model_sampling import SamplingOptions, VideoLCMModelSampling
from ..model.presets import PRESETS
from ..schema import combo, make, schema

CUSTOM: Final = "custom"
_WITH_TIMESTEPS: Final = (host.ModelType.EPS, host.ModelType.V_PREDICTION, host.ModelType.IMG_TO_IMG)
"""Kinds of MODEL that have 1000 timesteps; ours that predicts x_0 is IMG_TO_IMG."""


class VideoLCMSampling(io.ComfyNode):
    """Change how a MODEL's output is understood."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMSampling",
            display_name="VideoLCM Model Sampling",
            category="VideoLCM/patch",
            description="Sets what a consistency model predicts and on which timesteps it was distilled: by a preset "
            "for the models of each paper, or by hand. The loaders set this from the file; this node is for files that "
            "say nothing, and for experiments.",
            search_aliases=[
                "model sampling",
                "lcm",
                "v prediction",
                "zero terminal snr",
                "mcm",
                "animatelcm",
                "animatelcm svd",
                "animatediff",
                "beta schedule",
            ],
            inputs=[make(io.Model, "model", tooltip="The MODEL to change; the one given stays as it is."), *_inputs()],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The changed MODEL.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        prediction: str,
        zsnr: bool,
        original_steps: int,
        beta_schedule: str,
        timestep_scaling: float,
        beta_end: float = BETA_END,
        preset: str = CUSTOM,
    ) -> io.NodeOutput:
        """Clone the MODEL and replace its sampling object.

        Raises:
            ValueError: If the preset is for other models than this one.
        """
        host.forget_notes()
        by_hand: dict[str, Any] = {
            "prediction": prediction,
            "beta_schedule": beta_schedule,
            "beta_end": beta_end,
            "zero_terminal_snr": zsnr,
            "original_steps": original_steps,
            "timestep_scaling": timestep_scaling,
        }
        _check_kind(model, preset)
        patched = model.clone()
        if preset == SVD_PRESET:
            sampling: Any = AnimateLCMSVDSampling(model.model.model_config)
        else:
            options = SamplingOptions(**by_hand) if preset == CUSTOM else PRESETS[preset]
            sampling = VideoLCMModelSampling(options, chosen=True)
        if preset != CUSTOM:
            _tell_unused(by_hand, preset)
        patched.add_object_patch("model_sampling", sampling)
        return io.NodeOutput(patched)


def _inputs() -> list[Any]:
    """All but the MODEL; newer ones are optional and come last, so that graphs saved before still run."""
    return [
        combo(
            "prediction",
            PREDICTIONS,
            "v",
            tooltip="What the network predicts: v (VideoLCM, TF-T2V), eps (ModelScope, Stable Diffusion 1.5) or x_0, "
            "the clean video.",
        ),
        make(
            io.Boolean,
            "zsnr",
            default=True,
            tooltip="Zero terminal SNR: the last timestep is pure noise. On for VideoLCM and TF-T2V, off for "
            "ModelScope and Stable Diffusion.",
        ),
        make(
            io.Int,
            "original_steps",
            default=50,
            min=1,
            max=1000,
            tooltip="Length of the grid of timesteps the model was distilled on.",
        ),
        combo(
            "beta_schedule",
            BETA_SCHEDULES,
            "scaled_linear",
            advanced=True,
            tooltip="scaled_linear: Stable Diffusion, VideoLCM. linear: AnimateDiff, AnimateLCM (diffusers' names; "
            "core calls them linear and sqrt_linear).",
        ),
        make(
            io.Float,
            "timestep_scaling",
            default=10.0,
            min=0.01,
            max=1000.0,
            step=0.1,
            advanced=True,
            tooltip="Of the boundary scaling: 10 for VideoLCM and LCM, 4 for MCM.",
        ),
        make(
            io.Float,
            "beta_end",
            default=BETA_END,
            min=BETA_START,
            max=0.5,
            step=0.001,
            round=0.00001,
            optional=True,
            advanced=True,
            tooltip="The last beta: 0.012, of AnimateLCM's image-to-video 0.014 (0.012 to 0.016 in its authors' app).",
        ),
        combo(
            "preset",
            (CUSTOM, *PRESETS, SVD_PRESET),
            CUSTOM,
            optional=True,
            tooltip="custom: the settings above. Any other sets all of them for the models of that name: animatelcm "
            "(its authors' 100 timesteps), animatelcm-50, animatelcm-i2v (image to video), animatediff-evolved (as "
            "that pack's lcm), animatediff (not distilled), mcm, mcm-animatediff, videolcm, teacher (TF-T2V), eps "
            "(ModelScope, Stable Diffusion). animatelcm-svd is for Stable Video Diffusion alone.",
        ),
    ]


def _check_kind(model: Any, preset: str) -> None:
    """Refuse a MODEL whose noise levels are of another kind than those asked for."""
    kind, name = model.model.model_type, type(model.model).__name__
    if preset == SVD_PRESET and kind != host.ModelType.V_PREDICTION_EDM:
        raise ValueError(
            f"preset is {preset} and the MODEL is a {name} ({kind.name}); allowed: Stable Video Diffusion. Load an "
            f"AnimateLCM-SVD file with Image Only Checkpoint Loader, or choose the preset of your model."
        )
    if preset != SVD_PRESET and kind == host.ModelType.V_PREDICTION_EDM:
        raise ValueError(
            f"preset is {preset} and the MODEL is a {name}, which has noise levels and no timesteps; allowed: "
            f"{SVD_PRESET}. Choose it for an AnimateLCM-SVD file; Stable Video Diffusion itself needs no such node."
        )
    if preset != SVD_PRESET and kind not in _WITH_TIMESTEPS:
        raise ValueError(
            f"The MODEL is a {name} ({kind.name}), which does not have 1000 timesteps; allowed: the models of this "
            f"pack, Stable Diffusion and its kin, and Stable Video Diffusion with the preset {SVD_PRESET}. Remove this "
            f"node."
        )


def _tell_unused(by_hand: dict[str, Any], preset: str) -> None:
    """Settings that somebody changed and that the preset does not take."""
    untouched, taken = vars(SamplingOptions()), vars(PRESETS[preset]) if preset in PRESETS else {}
    unused = [name for name, value in by_hand.items() if value not in (untouched[name], taken.get(name))]
    if unused:
        names = ", ".join("zsnr" if name == "zero_terminal_snr" else name for name in unused)
        host.tell(
            f"VideoLCM Model Sampling: what was set by hand ({names}) is not used, because the preset {preset} sets "
            f"everything; choose custom for your own."
        )
