"""The page is one file: it asks nobody for anything, shows text as text, and can be read in light, dark and narrow."""

import re

import pytest

from recbole_msr.errors import InputError
from recbole_msr.report.html.colours import colours, contrast
from recbole_msr.report.html.page import Page, facts, heat_map, note, table, text

EVIL = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\"> & 'so'"


def everything(scripts=False):
    page = Page(EVIL, EVIL, scripts)
    page.section(
        EVIL,
        EVIL,
        heat_map([EVIL, "b"], ["c", EVIL], [[0.0, None], [0.5, 1.0]], caption=EVIL, corner=EVIL),
        table([EVIL, "n"], [[EVIL, 1.5], ["b", None]], caption=EVIL),
        facts({EVIL: EVIL}),
        note(EVIL),
        text(EVIL),
        text(EVIL, heading=EVIL),
    )
    page.section("Wide", heat_map(["r"], [f"scenario {i}" for i in range(40)], [[i / 40 for i in range(40)]]))
    return page


def emulate(browser, mode, width=1200):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": mode}]}
    )
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )


def test_all_text_is_escaped():
    html = everything().render()
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("&lt;script&gt;") >= 19, "so often it is shown"


def test_the_page_names_no_other_place():
    html = everything(scripts=True).render()
    assert not re.search(r"https?:|//\w|@import|url\(|src=[\"']?(?!x )", html.replace("&#34;", ""))
    assert "default-src 'none'" in html


@pytest.mark.parametrize("scripts", [False, True])
def test_a_browser_shows_it_without_a_complaint(scripts, browser, tmp_path):
    everything(scripts).write(tmp_path / "page.html")
    browser.get((tmp_path / "page.html").as_uri())
    assert browser.title == EVIL, "the text is shown, and nothing in it is run"
    assert browser.find_element("tag name", "h1").text == EVIL
    assert browser.get_log("browser") == []


def test_a_script_that_got_in_would_not_run(browser, tmp_path):
    html = Page("quiet").render().replace("</body>", "<script>document.title='x'</script>")
    (tmp_path / "page.html").write_text(html)
    browser.get((tmp_path / "page.html").as_uri())
    assert browser.title == "quiet"
    assert any("Content Security Policy" in line["message"] for line in browser.get_log("browser"))


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_every_cell_can_be_read(mode, browser, tmp_path):
    """The colours that a browser computes, against WCAG's formula."""
    page = Page("colours")
    line = [i / 10 for i in range(11)]
    page.section("s", heat_map(["r"], list(map(str, line)), [line]))
    page.section("d", heat_map(["r"], list(map(str, line)), [[2 * v - 1 for v in line]], scale="diverging"))
    page.write(tmp_path / "page.html")
    emulate(browser, mode)
    browser.get((tmp_path / "page.html").as_uri())
    body = browser.find_element("tag name", "body").value_of_css_property("background-color")
    assert ("255, 255, 255" in body) == (mode == "light")
    cells = browser.find_elements("css selector", ".heat td")
    assert len(cells) == 22
    found = [[c.value_of_css_property(key) for key in ("color", "background-color")] for c in cells]

    def luminance(colour):
        rgb = [int(v) / 255 for v in re.findall(r"\d+", colour)[:3]]
        r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b

    for ink, paper in found:
        dark, light = sorted([luminance(ink), luminance(paper)])
        assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, paper)
    assert len({paper for _, paper in found}) == 22, "no two steps look alike"


def test_contrast_is_that_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#777777") == 1
    assert contrast("#0000ff", "#ffffff") == pytest.approx(8.592, abs=1e-3)
    assert len(colours("diverging", dark=True)) == 11


def test_a_narrow_window_scrolls_inside_its_tables_only(browser, tmp_path):
    everything().write(tmp_path / "page.html")
    emulate(browser, "light", 400)
    browser.get((tmp_path / "page.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 400
    scrolls = "return [...document.querySelectorAll('.scroll')].map(e => e.scrollWidth > e.clientWidth)"
    assert browser.execute_script(scrolls)[-1], "the wide table is all there"


def classes(markup):
    return re.findall(r'<td class="(\w+)">(.*?)</td>', str(markup))


def test_a_heat_map_prints_numbers_on_their_colours():
    shown = classes(heat_map(["a"], list("bcdef"), [[2.0, 3.0, 7.0, None, float("nan")]], show="{:.1f}".format))
    assert shown == [("s0", "2.0"), ("s2", "3.0"), ("s10", "7.0"), ("none", "–"), ("none", "–")]  # noqa: RUF001


def test_a_scale_may_have_its_ends_given_and_may_be_about_zero():
    line = [[-0.2, 0.0, 0.4]]
    assert [c for c, _ in classes(heat_map(["a"], list("bcd"), line, low=0.0, high=0.8))] == ["s0", "s0", "s5"]
    assert [c for c, _ in classes(heat_map(["a"], list("bcd"), line, scale="diverging"))] == ["d2", "d5", "d10"]
    assert [c for c, _ in classes(heat_map(["a"], list("bc"), [[3.0, 3.0]]))] == ["s5", "s5"]


@pytest.mark.parametrize(
    ("values", "scale", "told"),
    [([[1.0]], "sequential", "1 x 2"), ([[1.0, 2.0]] * 2, "sequential", "1 x 2"), ([[1.0, 2.0]], "hot", "'hot'")],
)
def test_what_is_no_heat_map_is_refused(values, scale, told):
    with pytest.raises(ValueError, match=told):
        heat_map(["a"], ["b", "c"], values, scale=scale)


def test_a_page_that_cannot_be_written_is_bad_input(tmp_path):
    with pytest.raises(InputError, match=r"page .*missing.page.html cannot be written: No such file"):
        Page("p").write(tmp_path / "missing" / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_text_that_is_no_utf8_is_no_reason_to_have_no_page(tmp_path):
    page = Page("p")
    page.section("s", text("a\udc80b\x00"))
    page.write(tmp_path / "page.html")
    assert "a\\udc80b" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_table_has_fewer_digits_of_large_numbers():
    html = table(["n", "x"], [["a", 53086.0435], ["b", 999.5], ["c", -1234.56], ["d", 1000]])
    for shown in ("53,086.0", "999.5000", "-1,234.6", "1,000"):
        assert f">{shown}<" in html
