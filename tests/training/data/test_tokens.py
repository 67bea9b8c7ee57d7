"""CLIP's tokens: how many a text has, and where it is cut."""

import pytest

from training.data.tokens import LENGTH, token_counts, tokenize
from videolcm_core.networks.text_encoder import END, START


@pytest.mark.parametrize(("words", "count"), [(0, 2), (1, 3), (75, 77), (76, 78), (200, 202)])
def test_tokens_are_counted_before_they_are_cut(words, count):
    text = " ".join(["horse"] * words)
    assert token_counts([text, ""]) == [count, 2]
    ids = tokenize([text])[0].tolist()
    assert ids[0] == START and ids[min(count, LENGTH) - 1] == END and len(ids) == LENGTH
    assert (token_counts([text])[0] > LENGTH) == (words > LENGTH - 2)
