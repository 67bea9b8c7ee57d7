"""From what the user named (corpus, clips, shards, cache) to the `Batches` of a run: one entry, `open_batches`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..engine.processes import by_one_process
from ..teachers import Teacher
from . import cache
from .batches import BatchOptions, SourceBatches
from .cache_files import CachedClips
from .captions import told_before
from .clip_folder import ClipFolder, Missing
from .corpus import Corpus, CorpusClips
from .decode import FrameSampling
from .encoders import Encoders
from .latents import cached_latents
from .mixing import SingleFrames
from .shards import ShardSet
from .source import BrokenSampleError, CaptionedSource, EncodableSource
from .stills import CorpusStills, open_images
from .tokens import vocabulary_of

VOCABULARY_CAPTIONS = 100_000  # beyond this many captions, new words are rare


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What to train on; one of ``corpus``, ``clips``, ``shards``, or ``cache`` alone.

    Attributes:
        corpus: folder of the rendered corpus.
        clips: folder of clips and images with captions.
        shards: WebDataset shards, a folder or a pattern.
        cache: folder for latents and embeddings of ``clips`` or ``shards``, made or brought up to date first; alone,
            a cache that is there. None encodes on the fly.
        sampling: frames, rate and size; None takes the teacher's.
        missing_captions: clips without caption stop the run, or are left out.
        takes: random parts of each clip in a cache.
        vae: Stable Diffusion's autoencoder, where the teacher's file has none.
        text_encoder: OpenCLIP's text encoder, where the teacher's file has none.
        image_set: images with captions of their own (see `stills.open_images`): those of image steps, and those that
            are drawn beside clips.
    """

    corpus: Path | None = None
    clips: Path | None = None
    shards: str | None = None
    cache: Path | None = None
    sampling: FrameSampling | None = None
    missing_captions: Missing = "error"
    takes: int = 1
    vae: Path | None = None
    text_encoder: Path | None = None
    image_set: str | None = None

    def __post_init__(self) -> None:
        named = [n for n in ("corpus", "clips", "shards") if getattr(self, n) is not None]
        if len(named) > 1 or (not named and self.cache is None):
            raise ValueError(
                f"data: got {' and '.join(f'--{n}' for n in named) or 'none'}; allowed: one of --corpus, --clips and "
                "--shards, or --cache alone. Name one."
            )
        if self.corpus is not None and self.cache is not None:
            raise ValueError("data: got --corpus and --cache; the corpus keeps its own cache. Leave --cache out.")
        if (self.vae is None) != (self.text_encoder is None):
            raise ValueError("data: --vae and --text-encoder belong together. Give both, or neither.")


class NoText(nn.Module):
    """In place of a text encoder where one is only being trained: embeddings without tokens."""

    def forward(self, ids: Tensor) -> Tensor:
        """Long ``[B, 77]`` to ``[B, 0, 0]``."""
        return torch.zeros(len(ids), 0, 0)


def open_batches(
    spec: DataSpec,
    options: BatchOptions,
    teacher: Teacher | None = None,
    *,
    autoencoder: nn.Module | None = None,
    device: torch.device | str = "cpu",
    quiet: bool = False,
) -> SourceBatches:
    """Open the data of a run.

    Args:
        spec: what to train on.
        options: sizes and draws of the batches.
        teacher: its encoders and its clips' size are taken; None where a text encoder is trained too.
        autoencoder: where there is no teacher.
        device: where to encode.
        quiet: say nothing of captions and samples left out, where it was said before.

    Raises:
        FileNotFoundError: a folder, shard or cache is not there.
        ValueError: empty data, a cache of other encoders, a missing encoder, text of another width, no images.
    """
    encoders = _encoders(spec, teacher, autoencoder, device, options)
    if (told := _without_effect(spec)) and not quiet and _is_first():
        print(told, flush=True)
    stills = _image_set(spec, teacher)
    if spec.corpus is not None:
        assert encoders is not None
        corpus = Corpus.open(spec.corpus)
        data = cached_latents(corpus, encoders.autoencoder, corpus.training)
        pixels = corpus.mapped(corpus.training)[0] if options.pixels else None
        clips = CorpusClips(corpus=corpus, latents=data.latents, labels=data.labels, pixels=pixels)
        batches = SourceBatches(clips, stills or replace(clips, single=True), options, encoders, stills=stills)
    else:
        source = open_source(spec, teacher, options, encoders, quiet=quiet)
        empty = source.empty_text if isinstance(source, CachedClips) else None
        videos, images = source.only("video"), stills or source.only("image")
        if not len(videos) and options.ratio.clips:
            raise ValueError(f"{_where(spec)} holds images only; add clips, or train on images alone (clips 0).")
        single = images if len(images) else SingleFrames(videos)
        batches = SourceBatches(videos, single, options, encoders, empty, stills)
        if not isinstance(source, CachedClips):
            batches.leave_out(source.left_out)
    if stills is not None:
        batches.leave_out(stills.left_out)
    if teacher is not None and not options.ids:
        _check_width(batches.uncond_context(), teacher, spec)
    return batches


def _image_set(spec: DataSpec, teacher: Teacher | None) -> ClipFolder | ShardSet | CorpusStills | None:
    """Images of the clips' size."""
    if spec.image_set is None:
        return None
    sampling = spec.sampling or teacher_sampling(teacher)
    if spec.corpus is not None:
        corpus = Corpus.open(spec.corpus)
        sampling = replace(sampling, width=corpus.width, height=corpus.height)
    return open_images(spec.image_set, sampling, spec.missing_captions)


def open_source(
    spec: DataSpec,
    teacher: Teacher | None,
    options: BatchOptions,
    encoders: Encoders | None,
    *,
    quiet: bool = False,
) -> ClipFolder | ShardSet | CachedClips:
    """Clips, shards, or their cache, which is brought up to date first.

    What of the captions is left out is told here, before anything is encoded or trained, once for all processes.
    """
    sampling = spec.sampling or teacher_sampling(teacher)
    source: ClipFolder | ShardSet
    if spec.clips is not None:
        source = ClipFolder.scan(spec.clips, sampling, spec.missing_captions)
    elif spec.shards is not None:
        source = ShardSet.scan(spec.shards, sampling, None if spec.cache is None else spec.cache / "shards")
    else:
        assert spec.cache is not None
        cached = CachedClips.open(spec.cache, None if encoders is None else encoders.identity)
        _tell(cached, spec, quiet)
        return cached
    _tell(source, spec, quiet)
    if spec.cache is None:
        return source
    if encoders is None:
        raise ValueError(f"{_where(spec)} cannot be cached: there are no encoders. Give --vae and --text-encoder.")
    out, identity = spec.cache, encoders.identity

    def build() -> None:
        report = cache.build(source, sampling, encoders, out, takes=spec.takes, seed=options.seed)
        print(report.summary(len(source) + len(source.left_out.reasons)))

    by_one_process(build)
    return CachedClips.open(out, identity)


def _tell(source: CaptionedSource, spec: DataSpec, quiet: bool) -> None:
    """Once a run, by the first of its processes."""
    if _is_first() and not quiet:
        print(told_before(source, _where(spec)), flush=True)


def _is_first() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def _without_effect(spec: DataSpec) -> str:
    """What the sampling asks of films that are not read: those of a corpus and of a cache alone were read before."""
    asked = spec.sampling
    if asked is None or spec.clips or spec.shards or not (asked.stride or asked.crop_area < 1.0):
        return ""
    return f"{_where(spec)}: its clips were read before, so that frame stride and crop area have no effect on them."


def teacher_sampling(teacher: Teacher | None) -> FrameSampling:
    """Frames, rate and size of the clips that a teacher was trained on."""
    if teacher is None:
        return FrameSampling()
    return FrameSampling(
        frames=teacher.settings.frames,
        fps=teacher.settings.fps,
        width=teacher.settings.width,
        height=teacher.settings.height,
    )


def caption_vocabulary(spec: DataSpec) -> Tensor:
    """Sorted CLIP ids of all words in the data's captions: the vocabulary of a text encoder trained on it.

    Raises:
        FileNotFoundError: as in `open_batches`; so for ValueError.
    """
    if spec.corpus is not None:
        return Corpus.open(spec.corpus).vocabulary()
    return vocabulary_of(sorted(set(all_captions(spec))))


def all_captions(spec: DataSpec) -> Sequence[str]:
    """The captions of clips, shards or a cache, at most `VOCABULARY_CAPTIONS`."""
    if spec.clips is None and spec.shards is None:
        assert spec.cache is not None
        return [entry["caption"] for entry in CachedClips.open(spec.cache).entries][:VOCABULARY_CAPTIONS]
    source: EncodableSource = open_source(  # type: ignore[assignment]
        replace(spec, cache=None), None, BatchOptions(), None, quiet=True
    )
    return _readable(source)


def _readable(source: EncodableSource) -> list[str]:
    found = []
    for index in range(min(len(source), VOCABULARY_CAPTIONS)):
        try:
            found.append(source.caption(index))
        except BrokenSampleError:  # counted and named when it is read
            continue
    return found


def _where(spec: DataSpec) -> str:
    return str(spec.clips or spec.shards or spec.cache or spec.corpus)


def _encoders(
    spec: DataSpec,
    teacher: Teacher | None,
    autoencoder: nn.Module | None,
    device: torch.device | str,
    options: BatchOptions,
) -> Encoders | None:
    if spec.vae is not None and spec.text_encoder is not None:
        return Encoders.stable_diffusion(spec.vae, spec.text_encoder, device)
    if teacher is not None and teacher.autoencoder is not None and teacher.text is not None:
        return Encoders.of_teacher(teacher, device)
    if spec.clips is None and spec.shards is None and spec.corpus is None:
        return None  # a cache has its own embeddings
    if autoencoder is not None and options.ids:
        return Encoders.of(autoencoder, NoText(), device)
    name = "these clips" if teacher is None else teacher.file
    raise ValueError(
        f"{name} came without encoders, and {_where(spec)} are pixels. Give Stable Diffusion's files (--vae FILE "
        "--text-encoder FILE), or a cache that was made with them (--cache DIR alone)."
    )


def _check_width(context: Tensor, teacher: Teacher, spec: DataSpec) -> None:
    wanted, got = teacher.config.context_dim, context.shape[-1]
    if got != wanted:
        raise ValueError(
            f"{_where(spec)}: its text is {got} wide; {teacher.file} takes {wanted}. Use the text encoder "
            "that the teacher was trained with."
        )
