"""The reader of films: frames by their time stamps, from a file or its content, with PyAV."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from .errors import MAX_PIXELS, MediaError, Source, check_pixels, decoding, head_of, no_check
from .render import FilmFrame
from .timeline import Timeline, from_header, from_stamps
from .upright import pixel_aspect

# Play lists and other texts are no clips: FFmpeg would open what they name, whatever the file is called.
FORMATS: Final = (
    "mov,matroska,webm,avi,gif,apng,mpegts,mpegvideo,asf,ogg,ivf,obu,nut,mxf,dv,m4v,h264,hevc,mjpeg,yuv4mpegpipe"
)
# FFmpeg's own decoders of VP8 and VP9 leave the alpha away.
_WITH_ALPHA: Final = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# These readers crash in PyAV 12 to 16 when they are given any option, so they are known by the first bytes.
_WITHOUT_OPTIONS: Final = {b"\0\0\1\xba": "mpeg", b"FLV\1": "flv"}
_VP8_SHOWN: Final = 0x10
"""Bit of a VP8 frame's first byte: the frame is shown, not only referred to."""


@dataclass(frozen=True)
class Window:
    """A part of a film.

    Attributes:
        start: Seconds on the container's own clock.
        duration: Seconds; 0 goes to the film's end.
    """

    start: float = 0.0
    duration: float = 0.0

    def begun(self, stamp: int, time_base: Fraction) -> bool:
        """Whether a frame does not lie before it, by the host's own rule: one that began earlier is left out."""
        return not self.start or stamp >= int(self.start / time_base)

    def over(self, stamp: int, time_base: Fraction) -> bool:
        """Whether a frame lies after it."""
        return bool(self.duration) and stamp >= int((self.start + self.duration) / time_base)


@dataclass(frozen=True, eq=False)
class Video:
    """A film that FFmpeg decodes; it is opened anew each time that it is read.

    Attributes:
        source: A file or its content.
        name: For messages.
        window: The part that is read.
        threads: Of the decoder; 0 chooses.
        lenient: Go on after damage, as players do, instead of refusing the film.
        check: Called before each packet is read; may raise to stop.
    """

    source: Source
    name: str
    window: Window = Window()
    threads: int = 1
    lenient: bool = False
    check: Callable[[], None] = no_check

    @cached_property
    def timeline(self) -> Timeline:
        """When its frames come.

        Raises:
            MediaError: If it cannot be read or has no frame.
        """
        with decoding(self.name):
            container, stream = self._open()
        with container:
            with decoding(self.name):
                line = from_header(stream) if self.window == Window() else None
            line = line or self._from_packets(container, stream)
        if line is None:
            raise MediaError(self.name, "has no frame", next_step="Check where it comes from.")
        return line

    def frames(self, since: float = 0.0) -> Iterator[FilmFrame]:
        """Decoded frames in order.

        Args:
            since: Seconds from the first frame; the frames begin at or before that instant.

        Raises:
            MediaError: If it is damaged (where `lenient`: so much that nothing can be read).
        """
        start = self.timeline.origin + since
        if since or self.window.start:
            frames = self._decoded(start)
            first = next(frames, None)
            # Without time stamps nobody knows where the seeking led.
            if first is not None and first.time <= since + 1e-9 and first.decoded.pts is not None:
                yield first
                yield from frames
                return
        # From the beginning; or the container's seeking went too far.
        yield from self._decoded(None)

    def tags(self) -> dict[str, str]:
        """What the file says about itself, such as its title.

        Raises:
            MediaError: If it cannot be read.
        """
        with decoding(self.name):
            container, _ = self._open()
            with container:
                return dict(container.metadata)

    def _from_packets(self, container: Any, stream: Any) -> Timeline | None:
        """The timeline of the packets. Where most have no time stamp, they follow each other at the stream's rate."""
        tick = float(stream.time_base)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        # Of the whole film, which a window is not.
        seconds = float((stream.duration or 0) * stream.time_base) if self.window == Window() else 0.0
        stamps: list[int] = []
        last, held, without = None, 0, 0
        hides = stream.codec_context.name in ("vp8", "libvpx")
        for packet in self._packets(container, stream):
            if not packet.size or packet.is_discard or (hides and not memoryview(packet)[0] & _VP8_SHOWN):
                continue
            if packet.pts is None:
                without += 1
            elif self.window.begun(packet.pts, stream.time_base) and not self.window.over(packet.pts, stream.time_base):
                stamps.append(packet.pts)
                if last is None or packet.pts >= last:
                    last, held = packet.pts, packet.duration or 0
        if without > len(stamps):
            step, first = 1 / ((rate or 25) * tick), min(stamps, default=0)
            stamps = [first + round(number * step) for number in range(without + len(stamps))]
            held = round(step)
        return from_stamps(stamps, held, tick, rate, seconds)

    def _packets(self, container: Any, stream: Any) -> Iterator[Any]:
        packets = container.demux(stream)
        while True:
            self.check()
            try:
                with decoding(self.name):
                    packet = next(packets, None)
            except MediaError:
                if not self.lenient:
                    raise
                return
            if packet is None:
                return
            yield packet

    def _decoded(self, seek: float | None) -> Iterator[FilmFrame]:
        """Frames of the window from the key frame before ``seek`` (on the container's clock), else from the first."""
        with decoding(self.name):
            container, stream = self._open()
        line, aspect, time, number = self.timeline, pixel_aspect(self.name, stream), 0.0, 0
        step = 1 / float(stream.average_rate or stream.guessed_rate or 25)
        with container:
            if seek is not None:
                with decoding(self.name):
                    container.seek(int(seek / stream.time_base), stream=stream)
            for frame in self._decode(container, stream):
                if frame.pts is None:
                    time = time + step if number else 0.0
                elif not self.window.begun(frame.pts, frame.time_base):
                    continue
                elif self.window.over(frame.pts, frame.time_base):
                    return
                else:
                    # Time does not go back, whatever a damaged stamp says.
                    shown = float(frame.time) - line.origin
                    time = max(time, shown) if number else shown
                number += 1
                if frame.is_corrupt and not self.lenient:
                    raise MediaError(self.name, f"is damaged: the frame at {time:.2f} s")
                check_pixels(self.name, frame.width, frame.height)
                yield FilmFrame(time, frame, aspect, self.name)

    def _decode(self, container: Any, stream: Any) -> Iterator[Any]:
        decoder = _decoder(self.name, stream)
        for packet in self._packets(container, stream):
            try:
                with decoding(self.name):
                    frames = packet.decode() if decoder is None else decoder.decode(packet if packet.size else None)
            except MediaError:
                if not self.lenient:
                    raise
                continue
            yield from frames

    def _open(self) -> tuple[Any, Any]:
        """The container and its main video stream."""
        import av

        source = self.source.getvalue() if isinstance(self.source, io.BytesIO) else self.source
        file = io.BytesIO(source) if isinstance(source, bytes) else str(Path(source))
        known = next((name for first, name in _WITHOUT_OPTIONS.items() if head_of(source).startswith(first)), None)
        if known:
            container = av.open(file, "r", format=known, metadata_errors="replace")
        else:
            options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
            container = av.open(file, "r", options=options, metadata_errors="replace")
        try:
            stream = _main_stream(self.name, container)
            check_pixels(self.name, stream.codec_context.width, stream.codec_context.height)
            stream.codec_context.thread_count = self.threads
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        except BaseException:
            container.close()
            raise
        return container, stream


def _main_stream(name: str, container: Any) -> Any:
    import av

    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        raise MediaError(name, "has no video: only sound or subtitles", "a film with frames", "Choose another file.")
    if stream.codec_context is None:
        raise MediaError(name, "has a codec that this PyAV cannot decode", "such as H.264, H.265, VP9, AV1, ProRes")
    return stream


def _decoder(name: str, stream: Any) -> Any | None:
    """A decoder that keeps the alpha, where the stream's own does not; None takes the stream's own."""
    import av

    if stream.metadata.get("alpha_mode") != "1" or stream.codec_context.name not in _WITH_ALPHA:
        return None
    wanted = _WITH_ALPHA[stream.codec_context.name]
    if wanted not in av.codecs_available:
        raise MediaError(
            name,
            f"is transparent, and this PyAV has no {wanted}, which alone decodes that",
            next_step="Save it without alpha, or use the PyAV of PyPI, which has it.",
        )
    decoder = av.CodecContext.create(wanted, "r")
    decoder.extradata = stream.codec_context.extradata
    return decoder
