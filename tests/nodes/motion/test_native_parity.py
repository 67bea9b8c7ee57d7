"""Motion modules in core's UNet equal the authors' code: one prediction, and whole runs through core's samplers.

Bounds follow from float64 and from float32's rounding of the same graph (tests/support/precision.py).
"""

import pytest
from precision import assert_differ, assert_recorded
from videos import frames_first

ALL = 21
"""Motion modules of a UNet: 8 going down, one in the middle, 12 going up."""


def test_prediction_is_the_authors_and_all_modules_ran(golden, animate, predict, ran):
    recorded = golden("unet_forward_author")
    model, x = animate(), recorded["x_8"].repeat(2, 1, 1, 1, 1)
    seen = ran(model)
    assert_recorded(lambda: predict(model, x, 999, recorded["context"]), recorded["y_8_999"])
    assert len(set(seen)) == ALL and len(seen) % ALL == 0


def test_without_motion_it_is_another_prediction(golden, sd15, animate, predict):
    """A motion module that silently does nothing is the failure to catch."""
    recorded = golden("unet_forward_author")
    x = recorded["x_8"].repeat(2, 1, 1, 1, 1)
    still = predict(sd15, x, 999, recorded["context"])
    assert_differ(lambda: predict(animate(), x, 999, recorded["context"]), still)


@pytest.mark.parametrize(
    ("name", "sampling", "cfg"),
    [
        ("lcm_4step_orig50", "animatelcm-50", 1.0),
        ("lcm_4step_orig100_cfg", "auto", 1.5),
    ],
)
def test_four_steps_are_the_authors(golden, animate, sample, ran, name, sampling, cfg):
    recorded = golden(name)
    model = animate(sampling=sampling)
    seen = ran(model)
    noises = [recorded[f"noise_{step}"] for step in range(3)]
    uncond, cond = recorded["context"][:1], recorded["context"][1:]

    def compute():
        return sample(model, recorded["start"], noises, [[cond, {}]], [[uncond, {}]], cfg)

    assert_recorded(compute, frames_first(recorded["final"]))
    assert len(set(seen)) == ALL


def test_image_to_video_is_the_authors(host, golden, animate, i2v_module, motion_of, sample):
    recorded = golden("lcm_i2v_4step_orig200")
    model = animate(motion_module=i2v_module)
    assert model.get_model_object("model_sampling").options.original_steps == 200
    with_frame = give_image(host, model, motion_of, recorded["img_latent"])
    noises = [recorded[f"noise_{step}"] for step in range(3)]

    def compute():
        return sample(with_frame, recorded["start"], noises, [[recorded["context"][-1:], {}]])

    assert_recorded(compute, frames_first(recorded["final"]))
    assert_differ(compute, sample(model, recorded["start"], noises, [[recorded["context"][-1:], {}]]))


def give_image(host, model, motion_of, latents, **options):
    """The MODEL with an image whose scaled latents are given: the node encodes pixels."""
    patch, first_frame = host.pack("nodes.motion.patch"), host.pack("nodes.motion.first_frame")
    import dataclasses

    clone = model.clone()
    image = first_frame.FirstFrame(latents=latents, **options)
    patch.set_motion(clone, dataclasses.replace(motion_of(model), first_frame=image))
    return clone
