"""Sketch simplification (Simo-Serra et al., 2018): a rough drawing to clean lines, dark on white.

Key names ``layers.N`` and the input's mean and deviation are those of the authors' ``sketch_simplification_gan.pth``
(44,387,249 parameters).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch import Tensor, nn

MEAN: Final = 0.9664114577640158
DEVIATION: Final = 0.0858381272736797
MULTIPLE: Final = 8
"""Heights and widths that come out as they went in."""

# The convolutions in order: 5x5 halves, "down" 3x3 halves, "same" 3x3, "up" 4x4 transposed doubles.
_KINDS: Final = (
    "first",
    "same",
    "same",
    "down",
    "same",
    "same",
    "down",
    *(["same"] * 7),
    "up",
    "same",
    "same",
    "up",
    "same",
    "same",
    "up",
    "same",
    "same",
)
_SHAPES: Final = {"first": (5, 2, 2), "same": (3, 1, 1), "down": (3, 2, 1), "up": (4, 2, 1)}


def sketch_channels(state_dict: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Channels between the convolutions, the input's first, from the weights.

    Raises:
        KeyError: With the first convolution that is missing.
    """
    channels = [state_dict["layers.0.weight"].shape[1]]
    for index, kind in enumerate(_KINDS):
        shape = state_dict[f"layers.{2 * index}.weight"].shape
        channels.append(shape[1 if kind == "up" else 0])
    return tuple(channels)


class SketchSimplification(nn.Module):
    """Convolutions down to an eighth of the size and up again, without skips.

    Args:
        channels: From `sketch_channels`.
        operations: Layer classes.
        **kw: ``device`` and ``dtype`` of the layers.
    """

    def __init__(self, channels: Sequence[int], operations: Any = nn, **kw: Any) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for kind, inputs, outputs in zip(_KINDS, channels[:-1], channels[1:], strict=True):
            size, stride, padding = _SHAPES[kind]
            convolution = operations.ConvTranspose2d if kind == "up" else operations.Conv2d
            layers += [convolution(inputs, outputs, size, stride=stride, padding=padding, **kw), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1], nn.Sigmoid())

    def forward(self, drawing: Tensor) -> Tensor:
        """Clean a drawing.

        Args:
            drawing: ``[N, 1, H, W]`` in [0, 1], dark lines on white; H and W multiples of 8.

        Returns:
            The same shape and range.
        """
        return self.layers((drawing - MEAN) / DEVIATION)
