"""The reader of films: parts, seeking, sources, and what is no film."""

import io

import av
import pytest
from made_films import numbers, write, write_sound

from videolcm_core.media import video
from videolcm_core.media.errors import MediaError
from videolcm_core.media.film import open_film
from videolcm_core.media.video import Video, Window

STAMPS = [number * 500 for number in range(28)]


@pytest.fixture
def long_film(tmp_path):
    """14 s, a key frame each 5 s."""
    return write(tmp_path / "a.mp4", STAMPS, options={"g": "10"})


def read(film, since=0.0):
    frames = list(film.frames(since))
    return numbers([frame.pixels(*frame.size) for frame in frames]), frames


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".ts", ".avi"])
def test_frames_begin_at_the_key_frame_before_an_instant(tmp_path, ending):
    path = write(tmp_path / f"a{ending}", STAMPS, "mpeg4" if ending == ".avi" else "libx264", options={"g": "10"})
    found, frames = read(open_film(path), since=8.2)
    assert frames[0].time <= 8.2 and found == list(range(found[0], 28))
    if ending != ".ts":  # which has no index
        assert found[0] >= 9


def test_seeking_that_goes_too_far_begins_anew(long_film, monkeypatch):
    decoded = Video._decoded

    def too_far(self, seek):
        yield from (frame for frame in decoded(self, None) if seek is None or frame.time > seek + 0.6)

    monkeypatch.setattr(Video, "_decoded", too_far)
    found, frames = read(open_film(long_film), since=8.2)
    assert found == list(range(28)) and frames[0].time == 0


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (Window(), range(28)),
        (Window(3.0, 2.0), range(6, 10)),
        (Window(3.2, 2.0), range(7, 11)),
        (Window(0.0, 1.0), range(0, 2)),
        (Window(9.0), range(18, 28)),
        (Window(13.5, 60.0), range(27, 28)),
    ],
)
@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_parts(tmp_path, ending, window, expected):
    film = open_film(write(tmp_path / f"a{ending}", STAMPS, options={"g": "10"}), window=window)
    found, frames = read(film)
    assert found == list(expected) and frames[0].time == 0.0
    assert film.timeline.count == len(expected)
    assert [round(frame.time, 3) for frame in frames] == [0.5 * number for number in range(len(expected))]


def test_a_part_after_the_end_has_no_frame(long_film):
    with pytest.raises(MediaError, match="it has no frame"):
        open_film(long_film, window=Window(20.0)).frames().__next__()


def test_every_kind_of_source_gives_the_same(long_film):
    content = long_film.read_bytes()
    for source in (str(long_film), content, io.BytesIO(content)):
        found, _ = read(open_film(source))
        assert found == list(range(28))
    # A stream that others read, too, is left where it is.
    stream = io.BytesIO(content)
    stream.seek(100)
    film = open_film(stream)
    for first, second in zip(film.frames(), film.frames(), strict=True):
        assert first.time == second.time
    assert stream.tell() == 100


def test_sound_is_no_film(tmp_path):
    with pytest.raises(MediaError, match=r"sound\.mp4 cannot be read: it has no video: only sound"):
        open_film(write_sound(tmp_path / "sound.mp4")).timeline  # noqa: B018


def test_the_cover_of_a_song_is_no_film(tmp_path):
    song, cover = write_sound(tmp_path / "song.mp4"), io.BytesIO()
    from PIL import Image

    Image.new("RGB", (16, 16)).save(cover, "PNG")
    path = tmp_path / "cover.mp4"
    with av.open(str(song)) as source, av.open(str(path), "w") as target:
        sound = target.add_stream_from_template(source.streams.audio[0])
        picture = target.add_stream("png", rate=1)
        picture.width = picture.height = 16
        picture.pix_fmt = "rgb24"
        picture.disposition = av.stream.Disposition.attached_pic
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = sound
                target.mux(packet)
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts = picture, 0, 0
        target.mux(packet)
    with pytest.raises(MediaError, match="no video: only sound"):
        open_film(path).timeline  # noqa: B018


def test_lists_of_other_files_are_no_films(tmp_path, long_film):
    path = tmp_path / "list.mp4"
    path.write_text(f"ffconcat version 1.0\nfile {long_film.name}\n")
    with pytest.raises(MediaError, match=r"list\.mp4 cannot be read: it cannot be decoded"):
        open_film(path).timeline  # noqa: B018


def test_absent_files_are_named(tmp_path):
    with pytest.raises(MediaError, match=r"gone\.mp4 cannot be read"):
        open_film(tmp_path / "gone.mp4")


def test_text_that_is_not_unicode_does_not_spoil_a_film(tmp_path):
    path = write(tmp_path / "a.mkv", [0, 100])
    data = path.read_bytes()
    path.write_bytes(data.replace(b"Lavf", b"\xe9\xffvf"))
    with pytest.raises(UnicodeDecodeError), av.open(str(path)) as container:
        assert container
    assert read(open_film(path))[0] == [0, 1]


def test_a_decoder_without_alpha_is_not_taken_in_silence(tmp_path, monkeypatch):
    from made_films import transparent

    images = [transparent(number) for number in range(2)]
    path = write(tmp_path / "a.webm", [0, 100], "libvpx-vp9", "yuva420p", images)
    monkeypatch.setattr(video, "_WITH_ALPHA", {"vp9": "no such decoder"})
    with pytest.raises(MediaError, match="is transparent, and this PyAV has no no such decoder"):
        list(open_film(path).frames())


def test_damage_is_refused_or_passed_over(tmp_path):
    path = write(tmp_path / "a.mkv", [number * 100 for number in range(20)], options={"g": "5", "crf": "0"})
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    data, hurt = bytearray(path.read_bytes()), bytes(packets[7])
    at = data.index(hurt)
    data[at + 8 : at + len(hurt)] = bytes(len(hurt) - 8)
    with pytest.raises(MediaError, match="it is damaged|it cannot be decoded"):
        list(open_film(bytes(data)).frames())
    found, frames = read(open_film(bytes(data), lenient=True))
    assert 15 <= len(frames) <= 20 and found[0] == 0 and found[-1] == 19
