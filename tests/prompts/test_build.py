"""Prompts fit the encoder's window: cut at a whole item, at the latest one that fits."""

import re

import numpy as np
import pytest

from recbole_msr.prompts.build import build_prompts
from recbole_msr.prompts.encoders import Encoder
from recbole_msr.prompts.template import Template


class Words(Encoder):
    """Counts words."""

    identity = "words"

    def __init__(self, window):
        self._window = window

    @property
    def window(self):
        return self._window

    def encode_with_answers(self, texts):
        return np.array([[len(text)] for text in texts], dtype=np.float32), None


@pytest.mark.parametrize("window", [40, 50, 60, 90, 10_000])
def test_a_long_prompt_loses_whole_items_and_no_more_than_needed(facts, window):
    template = Template.load("full")
    whole = build_prompts(facts, template, "user")
    cut = build_prompts(facts, template, "user", Words(window))
    assert (cut.lengths <= window).all()
    assert cut.lengths.tolist() == [len(text.split()) for text in cut.texts]
    titles = {facts.item(f"i{i}").title for i in range(30)}
    for row, (text, before) in enumerate(zip(cut.texts, whole.texts, strict=True)):
        assert cut.truncated[row] == (len(before.split()) > window)
        if not cut.truncated[row]:
            assert text == before
            continue
        listed = re.findall(r"(?:first: |; )([^(;]+) \(", text)
        assert set(listed) <= titles  # none is cut in two
        assert listed == re.findall(r"(?:first: |; )([^(;]+) \(", before)[: len(listed)]  # the newest stay
        longer = template.compiled("user").render(
            {"scenarios": facts.scenarios, "tasks": facts.tasks, "liked": facts.liked, "user": None,
             "history": facts.history(row, len(listed) + 1)}
        )  # fmt: skip
        assert len(longer.split()) > window
    assert cut.truncated.any() == (window < 10_000)
    assert cut.within == 0


def test_scenarios_and_items_are_cut_too(facts):
    for level, window in (("scenario", 90), ("item", 16)):
        cut = build_prompts(facts, Template.load("full"), level, Words(window))
        assert (cut.lengths <= window).all()
        assert cut.truncated.any()


def test_what_is_too_long_without_items_is_cut_at_a_word_and_counted(facts):
    cut = build_prompts(facts, Template.load("full"), "user", Words(8))
    assert cut.within == len(cut) == 40
    assert cut.texts[0] == "The history of one user in a recommender"


def test_max_tokens_is_a_lower_limit(facts):
    cut = build_prompts(facts, Template.load("full"), "user", Words(10_000), max_tokens=50)
    assert cut.lengths.max() <= 50


def test_max_items_is_a_choice_and_not_a_cut(facts):
    few = build_prompts(facts, Template.load("brief", max_items=2), "user", Words(10_000))
    assert not few.truncated.any()
    assert max(text.count(";") for text in few.texts) == 1


def test_tokens_are_external_ids(facts):
    assert build_prompts(facts, Template.load("brief"), "scenario").tokens == ["young", "mid", "old"]
    assert sorted(build_prompts(facts, Template.load("brief"), "user").tokens) == sorted(f"u{u}" for u in range(40))
    assert sorted(build_prompts(facts, Template.load("brief"), "item").tokens) == sorted(f"i{i}" for i in range(30))
    assert len(build_prompts(facts, Template.load("brief"), "user", first=3)) == 3
