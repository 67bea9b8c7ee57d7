"""Draw one object on a floor under a sky with moderngl on EGL (no display needed): sun, shadow, fog, antialiasing.

Beside the colours: true inverse depth, the object's silhouette, and how far everything moved since the frame before.
"""

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
_LAYERS_VERTEX = """
#version 330
uniform mat4 view_projection, view_projection_before, view, model, model_before;
in vec3 in_position; out vec4 now, before; out float far;
void main() {
  vec4 p = model * vec4(in_position, 1.0);
  now = view_projection * p; before = view_projection_before * model_before * vec4(in_position, 1.0);
  far = -(view * p).z;
  gl_Position = now;
}
"""
_LAYERS_FRAGMENT = """
#version 330
uniform float object; in vec4 now, before; in float far; out vec4 result;
void main() { result = vec4(1.0 / far, object, now.xy / now.w - before.xy / before.w); }
"""
INVERSE_DEPTH_UNIT = 3.0
"""Distance at which inverse depth is 1: objects stand at about 1, the nearest floor at 1.5, the sky at 0."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What a depth camera, a segmenter and a perfect optical flow would see of a clip.

    Attributes:
        depth: inverse depth, float16 ``[F, H, W]``, 3 / distance, 0 in the sky.
        silhouette: coverage by the object, uint8 ``[F, H, W]``, 255 is all of the pixel.
        motion: float16 ``[F, H, W, 2]``, pixels to the right and down since the frame before, 0 in frame 0.
    """

    depth: np.ndarray
    silhouette: np.ndarray
    motion: np.ndarray


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


@dataclass(frozen=True, kw_only=True)
class _Uploaded:
    """One part of a model on the graphics card: its drawings, texture and colour."""

    drawn: Any
    shadow: Any
    layers: Any
    texture: Any
    color: tuple[float, float, float]


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
        self.layers_frame = gl.framebuffer(
            [gl.texture((side, side), 4, dtype="f4")], gl.depth_renderbuffer((side, side))
        )
        self.layers_program = gl.program(vertex_shader=_LAYERS_VERTEX, fragment_shader=_LAYERS_FRAGMENT)
        # By identity, and each with what it was made of: were that freed, another could get the same identity.
        self.models: dict[int, tuple[Model3D, list[_Uploaded]]] = {}
        self.floors: dict[int, tuple[np.ndarray, Any]] = {}
        quad = np.array([[-30, -30], [30, -30], [30, 30], [-30, -30], [30, 30], [-30, 30]], np.float32)
        ground = np.zeros((6, 8), np.float32)
        ground[:, [0, 2]], ground[:, 4] = quad, 1.0
        buffer = gl.buffer(ground.tobytes())
        self.ground = gl.vertex_array(self.program, [(buffer, "3f 3f 2f", "in_position", "in_normal", "in_uv")])
        self.ground_layers = gl.vertex_array(self.layers_program, [(buffer, "3f 20x", "in_position")])

    def clip(self, model: Model3D, poses: list[Pose], scenes: list[Scene]) -> np.ndarray:
        """Draw one frame per pose and scene.

        Returns:
            ``uint8 [F, size, size, 3]``.
        """
        with self.gl:  # another renderer may have drawn in between
            parts = self._uploaded(model)
            return np.stack([self._draw(parts, pose, scene) for pose, scene in zip(poses, scenes, strict=True)])

    def layers(self, model: Model3D, poses: list[Pose], scenes: list[Scene]) -> Layers:
        """True depth, silhouette and motion of the clip that `clip` draws."""
        with self.gl:
            return self._layers(self._uploaded(model), poses, scenes)

    def _layers(self, parts: list[_Uploaded], poses: list[Pose], scenes: list[Scene]) -> Layers:
        placed = [(_model_matrix(pose)[0], scene) for pose, scene in zip(poses, scenes, strict=True)]
        drawn = [
            self._draw_layers(parts, now, before) for now, before in zip(placed, [placed[0], *placed[:-1]], strict=True)
        ]
        depth, silhouette, motion = (np.stack(layer) for layer in zip(*drawn, strict=True))
        return Layers(depth=depth, silhouette=silhouette, motion=motion)

    def _draw_layers(
        self, parts: list[_Uploaded], now: tuple[np.ndarray, Scene], before: tuple[np.ndarray, Scene]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        view, view_projection, _ = _camera(now[1])
        self.layers_frame.use()
        self.layers_frame.clear(0.0, 0.0, 0.0, 0.0, depth=1.0)
        p, still = self.layers_program, np.eye(4, dtype="f4")
        _write(p, view_projection=view_projection, view=view, model=still, model_before=still)
        _write(p, view_projection_before=_camera(before[1])[1])
        p["object"] = 0.0
        self.ground_layers.render()
        _write(p, model=now[0], model_before=before[0])
        p["object"] = 1.0
        for part in parts:
            part.layers.render()
        side, k = self.size * SUPERSAMPLE, SUPERSAMPLE
        values = np.frombuffer(self.layers_frame.read(components=4, dtype="f4"), np.float32).reshape(side, side, 4)
        blocks = values[::-1].reshape(self.size, k, self.size, k, 4)
        mean = blocks.mean((1, 3))
        # Of the motion one sample: a mean over the object's edge would be of neither.
        motion = blocks[:, 0, :, 0, 2:] * np.array([0.5, -0.5]) * self.size
        depth = (INVERSE_DEPTH_UNIT * mean[..., 0]).astype(np.float16)
        return depth, (mean[..., 1] * 255).round().astype(np.uint8), motion.astype(np.float16)

    def _texture(self, image: np.ndarray, anisotropy: float = 1.0) -> Any:
        texture = self.gl.texture(image.shape[1::-1], 3, np.ascontiguousarray(image).tobytes(), alignment=1)
        texture.build_mipmaps()
        texture.anisotropy = anisotropy
        return texture

    def _uploaded(self, model: Model3D) -> list[_Uploaded]:
        if id(model) not in self.models:
            self.models[id(model)] = model, [self._upload(part) for part in model.parts]
        return self.models[id(model)][1]

    def _upload(self, part: Any) -> _Uploaded:
        buffer, gl = self.gl.buffer(part.vertices.tobytes()), self.gl
        return _Uploaded(
            drawn=gl.vertex_array(self.program, [(buffer, "3f 3f 2f", "in_position", "in_normal", "in_uv")]),
            shadow=gl.vertex_array(self.depth_program, [(buffer, "3f 20x", "in_position")]),
            layers=gl.vertex_array(self.layers_program, [(buffer, "3f 20x", "in_position")]),
            # Never anisotropic: on some of the models' texture coordinates Mesa's software renderer then never returns.
            texture=None if part.texture is None else self._texture(part.texture),
            color=part.color,
        )

    def _draw(self, parts: list[_Uploaded], pose: Pose, scene: Scene) -> np.ndarray:
        model, rotation = _model_matrix(pose)
        sun = np.array(scene.sun, np.float32)
        sun /= np.linalg.norm(sun)
        light = _orthographic(3.0, 0.1, 12.0) @ _look_at(sun * 6.0, np.zeros(3), np.array([0.0, 1.0, 0.01]))
        _, view_projection, eye = _camera(scene)
        self.shadow_frame.use()
        self.shadow_frame.clear(depth=1.0)
        _write(self.depth_program, light=light, model=model)
        for part in parts:
            part.shadow.render()
        self.frame.use()
        self._sky(scene)
        p = self.program
        _write(p, view_projection=view_projection, light=light)
        p["sun"], p["eye"], p["fog"], p["ambient"] = tuple(sun), tuple(eye), scene.sky_low, scene.ambient
        self.shadow_map.use(1)
        p["shadow_map"], p["image"] = 1, 0
        self._place(np.eye(4, dtype="f4"), np.eye(3, dtype="f4"), ground=True)
        if id(scene.floor) not in self.floors:
            self.floors[id(scene.floor)] = scene.floor, self._texture(scene.floor, anisotropy=4.0)
        self.floors[id(scene.floor)][1].use(0)
        p["textured"] = True
        self.ground.render()
        self._place(model, rotation, ground=False)
        for part in parts:
            p["textured"], p["color"] = part.texture is not None, part.color
            if part.texture is not None:
                part.texture.use(0)
            part.drawn.render()
        side, k = self.size * SUPERSAMPLE, SUPERSAMPLE
        pixels = np.frombuffer(self.frame.read(components=3, alignment=1), np.uint8).reshape(side, side, 3)[::-1]
        return (pixels.reshape(self.size, k, self.size, k, 3).astype(np.uint16).sum((1, 3)) // (k * k)).astype(np.uint8)

    def _place(self, model: np.ndarray, rotation: np.ndarray, *, ground: bool) -> None:
        _write(self.program, model=model, normal_matrix=rotation)
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


def _write(program: Any, **matrices: np.ndarray) -> None:
    """Set matrix uniforms; OpenGL keeps columns together."""
    for name, matrix in matrices.items():
        program[name].write(matrix.T.astype("f4").tobytes())


def _model_matrix(pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """The object's placement, and its rotation alone."""
    rotation = _rotation(pose.yaw, pose.roll)
    model = np.eye(4, dtype="f4")
    model[:3, :3] = rotation * pose.scale
    model[:3, 3] = pose.position
    if pose.roll:  # roll about the middle, half a unit above the base
        model[:3, 3] += np.array([0, 0.5, 0]) * pose.scale - model[:3, :3] @ np.array([0, 0.5, 0])
    return model, rotation


def _camera(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """View, view-projection and eye."""
    eye = np.array(scene.eye, np.float32)
    view = _look_at(eye, np.array(scene.look_at), np.array([0.0, 1.0, 0.0]))
    return view, _perspective(35.0, 0.1, 60.0) @ view, eye


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
