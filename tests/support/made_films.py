"""Small films of every kind that a camera, a phone or an editor writes; frame n is grey of level 8 n + 20."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

LEVELS, DARKEST = 8, 20
SIZE = (32, 16)
UNEVEN = (0, 100, 300, 350, 900, 1000)
"""Milliseconds at which the frames of a film of variable rate come."""


def grey(number, size=SIZE, channels=3):
    return np.full((size[1], size[0], channels), (LEVELS * number + DARKEST) % 256, np.uint8)


def numbers(frames):
    """Which frames these are, by their level: ``[F, H, W, 3]`` of 0..255, or of 0..1 as tensors."""
    values = np.asarray(frames, dtype=np.float64)
    values = values * 255 if values.max() <= 1 else values
    return [round((level - DARKEST) / LEVELS) for level in values.mean((1, 2, 3))]


def write(path, stamps, codec="libx264", pixels="yuv420p", images=None, **more):
    """Write a film whose frames come at these milliseconds.

    Args:
        path: The container is its ending.
        stamps: Milliseconds, one a frame.
        codec: Encoder.
        pixels: Its pixel format.
        images: ``uint8 [H, W, 3 or 4]``, one a frame; None writes grey ones.
        more: ``options`` of the encoder, ``container`` options, ``aspect`` of the pixels, ``rate``, ``shift`` (ms
            added to the packets' time stamps), ``tick`` (the stream's time base).
    """
    images = images or [grey(number) for number in range(len(stamps))]
    options = {"crf": "4"} if codec == "libx264" else {}
    container_options = more.get("container", {})
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=more.get("rate", 30), options=options | more.get("options", {}))
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixels
        stream.codec_context.time_base = stream.time_base = more.get("tick", Fraction(1, 1000))
        if "aspect" in more:
            stream.codec_context.sample_aspect_ratio = more["aspect"]
        packets = []
        for image, stamp in zip(images, stamps, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgba" if image.shape[2] == 4 else "rgb24")
            frame = frame.reformat(format=pixels)
            frame.pts, frame.time_base = round(stamp / 1000 / stream.time_base), stream.time_base
            packets += stream.encode(frame)
        for packet in packets + stream.encode():
            shift = round(more.get("shift", 0) / 1000 / packet.time_base)
            packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
            container.mux(packet)
    return path


def turn(path, matrix):
    """Write a display matrix (a, b, c, d of -1, 0, 1) into an mp4, as phones do."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (value * 0x10000 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(bytes(data))
    return path


def transparent(number, size=SIZE):
    """Left half grey and opaque, right half red and invisible."""
    image = grey(number, size, 4)
    image[..., 3] = 255
    image[:, size[0] // 2 :] = (200, 0, 0, 0)
    return image


def write_gif(path, holds, images=None, **options):
    """An animation with its own milliseconds for each frame: GIF, WebP or APNG by the ending."""
    frames = [Image.fromarray(image) for image in images or [grey(number) for number in range(len(holds))]]
    if path.suffix == ".webp":
        options = {"lossless": True} | options
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=list(holds), loop=0, **options)
    return path


def write_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def sixteen_bit_grey(path, top=65535):
    """16-bit grey from black to ``top``."""
    values = np.linspace(0, top, 32 * 16).round().astype(np.uint16).reshape(16, 32)
    Image.fromarray(values).save(path)
    return values


def huge_png(width=200_000, height=200_000):
    """A header that asks for 160 GB."""
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def huge_gif():
    image = io.BytesIO()
    Image.new("L", (16, 16)).save(image, "GIF")
    data = bytearray(image.getvalue())
    data[6:10] = struct.pack("<HH", 65535, 65535)
    return bytes(data)


def samples(folder: Path):
    """One small file of each container and codec, for fuzzing: name -> content."""
    even = [round(number * 125) for number in range(12)]
    write(folder / "a.mp4", even, container={"movflags": "faststart"}, options={"g": "5", "crf": "30"})
    write(folder / "a.mov", even[:4], "prores_ks", "yuva444p10le", [transparent(n) for n in range(4)])
    write(folder / "b.mov", even[:4], "qtrle", "argb", [transparent(n) for n in range(4)])
    write(folder / "a.mkv", even, options={"g": "5", "crf": "30"})
    write(folder / "a.webm", even[:6], "libvpx-vp9", "yuva420p", [transparent(n) for n in range(6)])
    write(folder / "a.avi", even, "mpeg4", tick=Fraction(1, 8), rate=8)
    write(folder / "a.ts", even, options={"g": "5", "crf": "30"})
    write(folder / "a.flv", even, options={"g": "5", "crf": "30"})
    write(folder / "a.mpg", even, "mpeg2video", tick=Fraction(1, 25), rate=25)
    write_gif(folder / "a.gif", [100, 50, 200, 120])
    write_gif(folder / "a.webp", [100, 50, 200, 120])
    write_gif(folder / "a.png", [100, 50, 200, 120], [transparent(n) for n in range(4)])
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise).save(folder / "a.jpg", exif=exif)
    Image.fromarray(noise).save(folder / "b.webp")
    Image.fromarray(noise).save(folder / "a.bmp")
    Image.fromarray(noise).save(folder / "b.png")
    Image.fromarray(noise).convert("P").save(folder / "c.png", transparency=3)
    sixteen_bit_grey(folder / "d.png")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
