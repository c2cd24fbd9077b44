"""Prompts longer than an encoder's window: read in windows at the items' borders, none lost, pooled by length."""

import numpy as np
import pytest

from recbole_msr.cli import main
from recbole_msr.errors import InputError
from recbole_msr.prompts.build import build_prompts
from recbole_msr.prompts.encoders.random import RandomEncoder
from recbole_msr.prompts.store import Knowledge
from recbole_msr.prompts.template import Template
from recbole_msr.prompts.windows import BREAK, WindowedEncoder
from tests.prompts.test_knowledge_commands import BINS, TASKS


def titles_of(text):
    """The titles in a text of the template below, in order."""
    return [line[2:] for line in text.splitlines() if line.startswith("* ")]


@pytest.fixture
def listing(tmp_path):
    path = tmp_path / "listing.yaml"
    path.write_text(
        "version: 1\nlimits: {items: 4}\nlanguages:\n  en:\n"
        "    user: |\n      {% for part in history %}\n      {{ part.name }} {{ part.likings }}\n"
        "      {% for item in part.liked %}\n      * {{ item.title }}\n      {% endfor %}\n      {% endfor %}\n"
        "    scenario: |\n      {{ scenario.name }}\n      {% for item in scenario.liked %}\n      * {{ item.title }}\n"
        "      {% endfor %}\n"
    )
    return str(path)


@pytest.mark.parametrize("window", [12, 17, 40, 500])
def test_every_item_is_in_one_window_and_no_window_could_take_the_next_one(facts, listing, window):
    template, encoder = Template.load(listing), RandomEncoder(size=4)
    whole = build_prompts(facts, template, "user", encoder, all_items=True)
    cut = build_prompts(facts, template, "user", encoder, window, long_prompts="windows", all_items=True)
    several, n_windows = 0, 0
    for row, (text, complete) in enumerate(zip(cut.texts, whole.texts, strict=True)):
        windows = text.split(BREAK)
        several, n_windows = several + (len(windows) > 1), n_windows + len(windows)
        # A window lists its items by scenario: put together they are the likings, newest first, in runs.
        assert sorted(t for w in windows for t in titles_of(w)) == sorted(titles_of(complete))
        sizes = [len(titles_of(w)) for w in windows]
        newest = [item.title for part in facts.history(row, sizes[0]) for item in part.liked]
        assert titles_of(windows[0]) == newest
        for number, w in enumerate(windows):
            assert len(w.split()) <= window
            if number + 1 < len(windows):
                first = sum(sizes[:number])
                history = facts.history(row, sizes[number] + 1, first)
                larger = sum(3 if len(i.title.split()) == 3 else 2 for p in history for i in p.liked)
                larger += sum(1 + 1 + len(p.liked) for p in history)
                assert larger > window, "the next item would have fitted"
        assert cut.lengths[row] == sum(len(w.split()) for w in windows)
    assert n_windows == cut.windows
    assert (several == 0) == (window == 500)
    assert not cut.truncated.any()


def test_scenarios_keep_the_limit_of_the_template(facts, listing):
    template = Template.load(listing)
    made = build_prompts(facts, template, "scenario", RandomEncoder(size=4), 9, long_prompts="windows", all_items=True)
    whole = build_prompts(facts, template, "scenario", RandomEncoder(size=4))
    for text, complete in zip(made.texts, whole.texts, strict=True):
        assert [t for w in text.split(BREAK) for t in titles_of(w)] == titles_of(complete)
        assert len(titles_of(complete)) == 4
        assert len(text.split(BREAK)) > 1


def test_vectors_are_means_weighted_by_length_whatever_the_batch():
    inner = RandomEncoder(size=6)
    texts = [BREAK.join(["a b c", "d", "e f"]), "g h", BREAK.join(["i", "j k l m"])]
    encoder = WindowedEncoder(inner)
    vectors, answers = encoder.encode_with_answers(texts)
    assert answers is None
    assert encoder.lengths(texts).tolist() == [6, 2, 5]
    a, d, e, g, i, j = inner.encode(["a b c", "d", "e f", "g h", "i", "j k l m"]).astype(float)
    expected = [(3 * a + d + 2 * e) / 6, g, (i + 4 * j) / 5]
    np.testing.assert_allclose(vectors, expected, rtol=1e-5)
    np.testing.assert_allclose(encoder.encode(texts[2:]), expected[2:], rtol=1e-5)
    assert encoder.identity != inner.identity


def test_a_window_without_room_for_an_item_is_refused(facts, listing):
    with pytest.raises(InputError, match=r"windows: 3 tokens have no room for a single item in the prompt of user 'u"):
        build_prompts(facts, Template.load(listing), "user", RandomEncoder(size=4), 3, long_prompts="windows")


def test_embed_reads_whole_histories(titled, tmp_path, listing, capsys):
    command = ["embed", "--dataset=tiny", f"--data_path={titled}", BINS, TASKS, f"--knowledge_dir={tmp_path / 'kn'}"]
    command += ["--show_progress=False", "--encoder=random", "--size=6", f"--template={listing}", "--max_tokens=14"]
    command += ["--levels=[user, scenario]", "--name=whole", "--long_prompts=windows"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "user prompts are read in" in out
    assert "windows of at most 14 tokens" in out
    whole = Knowledge.open("whole", tmp_path / "kn")
    texts = whole.texts("user")
    longest = max(range(len(texts)), key=lambda row: texts["prompt"][row].count(BREAK))
    windows = texts["prompt"][longest].split(BREAK)
    vectors, lengths = RandomEncoder(size=6).encode(windows), [len(w.split()) for w in windows]
    expected = np.average(vectors, axis=0, weights=lengths)
    np.testing.assert_allclose(whole.vectors("user")[longest], expected, rtol=1e-2, atol=1e-3)
    assert len(windows) > 1
    assert main(command) == 0
    assert "Nothing to do" in capsys.readouterr().out
    assert main([*command[:-2], "--name=other"]) == 0  # cut, as is the default
    assert "are longer than 14 tokens and are cut at a whole item" in capsys.readouterr().out
    assert Knowledge.open("other", tmp_path / "kn").key != whole.key
