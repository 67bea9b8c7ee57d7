"""Node that makes a prompt of words that the embedded models know."""

from __future__ import annotations

from comfy_api.latest import io

from ..schema import combo, schema

OBJECTS = (
    "a snowman",
    "a horse",
    "a teddy bear",
    "a basketball",
    "a cactus",
    "a grand piano",
    "a bus",
    "a chicken",
    "a fire hydrant",
    "an umbrella",
)
MOTIONS = ("moves to the side", "jumps up and down", "spins around")
PLACES = ("on grass", "on sand", "on snow", "on a checkered floor")
"""What the embedded models were trained on, in the words of their captions; a test compares them with the files."""


class VideoLCMPromptWords(io.ComfyNode):
    """An object, a motion and a place to a prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return schema(
            node_id="VideoLCMPromptWords",
            display_name="VideoLCM Prompt Words",
            category="VideoLCM/tools",
            description="Makes a prompt of an object, a motion and a place that the embedded models videolcm-mini "
            "know. Set a control below to randomize and each run draws another.",
            search_aliases=["prompt", "random prompt", "words", "wildcard", "vocabulary", "prompt builder"],
            inputs=[
                combo(
                    "object",
                    OBJECTS,
                    OBJECTS[0],
                    control_after_generate=True,
                    tooltip="What the video shows: one of the ten objects that the embedded models know.",
                ),
                combo(
                    "motion",
                    MOTIONS,
                    MOTIONS[2],
                    control_after_generate=True,
                    tooltip="What it does: one of the three motions that the embedded models know.",
                ),
                combo(
                    "place",
                    PLACES,
                    PLACES[0],
                    control_after_generate=True,
                    tooltip="Where it is: one of the four places that the embedded models know.",
                ),
            ],
            outputs=[
                io.String.Output(
                    display_name="prompt", tooltip="Such as: a horse jumps up and down on snow. For CLIP Text Encode."
                )
            ],
        )

    @classmethod
    def execute(cls, object: str, motion: str, place: str) -> io.NodeOutput:
        """Join the words."""
        return io.NodeOutput(f"{object} {motion} {place}")
