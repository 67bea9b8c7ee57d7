"""What the node registry would get, and what must not be in the repository."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

import setup

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = setup.ROOT
# The registry's scanner marks a version that has any of these, which hides it from users.
FLAGGED = {
    "commands": r"\bsubprocess\b|\bos\.(system|popen|exec\w*|spawn\w*)\b",
    "environment": r"\bos\.(environ|getenv|putenv)\b",
    "network": r"\b(urllib|requests\.|socket\.|http\.client|aiohttp)\b|huggingface\.co/",
    "code from text": r"\b(eval|exec|compile|__import__)\(",
    "unsafe loading": r"weights_only\s*=\s*False|\bpickle\.loads?\(",
    "package installation": r"\bpip install\b|\bensurepip\b",
}
# `torch.compile(`, `module.compile(` and `re.compile(` are no code from text.
HARMLESS = r"\b(torch|re|module)\.compile\("
# Written in parts, so that this file does not contain what it looks for.
MACHINE_PATHS = "|".join(rf"(?<![\w.])/{top}/[\w.]" for top in ("root", "home", "Users", "work", "tmp", "mnt", "data"))
REGISTRY_HOSTS = "|".join(("pypi" + r"\.org", "python" + r"hosted\.org", "registry\\." + "npmjs", "deb\\." + "debian"))


def tracked_files() -> list[Path]:
    """Files in git, and new ones that would be added."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def archive_files() -> list[Path]:
    """The files that publishing would send: tracked ones that .comfyignore does not name."""
    patterns = (ROOT / ".comfyignore").read_text().split()
    # An unanchored pattern would also leave out a folder of the same name deeper down.
    assert all(pattern.startswith("/") and "*" not in pattern for pattern in patterns)
    names = [path.relative_to(ROOT).as_posix() for path in tracked_files()]
    kept = [name for name in names if not any(f"/{name}".startswith(pattern) for pattern in patterns)]
    return [ROOT / name for name in kept]


def text_of(path: Path) -> str:
    """A file's text; nothing for binary files and for the licence."""
    data = path.read_bytes()
    return "" if b"\0" in data or path.name == "LICENSE" else data.decode(errors="replace")


@pytest.mark.parametrize("kind", FLAGGED)
def test_archive_has_nothing_that_the_registry_flags(kind):
    found = []
    for path in archive_files():
        if path.suffix in (".py", ".js"):
            for number, line in enumerate(re.sub(HARMLESS, "", text_of(path)).splitlines(), 1):
                if re.search(FLAGGED[kind], line):
                    found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []


def test_flagged_patterns_are_recognised():
    lines = {
        "commands": "import subprocess",
        "environment": "os.environ['A']",
        "network": "from urllib.request import urlopen",
        "code from text": "model.eval()",
        "unsafe loading": "torch.load(path, weights_only=False)",
        "package installation": "pip install torch",
    }
    assert all(re.search(FLAGGED[kind], line) for kind, line in lines.items())


def test_archive_has_what_users_need_and_nothing_else():
    names = {path.relative_to(ROOT).as_posix() for path in archive_files()}
    assert {"__init__.py", "LICENSE", "pyproject.toml", "requirements.txt", "README.md"} <= names
    folders = {name.split("/")[0] for name in names if "/" in name}
    assert {"nodes", "videolcm_core", "workflows", "subgraphs", "models", "docs", "locales"} <= folders
    assert not folders & {"tests", "scripts", "benchmarks", "training", ".ci", ".github"}


def test_no_file_is_too_large():
    assert [path for path in tracked_files() if path.stat().st_size > 20 * 2**20] == []


def test_no_machine_paths_or_registry_hosts():
    found = []
    for path in tracked_files():
        for number, line in enumerate(text_of(path).splitlines(), 1):
            if path != Path(__file__) and re.search(f"{MACHINE_PATHS}|{REGISTRY_HOSTS}", line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert found == []


OPENERS = {"open": 1, "fdopen": 1, "NamedTemporaryFile": 0, "TemporaryFile": 0, "SpooledTemporaryFile": 1}
ALWAYS_TEXT = {"read_text": 0, "write_text": 1, "TextIOWrapper": 1, "FileHandler": 2}
RUNNERS = ("run", "Popen", "check_output", "call", "check_call")


def texts_without_encoding(source: str) -> list[int]:
    """Lines that read or write text in whatever encoding the system has: cp1252 on many a Windows."""
    tree = ast.parse(source)
    imported = {
        (name.asname or name.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        method = isinstance(node.func, ast.Attribute)
        name = node.func.attr if method else getattr(node.func, "id", "")
        owner = getattr(node.func.value, "id", "") if method else ""
        given = {k.arg: k.value for k in node.keywords}
        if "encoding" in given or None in given:
            continue
        if name in RUNNERS and any(
            isinstance(given.get(k), ast.Constant) and given[k].value for k in ("text", "universal_newlines")
        ):
            found.append(node.lineno)
        elif name in ALWAYS_TEXT and len(node.args) <= ALWAYS_TEXT[name]:
            found.append(node.lineno)
        elif name in OPENERS:
            # `path.open(mode)`; `av.open`, `tarfile.open` and a class's own `open` are none of ours.
            path = method and name == "open" and owner not in imported and not owner[:1].isupper() and owner != "cls"
            foreign = method and name == "open" and not path and owner not in ("io", "gzip", "bz2", "lzma")
            if foreign:
                continue
            at = 0 if path else OPENERS[name]
            mode = given.get("mode", node.args[at] if len(node.args) > at else None)
            default = "w+b" if "Temporary" in name else "rb" if owner in ("gzip", "bz2", "lzma") else "r"
            value = default if mode is None else getattr(mode, "value", "?")
            binary = isinstance(value, str) and (
                "b" in value or (owner in ("gzip", "bz2", "lzma") and "t" not in value)
            )
            if not binary:
                found.append(node.lineno)
    return found


@pytest.mark.parametrize("folder", ["training", "videolcm_core", "nodes", "scripts", "benchmarks"])
def test_every_text_says_its_encoding(folder):
    found = {
        str(path.relative_to(ROOT)): lines
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (lines := texts_without_encoding(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_texts_without_encoding_are_recognised():
    wrong = [
        "open(p)",
        "open(p, 'w')",
        "open(p, mode)",
        "path.open()",
        "path.open('a')",
        "(folder / 'x').open(mode='w')",
        "Path(p).open('r')",
        "path.read_text()",
        "path.write_text('x')",
        "path.with_suffix('.x').write_text(text, errors='replace')",
        "import os\nos.fdopen(1, 'w')",
        "import io\nio.open(p)",
        "import gzip\ngzip.open(p, 'rt')",
        "import tempfile\ntempfile.NamedTemporaryFile('w')",
        "import subprocess\nsubprocess.run(c, text=True)",
        "import subprocess\nsubprocess.Popen(c, universal_newlines=True)",
    ]
    right = [
        "open(p, 'rb')",
        "open(p, encoding='utf-8')",
        "path.open('wb')",
        "path.read_text(encoding='utf-8')",
        "path.read_text('utf-8')",
        "path.write_text('x', 'utf-8')",
        "import av\nav.open(p, 'w')",
        "import gzip\ngzip.open(p)",
        "from PIL import Image\nImage.open(p)",
        "CachedClips.open(folder)",
        "import tempfile\ntempfile.NamedTemporaryFile()",
        "import subprocess\nsubprocess.run(c, text=True, encoding='utf-8')",
        "import subprocess\nsubprocess.run(c)",
    ]
    assert [code for code in wrong if not texts_without_encoding(code)] == []
    assert [code for code in right if texts_without_encoding(code)] == []


def errors_asked_for_truth(source: str) -> list[int]:
    """Lines with ``error or "..."``: an error is always true, whatever it says."""
    found = []
    for handler in ast.walk(ast.parse(source)):
        if isinstance(handler, ast.ExceptHandler) and handler.name:
            for node in ast.walk(handler):
                first = node.values[0] if isinstance(node, ast.BoolOp) else getattr(node, "test", None)
                if isinstance(first, ast.Name) and first.id == handler.name:
                    found.append(node.lineno)
    return found


def test_no_error_is_asked_for_truth():
    code = "try:\n    f()\nexcept OSError as e:\n    print(e or 'x')\n    print(1 if e else 2)\n    print(str(e) or 3)"
    assert errors_asked_for_truth(code) == [4, 5]
    found = {
        str(path.relative_to(ROOT)): lines
        for folder in ("training", "videolcm_core", "nodes", "scripts", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if (lines := errors_asked_for_truth(path.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_pyproject_is_what_the_registry_expects():
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, comfy = document["project"], document["tool"]["comfy"]
    assert re.fullmatch(r"[a-z][a-z0-9-]{0,99}", project["name"]) and "comfy" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert (ROOT / project["license"]["file"]).read_text().lstrip().startswith("GNU GENERAL PUBLIC LICENSE")
    assert (ROOT / project["readme"]).is_file()
    assert comfy["PublisherId"] and comfy["DisplayName"]
    assert re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    # WEB_DIRECTORY serves the files; naming them here too would load every script twice.
    assert "web" not in comfy


def test_requirements_leave_the_hosts_packages_alone():
    required = (ROOT / "requirements.txt").read_text().split()
    assert required == ["opencv-python-headless"]
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"] == required


def test_one_folder_of_templates():
    """The host lists five folder names but serves only the first that exists."""
    names = ("example_workflows", "example", "examples", "workflow", "workflows")
    assert [name for name in names if (ROOT / name).is_dir()] == ["workflows"]


def computed_where_missing(path: Path) -> list[str]:
    """Lines where something is computed because a file is not there, by the file's name alone."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.If):
            continue
        asked = ast.unparse(node.test)
        missing = re.search(r"\bnot\b.*\.(exists|is_file)\(\)", asked)
        there = re.search(r"^[\w.\[\]]+\.(exists|is_file)\(\)$", asked)
        body = [n for part in node.body for n in ast.walk(part)]
        if any(isinstance(n, ast.Raise | ast.Continue) for n in body):
            continue  # an error about it, or nothing to do
        returns_early = (
            there and len(node.body) == 1 and isinstance(node.body[0], ast.Return) and node.body[0].value is None
        )
        if returns_early or (missing and any(isinstance(n, ast.Call) for n in body)):
            found.append(f"{path.relative_to(ROOT)}:{node.lineno}: if {asked}")
    return found


# What a file depends on is in its name or looked at beside: these ask for a file and compute nothing that could be old.
ASKED_FOR = {
    "training/engine/caches.py",
    "training/engine/loop.py",  # a run's own checkpoint, whose identity is checked
}


def test_no_result_is_kept_by_the_name_of_its_file_alone():
    """A kept result is read where all that it depends on is the same: `engine.caches.cached`."""
    found = [
        line
        for path in sorted((ROOT / "training").rglob("*.py"))
        if str(path.relative_to(ROOT)) not in ASKED_FOR
        for line in computed_where_missing(path)
    ]
    assert found == []


def test_results_kept_by_name_are_recognised(tmp_path):
    path = ROOT / "tests" / "support" / "kept_by_name.txt"
    lines = [
        number for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if "# found" in text
    ]
    assert [int(line.split(":")[1]) for line in computed_where_missing(path)] == lines and len(lines) == 3
