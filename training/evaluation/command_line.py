"""The options of ``training.evaluate``: networks, measures and their files."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from ..data.corpus import Corpus
from .measures import MEASURES, Measure, with_judges

TEACHER = Path("models/videolcm-mini-teacher.safetensors")
STEPS = "1,2,4,6,8,25,50"


def networks(options: argparse.Namespace) -> dict[str, Path]:
    """Files by name.

    Raises:
        ValueError: a name is given twice.
    """
    found = {"teacher": options.teacher}
    for word in options.student:
        name, equals, path = word.partition("=")
        name, path = (name, path) if equals else ("student", word)
        if name in found:
            raise ValueError(f"two files are named {name!r}; give each another name: --student NAME=FILE.")
        found[name] = Path(path)
    return found


def reference_corpora(options: argparse.Namespace) -> dict[str, Path]:
    """Folders of ``--reference-corpus`` by name.

    Raises:
        ValueError: one has no name, the name of another, or one that is no word; or the distances have no reference.
    """
    found: dict[str, Path] = {}
    for word in options.reference_corpus:
        name, equals, path = word.partition("=")
        if not equals or not re.fullmatch(r"[a-z][a-z0-9-]*", name) or name in found or name == "latent":
            raise ValueError(
                f"--reference-corpus is {word!r}; allowed: NAME=DIR, the names different words of small letters and "
                "not latent, for example degraded=runs/mcm/clips."
            )
        found[name] = Path(path)
    if found and (options.corpus is None or options.prompts is not None):
        raise ValueError("--reference-corpus adds to the real clips of --corpus; give --corpus, and no --prompts.")
    return found


def weights_options(parser: argparse.ArgumentParser, measures: dict[str, Measure]) -> None:
    """An option for the file of each measure's network."""
    for measure in {m.weights: m for m in measures.values() if m.weights}.values():
        what = f"from {measure.origin} (default {measure.default})"
        parser.add_argument(f"--{measure.weights}", type=Path, default=measure.default, help=what)


def chosen_measures(arguments: list[str] | None) -> dict[str, Measure]:
    """The measures that a command line may name: those of any video, and those of the corpus's judges."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--corpus", type=Path)
    corpus = first.parse_known_args(arguments)[0].corpus
    return MEASURES if corpus is None else with_judges(Corpus.open(corpus).judges)


def parse(arguments: list[str] | None, text: str | None) -> argparse.Namespace:
    """The options of ``training.evaluate``, checked against each other.

    Args:
        arguments: of the command line; None takes the program's.
        text: what the command says of itself.

    Raises:
        ValueError: options that do not go together.
    """
    measures = chosen_measures(arguments)
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="rendered corpus: its held-out captions and real clips")
    parser.add_argument(
        "--reference-corpus",
        nargs="+",
        default=[],
        metavar="NAME=DIR",
        help="further corpora whose clips the distances are to, each in columns of its name; the name of --corpus's "
        "own columns where DIR is that one. Of corpora of single frames FID alone",
    )
    parser.add_argument(
        "--baseline", metavar="NETWORK", help="whose distances the others' are divided by, step by step"
    )
    parser.add_argument("--cache", type=Path, help="folder of clips and features, shared by tables (default: --out)")
    parser.add_argument("--prompts", type=Path, help="texts of your own, one a line or JSON, in place of the captions")
    parser.add_argument("--vae", type=Path, help="Stable Diffusion's, for networks that came without")
    parser.add_argument("--text-encoder", type=Path, help="OpenCLIP's, for networks that came without")
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation"))
    parser.add_argument("--teacher", type=Path, default=TEACHER)
    parser.add_argument(
        "--student",
        nargs="+",
        default=["models/videolcm-mini.safetensors"],
        metavar="NAME=FILE",
        help="any further networks; a FILE without name is called student",
    )
    parser.add_argument(
        "--parts",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="complete running checkpoints (.pt): text encoder and autoencoder of the first file that has one "
        "(default: --teacher, then the shipped teacher)",
    )
    parser.add_argument("--cells", nargs="+", metavar="NETWORK:SAMPLER:STEPS[:CFG]", help="default: every network")
    parser.add_argument("--given", nargs="*", default=[], metavar="CONDITION", help="for example depth")
    parser.add_argument("--clips", type=int, default=512)
    parser.add_argument("--reference", type=int, default=0, help="real clips to compare with (default: all held-out)")
    parser.add_argument("--cfg", type=float, nargs="+", default=[1.5, 3.0], help="guidance of guided samplers")
    parser.add_argument("--cfg-clips", type=int, default=64, help="clips that choose it when several are given")
    known = "; ".join(f"{n}: {m.title}" for n, m in measures.items())
    parser.add_argument(
        "--metrics",
        nargs="+",
        choices=list(measures),
        help=f"default: fvd, agreement, flicker where they can be. {known}",
    )
    parser.add_argument("--feature-dtype", choices=["float32", "bfloat16"], default="float32", help="of the I3D")
    parser.add_argument("--workers", type=int, default=1, help="processes; the numbers do not depend on it")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--device", default="cpu", help="of the sampled networks; cuda wants --workers 1")
    weights_options(parser, measures)
    options = parser.parse_args(arguments)
    if options.cells is None:
        teacher = [f"teacher:{sampler}:{STEPS}" for sampler in ("ddim", "ddim-trailing", "dpm++")]
        options.cells = teacher + [f"{name}:lcm:{STEPS}" for name in list(networks(options))[1:]]
    options.parts = options.parts or [options.teacher, TEACHER]
    if options.corpus is None and options.prompts is None:
        raise ValueError("what to ask for is not said; allowed: --corpus DIR, --prompts FILE, or both. Give one.")
    if (options.vae is None) != (options.text_encoder is None):
        raise ValueError("--vae and --text-encoder belong together. Give both, or neither.")
    if options.baseline is not None and options.baseline not in networks(options):
        raise ValueError(
            f"--baseline is {options.baseline!r}; allowed: {', '.join(networks(options))}. Name one of the networks."
        )
    own = options.prompts is not None
    wanted = ["flicker"] if own else ["fvd", "agreement", "flicker"]
    options.metrics = options.metrics or [name for name in wanted if name in measures]
    if own and (needing := [n for n in options.metrics if n.startswith(("fvd", "fid"))]):
        raise ValueError(
            f"{', '.join(needing)} compare with real clips, and your own prompts have none; allowed with --prompts: "
            "flicker, warping, diversity, clipsim. Leave them out, or leave --prompts out."
        )
    if "agreement" not in measures or own:
        options.cfg = options.cfg[:1]  # nothing could choose between several
    return options


def weights_of(options: argparse.Namespace, measures: dict[str, Measure]) -> dict[str, Path]:
    """Files of the measures in use.

    Raises:
        FileNotFoundError: one is missing; the message says how to get it.
    """
    # The judges also choose the guidance.
    choosing = ["agreement"] if len(options.cfg) > 1 else []
    found = {}
    for name in [*options.metrics, *choosing]:
        if weights := measures[name].weights:
            path = getattr(options, weights)
            if not path.exists():
                raise FileNotFoundError(
                    f"{name} needs {path}, which is missing: get it with {measures[name].origin}, name another place "
                    f"with --{weights}, or leave {name} out of --metrics."
                )
            found[weights] = path
    return found
