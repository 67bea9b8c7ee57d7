"""Read textured 3-D models from Sweet Home 3D furniture libraries (.sh3f: zips of OBJ, MTL and JPG files)."""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Part:
    """Triangles of one material.

    Attributes:
        vertices: float32 ``[3n, 8]``; position (3), normal (3), texture coordinate (2) of each corner.
        color: diffuse colour, three values in [0, 1].
        texture: ``uint8 [H, W, 3]`` image, or None for a plain colour.
    """

    vertices: np.ndarray
    color: tuple[float, float, float]
    texture: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class Model3D:
    """A model standing on y = 0, centred on x = z = 0, its longest side 1."""

    name: str
    creator: str
    licence: str
    parts: list[Part] = field(default_factory=list)


@dataclass
class _Material:
    color: tuple[float, float, float] = (0.7, 0.7, 0.7)
    texture: str | None = None


def read_model(library: Path, number: int) -> Model3D:
    """Read model ``number`` of a ``.sh3f`` library.

    Args:
        library: path of the ``.sh3f`` file.
        number: catalogue number, the ``#N`` of its properties.

    Raises:
        ValueError: the library has no such model.
    """
    with zipfile.ZipFile(library) as archive:
        entry = _catalogue_entry(archive, number)
        if "model" not in entry:
            raise ValueError(
                f"{library.name} has no model number {number}; look in its PluginFurnitureCatalog.properties."
            )
        path = entry["model"].lstrip("/")
        if path.endswith(".zip"):
            with zipfile.ZipFile(io.BytesIO(archive.read(path))) as inner:
                obj = next(n for n in inner.namelist() if n.lower().endswith(".obj"))
                parts = _read_obj(inner, obj)
        else:
            parts = _read_obj(archive, path)
    if rotation := entry.get("modelRotation"):
        parts = _rotated(parts, np.array([float(v) for v in rotation.split()], np.float32).reshape(3, 3))
    return Model3D(
        name=entry.get("name", ""),
        creator=entry.get("creator", "unknown"),
        licence="CC0" if "CC-0" in library.name else "CC BY 3.0",
        parts=_normalised(parts),
    )


def dyed(model: Model3D, color: tuple[float, float, float], least_saturation: float = 0.35) -> Model3D:
    """The model with its coloured parts in another colour; grey, black and white parts stay.

    Args:
        model: as read.
        color: three values in [0, 1].
        least_saturation: (max - min) / max of a part's mean colour, from which on it counts as coloured.
    """
    return replace(model, parts=[_dyed(part, np.array(color), least_saturation) for part in model.parts])


def _dyed(part: Part, color: np.ndarray, least_saturation: float) -> Part:
    mean = np.array(part.color) if part.texture is None else part.texture.mean((0, 1)) / 255
    saturation = (mean.max() - mean.min()) / max(mean.max(), 1e-6)
    if saturation < least_saturation or mean.max() < 0.05:
        return part
    if part.texture is None:
        r, g, b = 1 - saturation * (1 - color)  # a pale part, such as a ribbon, stays paler
        return replace(part, color=(float(r), float(g), float(b)))
    light = part.texture.astype(np.float32).max(2, keepdims=True)
    image = np.clip(light / max(float(light.mean()), 1.0) * color * 255, 0, 255)
    return replace(part, texture=image.astype(np.uint8))


def _catalogue_entry(archive: zipfile.ZipFile, number: int) -> dict[str, str]:
    text = archive.read("PluginFurnitureCatalog.properties").decode("latin-1")
    return {m[1]: m[2].strip() for m in re.finditer(rf"^(\w+)#{number}=(.*)$", text, re.M)}


def _read_obj(archive: zipfile.ZipFile, name: str) -> list[Part]:
    """Triangulate an OBJ file; faces without normals get flat ones."""
    folder = name.rsplit("/", 1)[0] + "/" if "/" in name else ""
    positions: list[list[float]] = []
    normals: list[list[float]] = []
    uvs: list[list[float]] = []
    materials: dict[str, _Material] = {}
    corners: dict[str, list[tuple[int, int, int]]] = {}
    current = ""
    for line in archive.read(name).decode("latin-1").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "v":
            positions.append([float(v) for v in rest.split()[:3]])
        elif word == "vn":
            normals.append([float(v) for v in rest.split()[:3]])
        elif word == "vt":
            uvs.append([float(v) for v in rest.split()[:2]])
        elif word == "usemtl":
            current = rest.strip()
        elif word == "mtllib":
            materials.update(_read_mtl(archive, folder + rest.strip()))
        elif word == "f":
            face = [_corner(c, len(positions), len(uvs), len(normals)) for c in rest.split()]
            for i in range(1, len(face) - 1):
                corners.setdefault(current, []).extend((face[0], face[i], face[i + 1]))
    arrays = [np.array(a, np.float32).reshape(-1, n) for a, n in ((positions, 3), (uvs, 2), (normals, 3))]
    return [_part(archive, folder, materials.get(m, _Material()), np.array(c), *arrays) for m, c in corners.items()]


def _corner(text: str, v: int, t: int, n: int) -> tuple[int, int, int]:
    """``position/texture/normal`` indices of one face corner, from 0; -1 where absent."""
    fields = (text.split("/") + ["", ""])[:3]
    out = []
    for value, count in zip(fields, (v, t, n), strict=True):
        index = int(value) if value else 0
        out.append(index - 1 if index > 0 else count + index if index < 0 else -1)
    return out[0], out[1], out[2]


def _read_mtl(archive: zipfile.ZipFile, name: str) -> dict[str, _Material]:
    if name not in archive.namelist():
        return {}
    materials: dict[str, _Material] = {}
    current = _Material()
    for line in archive.read(name).decode("latin-1").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "newmtl":
            current = materials.setdefault(rest.strip(), _Material())
        elif word == "Kd":
            r, g, b = (float(v) for v in rest.split()[:3])
            current.color = (r, g, b)
        elif word == "map_Kd":
            current.texture = rest.strip().split()[-1]
    return materials


def _part(
    archive: zipfile.ZipFile,
    folder: str,
    material: _Material,
    corners: np.ndarray,
    positions: np.ndarray,
    uvs: np.ndarray,
    normals: np.ndarray,
) -> Part:
    p = positions[corners[:, 0]]
    flat = np.cross(p[1::3] - p[0::3], p[2::3] - p[0::3])
    normal = np.repeat(flat, 3, axis=0)
    if len(normals):
        has = corners[:, 2] >= 0
        normal[has] = normals[corners[has, 2]]
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    uv = np.where((corners[:, 1:2] >= 0), uvs[corners[:, 1]], 0.0) if len(uvs) else np.zeros((len(p), 2))
    texture = _texture(archive, folder, material.texture) if len(uvs) else None
    return Part(vertices=np.hstack([p, normal, uv]).astype("f4"), color=material.color, texture=texture)


def _texture(archive: zipfile.ZipFile, folder: str, name: str | None) -> np.ndarray | None:
    from PIL import Image

    if name is None or folder + name not in archive.namelist():
        return None
    image = Image.open(io.BytesIO(archive.read(folder + name))).convert("RGB")
    image.thumbnail((256, 256))
    return np.asarray(image)[::-1].copy()  # row 0 at the bottom, as texture coordinates count


def _rotated(parts: list[Part], rotation: np.ndarray) -> list[Part]:
    for part in parts:
        part.vertices[:, :3] = part.vertices[:, :3] @ rotation.T
        part.vertices[:, 3:6] = part.vertices[:, 3:6] @ rotation.T
    return parts


def _normalised(parts: list[Part]) -> list[Part]:
    points = np.concatenate([p.vertices[:, :3] for p in parts])
    low, high = points.min(0), points.max(0)
    scale = 1.0 / float((high - low).max())
    shift = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2], np.float32)
    for part in parts:
        part.vertices[:, :3] = (part.vertices[:, :3] - shift) * scale
    return parts
