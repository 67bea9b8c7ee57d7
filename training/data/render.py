"""Draw one object on a floor under a sky with moderngl on EGL (no display needed): sun, shadow, fog, antialiasing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .models3d import Model3D

SUPERSAMPLE = 2
SHADOW_SIZE = 512

_VERTEX = """
#version 330
uniform mat4 view_projection, model, light; uniform mat3 normal_matrix;
in vec3 in_position, in_normal; in vec2 in_uv;
out vec3 normal, world; out vec2 uv; out vec4 shadow;
void main() {
  vec4 p = model * vec4(in_position, 1.0);
  world = p.xyz; normal = normal_matrix * in_normal; uv = in_uv; shadow = light * p;
  gl_Position = view_projection * p;
}
"""
_FRAGMENT = """
#version 330
uniform sampler2D image, shadow_map; uniform bool textured, ground;
uniform vec3 color, sun, fog, eye; uniform float ambient;
in vec3 normal, world; in vec2 uv; in vec4 shadow; out vec4 result;
void main() {
  vec2 at = ground ? world.xz * 0.45 : uv;
  vec3 base = textured ? texture(image, at).rgb : color;
  vec3 n = normalize(normal);
  if (dot(n, eye - world) < 0.0) n = -n;
  vec3 s = shadow.xyz / shadow.w * 0.5 + 0.5; float lit = 0.0;
  for (int i = -1; i <= 1; i++) for (int j = -1; j <= 1; j++)
    lit += texture(shadow_map, s.xy + vec2(i, j) / 512.0).r + 0.004 < s.z ? 0.0 : 1.0;
  vec3 shade = base * (ambient * (0.85 + 0.15 * n.y) + (1.0 - ambient) * max(dot(n, sun), 0.0) * lit / 9.0 * 1.25);
  float far = clamp((length(eye - world) - 4.0) / 9.0, 0.0, 1.0);
  result = vec4(mix(shade, fog, ground ? far : 0.0), 1.0);
}
"""
_DEPTH_ONLY = """
#version 330
uniform mat4 light, model; in vec3 in_position;
void main() { gl_Position = light * model * vec4(in_position, 1.0); }
"""


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where the object is in one frame: position (units of its longest side), yaw and roll in radians."""

    position: tuple[float, float, float]
    yaw: float = 0.0
    roll: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything of a clip but the object: camera eye, look-at point, sun direction, floor, colours in [0, 1]."""

    eye: tuple[float, float, float]
    look_at: tuple[float, float, float]
    sun: tuple[float, float, float]
    floor: np.ndarray
    sky_low: tuple[float, float, float]
    sky_high: tuple[float, float, float]
    ambient: float = 0.5


class Renderer:
    """Off-screen renderer of square frames.

    Args:
        size: side of the frames in pixels.
    """

    def __init__(self, size: int) -> None:
        import moderngl

        self.size = size
        gl: Any = moderngl.create_context(standalone=True, backend="egl")  # type: ignore[arg-type]
        self.gl = gl
        gl.enable(moderngl.DEPTH_TEST)
        side = size * SUPERSAMPLE
        self.frame = gl.framebuffer([gl.texture((side, side), 3)], gl.depth_renderbuffer((side, side)))
        self.shadow_map = gl.depth_texture((SHADOW_SIZE, SHADOW_SIZE))
        self.shadow_map.compare_func = ""
        self.shadow_frame = gl.framebuffer(depth_attachment=self.shadow_map)
        self.program = gl.program(vertex_shader=_VERTEX, fragment_shader=_FRAGMENT)
        self.depth_program = gl.program(vertex_shader=_DEPTH_ONLY, fragment_shader="#version 330\nvoid main() {}")
        self.models: dict[int, list[tuple[Any, Any, Any, tuple[float, float, float]]]] = {}
        self.floors: dict[int, Any] = {}
        quad = np.array([[-30, -30], [30, -30], [30, 30], [-30, -30], [30, 30], [-30, 30]], np.float32)
        ground = np.zeros((6, 8), np.float32)
        ground[:, [0, 2]], ground[:, 4] = quad, 1.0
        self.ground = gl.vertex_array(
            self.program, [(gl.buffer(ground.tobytes()), "3f 3f 2f", "in_position", "in_normal", "in_uv")]
        )

    def clip(self, model: Model3D, poses: list[Pose], scene: Scene) -> np.ndarray:
        """Draw one frame per pose.

        Returns:
            ``uint8 [F, size, size, 3]``.
        """
        return np.stack([self._draw(self._uploaded(model), pose, scene) for pose in poses])

    def _texture(self, image: np.ndarray) -> Any:
        texture = self.gl.texture(image.shape[1::-1], 3, np.ascontiguousarray(image).tobytes(), alignment=1)
        texture.build_mipmaps()
        texture.anisotropy = 4.0
        return texture

    def _uploaded(self, model: Model3D) -> list[tuple[Any, Any, Any, tuple[float, float, float]]]:
        if id(model) not in self.models:
            uploaded = []
            for part in model.parts:
                buffer = self.gl.buffer(part.vertices.tobytes())
                drawn = self.gl.vertex_array(self.program, [(buffer, "3f 3f 2f", "in_position", "in_normal", "in_uv")])
                shadow = self.gl.vertex_array(self.depth_program, [(buffer, "3f 20x", "in_position")])
                texture = None if part.texture is None else self._texture(part.texture)
                uploaded.append((drawn, shadow, texture, part.color))
            self.models[id(model)] = uploaded
        return self.models[id(model)]

    def _draw(
        self, parts: list[tuple[Any, Any, Any, tuple[float, float, float]]], pose: Pose, scene: Scene
    ) -> np.ndarray:
        rotation = _rotation(pose.yaw, pose.roll)
        model = np.eye(4, dtype="f4")
        model[:3, :3] = rotation * pose.scale
        model[:3, 3] = pose.position
        if pose.roll:  # roll about the middle, half a unit above the base
            model[:3, 3] += np.array([0, 0.5, 0]) * pose.scale - model[:3, :3] @ np.array([0, 0.5, 0])
        sun = np.array(scene.sun, np.float32)
        sun /= np.linalg.norm(sun)
        light = _orthographic(3.0, 0.1, 12.0) @ _look_at(sun * 6.0, np.zeros(3), np.array([0.0, 1.0, 0.01]))
        eye = np.array(scene.eye, np.float32)
        view = _perspective(35.0, 0.1, 60.0) @ _look_at(eye, np.array(scene.look_at), np.array([0.0, 1.0, 0.0]))
        self.shadow_frame.use()
        self.shadow_frame.clear(depth=1.0)
        self.depth_program["light"].write(light.T.astype("f4").tobytes())
        self.depth_program["model"].write(model.T.astype("f4").tobytes())
        for _, shadow, _, _ in parts:
            shadow.render()
        self.frame.use()
        self._sky(scene)
        p = self.program
        p["view_projection"].write(view.T.astype("f4").tobytes())
        p["light"].write(light.T.astype("f4").tobytes())
        p["sun"], p["eye"], p["fog"], p["ambient"] = tuple(sun), tuple(eye), scene.sky_low, scene.ambient
        self.shadow_map.use(1)
        p["shadow_map"], p["image"] = 1, 0
        self._place(np.eye(4, dtype="f4"), np.eye(3, dtype="f4"), ground=True)
        if id(scene.floor) not in self.floors:
            self.floors[id(scene.floor)] = self._texture(scene.floor)
        self.floors[id(scene.floor)].use(0)
        p["textured"] = True
        self.ground.render()
        self._place(model, rotation, ground=False)
        for drawn, _, texture, color in parts:
            p["textured"], p["color"] = texture is not None, color
            if texture is not None:
                texture.use(0)
            drawn.render()
        side, k = self.size * SUPERSAMPLE, SUPERSAMPLE
        pixels = np.frombuffer(self.frame.read(components=3, alignment=1), np.uint8).reshape(side, side, 3)[::-1]
        return (pixels.reshape(self.size, k, self.size, k, 3).astype(np.uint16).sum((1, 3)) // (k * k)).astype(np.uint8)

    def _place(self, model: np.ndarray, rotation: np.ndarray, *, ground: bool) -> None:
        self.program["model"].write(model.T.astype("f4").tobytes())
        self.program["normal_matrix"].write(rotation.T.astype("f4").tobytes())
        self.program["ground"] = ground

    def _sky(self, scene: Scene) -> None:
        """A vertical gradient in a few bands; the horizon has the fog's colour."""
        side = self.size * SUPERSAMPLE
        low, high = np.array(scene.sky_low), np.array(scene.sky_high)
        self.frame.clear(*low, depth=1.0)
        for y in range(side // 2, side, 4):
            mix = (y / side - 0.5) * 2.0
            color = low * (1 - mix) + high * mix
            self.frame.clear(*color, depth=1.0, viewport=(0, y, side, 4))


def _rotation(yaw: float, roll: float) -> np.ndarray:
    c, s, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(roll), np.sin(roll)
    about_y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (about_z @ about_y).astype("f4")


def _look_at(eye: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[0, :3], matrix[1, :3], matrix[2, :3] = right, np.cross(right, forward), -forward
    matrix[:3, 3] = -matrix[:3, :3] @ eye
    return matrix


def _perspective(degrees: float, near: float, far: float) -> np.ndarray:
    f = 1.0 / np.tan(np.radians(degrees) / 2)
    matrix = np.diag([f, f, (far + near) / (near - far), 0.0])
    matrix[2, 3], matrix[3, 2] = 2 * far * near / (near - far), -1.0
    return matrix


def _orthographic(half: float, near: float, far: float) -> np.ndarray:
    matrix = np.diag([1 / half, 1 / half, -2 / (far - near), 1.0])
    matrix[2, 3] = -(far + near) / (far - near)
    return matrix
