"""The report fills marked sections and computes its ratios."""

import pytest
import torch

from training import evaluate, evaluate_control, report


def test_a_section_is_replaced_and_can_be_replaced_again(tmp_path):
    path = tmp_path / "a.md"
    path.write_text("top\n<!-- results -->\nold\n<!-- /results -->\nend\n")
    report.replace_section(path, "results", r"new \1")
    report.replace_section(path, "results", "newer")
    assert path.read_text() == "top\n<!-- results -->\nnewer\n<!-- /results -->\nend\n"
    with pytest.raises(ValueError, match="credits"):
        report.replace_section(path, "credits", "x")


def test_the_summary_compares_student_and_teacher():
    row = {"object": 1.0, "motion": 0.5, "place": 1.0}
    results = {
        "teacher@50 cfg 3": {"fvd": 100.0, "fvd_latent": 10.0, "all": 0.9, **row},
        "teacher@4 cfg 3": {"fvd": 400.0, "fvd_latent": 100.0, "all": 0.4, **row},
        "student@4": {"fvd": 120.0, "fvd_latent": 20.0, "all": 0.85, **row},
    }
    text = report.summary(results)
    assert "0.30 times" in text and "1.20 times" in text and "0.20 and 2.00" in text and "-5 points" in text
    assert "| student@4 | 120 | 20 | 100 % | 50 % | 100 % | 85 % |" in evaluate.table(results)


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
