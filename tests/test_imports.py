"""The direction of imports: nodes -> videolcm_core <- training, and the host only in nodes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import setup

ROOT = setup.ROOT
HOST_MODULES = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview", "server"}
HEAVY = {"accelerate", "cv2", "diffusers", "kornia", "matplotlib", "moderngl", "peft", "scipy", "transformers"}
CORE_MAY_IMPORT = {"av", "cv2", "diffusers", "einops", "numpy", "PIL", "safetensors", "torch"}


def modules_in(path: Path, top_level_only: bool = False) -> set[str]:
    """Modules that a file imports, relative ones as absolute names from the repository's root."""
    tree = ast.parse(path.read_text())
    lazy = (
        {
            inner
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.If)
            for inner in ast.walk(node)
        }
        if top_level_only
        else set()
    )
    package = path.relative_to(ROOT).parts[:-1]
    found = set()
    for node in ast.walk(tree):
        if node in lazy:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module))
        elif isinstance(node, ast.ImportFrom):
            parent = ".".join(package[: len(package) - node.level + 1])
            base = ".".join(filter(None, (parent, node.module)))
            found |= {base} if node.module else {".".join(filter(None, (base, alias.name))) for alias in node.names}
    return found


def roots(modules: set[str]) -> set[str]:
    return {module.split(".")[0] for module in modules}


def files(folder: str) -> list[Path]:
    found = sorted((ROOT / folder).rglob("*.py"))
    assert found, folder
    return found


def test_core_imports_only_its_own_and_three_libraries():
    for path in files("videolcm_core"):
        others = roots(modules_in(path)) - set(sys.stdlib_module_names) - {"videolcm_core"}
        assert others <= CORE_MAY_IMPORT, path


def test_core_uses_relative_imports():
    """In the host the pack's folder can have any name, so `import videolcm_core` would not be found there."""
    for path in files("videolcm_core"):
        absolute = [
            node.module
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module
        ]
        assert not [module for module in absolute if module.split(".")[0] == "videolcm_core"], path


def test_training_never_meets_the_host():
    for path in files("training"):
        assert not roots(modules_in(path)) & (HOST_MODULES | {"nodes"}), path


def test_the_trainer_knows_nothing_of_the_embedded_family():
    """`training/mini` imports the trainer and is never imported by it; the old commands' stubs run it by its name."""
    for path in files("training"):
        if "mini" not in path.relative_to(ROOT).parts:
            found = {m for m in modules_in(path) if m == "training.mini" or m.startswith("training.mini.")}
            assert not found, (path, found)


def test_the_engine_knows_no_method_and_no_family():
    allowed = {"training.methods.method"}
    for path in files("training/engine"):
        found = {m for m in modules_in(path) if m.startswith("training.methods") and m != "training.methods"}
        assert found <= allowed, (path, found)
        if path.name != "costs.py":  # counts the operations of a network that it builds
            assert not {m for m in modules_in(path) if "networks" in m or "families" in m}, path


def test_a_method_knows_no_other():
    methods = [
        p
        for p in files("training/methods")
        if p.parent.name == "methods" and p.name not in ("__init__.py", "method.py")
    ]
    assert methods
    for path in methods:
        others = {f"training.methods.{other.stem}" for other in methods if other != path}
        assert not modules_in(path) & others, path


def test_nodes_never_meet_training():
    for path in files("nodes"):
        assert "training" not in roots(modules_in(path)), path


def test_one_file_imports_the_hosts_internals():
    for path in files("nodes"):
        if path != ROOT / "nodes" / "host.py":
            host = {module for module in modules_in(path) if module.split(".")[0] in HOST_MODULES}
            assert host <= {"comfy_api.latest"}, path


@pytest.mark.parametrize("folder", ["nodes", "videolcm_core"])
def test_heavy_libraries_are_imported_where_they_are_used(folder):
    for path in files(folder):
        assert not roots(modules_in(path, top_level_only=True)) & HEAVY, path


def test_pack_root_imports_nothing():
    """Without a host, pytest and the type checker must be able to import the root."""
    assert modules_in(ROOT / "__init__.py", top_level_only=True) <= {"__future__"}


def test_importing_the_core_brings_no_heavy_library():
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files("videolcm_core")]
    code = f"import importlib, sys; [importlib.import_module(name) for name in {modules}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not roots(set(done.stdout.split())) & (HEAVY | HOST_MODULES)
