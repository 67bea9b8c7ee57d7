"""The report fills marked sections and computes its ratios."""

import pytest

from training import evaluate, report


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
