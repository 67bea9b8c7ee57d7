"""The report fills marked sections and computes its ratios."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from training.mini import control as evaluate_control
from training.mini import report


def test_a_section_is_replaced_and_can_be_replaced_again(tmp_path):
    path = tmp_path / "a.md"
    path.write_text("top\n<!-- results -->\nold\n<!-- /results -->\nend\n")
    report.replace_section(path, "results", r"new \1")
    report.replace_section(path, "results", "newer")
    assert path.read_text() == "top\n<!-- results -->\nnewer\n<!-- /results -->\nend\n"
    with pytest.raises(ValueError, match="credits"):
        report.replace_section(path, "credits", "x")


def document(folder):
    """What an evaluation wrote, in small."""
    from PIL import Image

    rows = {
        "real": {"values": {"all": [1.0, 1.0, 1.0]}},
        "student@4": {"steps": 4, "network_calls": 4, "values": {"fvd": [120.0, 110.0, 130.0]}},
        "student@8": {"steps": 8, "network_calls": 8, "values": {"fvd": [110.0, 100.0, 120.0]}},
        "other@4": {"steps": 4, "network_calls": 4, "values": {"fvd": [130.0, 120.0, 140.0]}},
    }
    rows = {n: {"model": n.split("@")[0], "sampler": "lcm", **r} if "@" in n else r for n, r in rows.items()}
    ratios = {
        "fvd: student@4 / teacher@4 cfg 3": [0.3, 0.25, 0.35],
        "fvd: student@8 / teacher@4 cfg 3": [0.2, 0.1, 0.3],
    }
    found = {"rows": rows, "ratios": ratios, "protocol": {"clips a cell": 512, "seeds": "0 to 511"}}
    (folder / "results.json").write_text(json.dumps(found))
    (folder / "fvd.svg").write_text("<svg/>")
    for name in rows:
        Image.new("RGB", (8, 8)).save(folder / f"{name}.png")


def test_quality_is_put_into_both_files(tmp_path):
    evaluation, root = tmp_path / "evaluation", tmp_path / "root"
    (root / "models").mkdir(parents=True)
    (root / "docs").mkdir()
    evaluation.mkdir()
    document(evaluation)
    (root / "docs" / "results.md").write_text("a\n<!-- guidance -->\nold\n<!-- /guidance -->\nb\n")
    (root / "models" / "README.md").write_text("no such section\n")
    report.main(["--evaluation", f"guidance={evaluation}", "--root", str(root)])
    text = (root / "docs" / "results.md").read_text()
    assert "| student@4 | 4 | 120 ± 10 | - |" in text and "clips a cell: 512; seeds: 0 to 511" in text
    assert "| student@4 / teacher@4 cfg 3, FVD | 0.30 | 0.25 to 0.35 |" in text and "student@8 /" not in text
    assert "(guidance_fvd.svg)" in text and "(guidance_student_4.jpg)" in text and "old" not in text
    # Real clips and the pictures of other networks are not repeated in further sections.
    assert sorted(p.name for p in (root / "docs").iterdir()) == [
        "guidance_fvd.svg",
        "guidance_student_4.jpg",
        "results.md",
    ]
    assert (root / "models" / "README.md").read_text() == "no such section\n"
    (root / "docs" / "results.md").write_text("<!-- depth --><!-- /depth -->")
    report.main(["--evaluation", f"depth={evaluation}", "--root", str(root)])
    assert "(guidance_student_4.jpg)" in (root / "docs" / "results.md").read_text(), (
        "the same picture is not kept twice"
    )
    assert not (root / "docs" / "depth_student_4.jpg").exists()


def test_obedience_compares_steps_and_teacher():
    def row(value):
        return {"edge F1": [value, value - 0.01, value + 0.02]}

    rows = {"student@1": row(0.4), "student@4": row(0.5), "teacher@50 cfg 3": row(0.8)}
    assert "| sketch: edge F1 (more is better) | 0.80 | 0.62 |" in report.obedience({"sketch": rows})
    table = evaluate_control.tables({"sketch": rows})
    assert "| student@4 | 0.500 ± 0.015 |" in table and "| sketch | edge F1 (more is better) |" in table


def test_the_best_guidance_follows_the_measures_direction():
    scores = {1.5: 0.2, 3.0: 0.7}

    def chosen(name):
        return evaluate_control.best_cfg(lambda cfg: torch.tensor([scores[cfg]]), lambda v: v, [1.5, 3.0], name)

    assert chosen("edge F1") == 3.0 and chosen("log depth error") == 1.5


def test_the_tables_command_says_what_it_lacks(tmp_path):
    script = tmp_path / "scripts" / "tables.sh"
    script.parent.mkdir()
    shutil.copy(Path(report.__file__).parents[2] / "scripts" / "tables.sh", script)
    for table, told in (("speed", "allowed: steps, depth"), ("", "no table"), ("steps", "training.mini.corpus")):
        done = subprocess.run([script, table], capture_output=True, text=True)
        assert done.returncode == 1 and told in done.stderr
