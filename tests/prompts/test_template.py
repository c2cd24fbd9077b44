"""Templates: those that come along, a user's own, and what is wrong with one."""

import pytest
import yaml

from recbole_msr.errors import InputError
from recbole_msr.prompts.build import build_prompts
from recbole_msr.prompts.template import FOLDER, Template, available


@pytest.mark.parametrize("name", ["brief", "full", "keywords"])
def test_every_variant_fills_every_language_and_level(name, facts):
    assert name in available()
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    for language, levels in content["languages"].items():
        template = Template.load(name, language)
        for level in levels:
            for text in build_prompts(facts, template, level).texts:
                assert text
                assert "\n\n" not in text
                assert "  " not in text


def _own(tmp_path, user="{{ history[0].name }}", **more):
    content = {"version": 3, "languages": {"en": {"user": user}}} | more
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def test_a_users_own_template_by_path(tmp_path, facts):
    template = Template.load(
        _own(tmp_path, "{{ user.gender }}: {% for i in history[0].liked %}{{ i.year }} {% endfor %}")
    )
    assert (template.name, template.version) == ("mine", 3)
    text = build_prompts(facts, template, "user").texts[0]
    assert text.split(":")[0] in ("F", "M")
    assert all(1970 <= int(year) < 2000 for year in text.split()[1:])


def test_an_edited_template_has_another_digest(tmp_path):
    first = Template.load(_own(tmp_path, "a")).digest
    assert Template.load(_own(tmp_path, "b")).digest != first


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "{% for i in history[0].liked %}{{ i.director }}{% endfor %}",
            "no field 'director'.*tiny.item has item_id, movie_title",
        ),
        ("{{ user.incme }}", "no field 'incme'; tiny.user has user_id, age, gender"),
        ("{{ histroy }}", "'histroy' is undefined.*knows history, liked, scenarios, tasks, user"),
        ("{% for x in history %}", "line 1: .*end of template"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% for i in range(10**9) %}{% endfor %}", "Range too big"),
    ],
)
def test_a_text_that_cannot_be_filled_is_told(tmp_path, facts, text, told):
    with pytest.raises(InputError, match=told):
        build_prompts(facts, Template.load(_own(tmp_path, text)), "user")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"verison": 1}, "unknown key 'verison'; did you mean 'version'"),
        ({"version": "one"}, "version must be a whole number, got 'one'"),
        ({"languages": {}}, "languages must be of 1 or more entries"),
        ({"languages": {"en": {}}}, "languages: en must be of 1 or more entries"),
        ({"languages": {"en": {"user": "x"}, False: {"user": "x"}}}, "languages: a key must be text, got False"),
        (
            {"languages": {"en": {"usr": "x"}}},
            "languages: en: .* one of scenario, user, item, got 'usr'; did you mean 'user'",
        ),
        ({"languages": {"en": {"user": ""}}}, "languages: en: user must be text, not empty, got ''"),
        ({"limits": {"itms": 3}}, "limits: unknown key 'itms'; did you mean 'items'.* Known keys: items, categories"),
        ({"limits": {"items": -1}}, "limits: items must be a whole number of at least 0, got -1"),
    ],
)
def test_a_file_that_is_no_template_is_told(tmp_path, content, told):
    with pytest.raises(InputError, match=told):
        Template.load(_own(tmp_path, **content))


def test_what_is_missing_is_named(tmp_path, facts):
    with pytest.raises(InputError, match="no template 'ful'; did you mean 'full'"):
        Template.load("ful")
    with pytest.raises(InputError, match="no language 'fr', only en, zh"):
        Template.load("full", "fr")
    with pytest.raises(InputError, match="no template file"):
        Template.load("there/is/none.yaml")
    with pytest.raises(InputError, match="no item prompt in 'en', only user"):
        build_prompts(facts, Template.load(_own(tmp_path)), "item")
