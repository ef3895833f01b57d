"""HTML pages of the reports: nothing is loaded, everything is escaped, equal values have equal bytes."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jobs.evaluation.reports.html.page import FOLDER, is_number_column
from tests.support.evaluations import render_random_evaluation

HOSTILE = [
    "</script><script>alert('a text')</script>", "<!-- <img src=x onerror=alert(2)>", "{{ 7 * 7 }} {% raw %}",
    '"><b onclick="alert(3)">',
]  # fmt: skip

LABELS = ["<u>label</u>", "</title>", "c"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run") / "checkpoint"


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return render_random_evaluation(folder, LABELS, texts=HOSTILE)


def read_tags(page: str) -> list[tuple[str, dict[str, str]]]:
    """Return the start tags of a page, with their attributes."""
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append((tag, dict(attributes)))
    parser.feed(page)
    return tags


def test_texts_and_labels_are_escaped(page: str) -> None:
    """The tags of the page are those of its templates."""
    assert page.count("<script>") == page.count("</script>") == 1
    for tag in ("<img", "<b ", "<u>", "<!--"):
        assert tag not in page
    assert "&lt;/script&gt;&lt;script&gt;alert(&#39;a text&#39;)" in re.sub("</?mark>", "", page)
    assert "{{ 7 * 7 }} {% raw %}" in re.sub("</?mark>", "", page)
    assert "&lt;u&gt;label&lt;/u&gt;" in page


def test_nothing_is_loaded_and_the_policy_allows_only_the_pages_own_style_and_script(page: str) -> None:
    tags = read_tags(page)
    assert not re.search(r"@import|url\(|https?:", page)
    assert not [name for _, attributes in tags for name in attributes if name in ("src", "style") or name[:2] == "on"]
    links = {attributes["href"] for _, attributes in tags if "href" in attributes}
    assert {link for link in links if link[0] != "#"} == {"data:,"}  # a page that is shared alone has no dead link
    assert all(f"{name}.csv in the folder of the report" in page for name in ("predictions", "confusions"))
    [policy] = [attributes["content"] for _, attributes in tags if "http-equiv" in attributes]
    assert policy.startswith("default-src 'none';")
    for tag in ("style", "script"):
        [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_the_same_values_have_the_same_bytes(page: str, folder: Path) -> None:
    assert render_random_evaluation(folder, LABELS, texts=HOSTILE) == page


def test_the_style_and_the_script_do_not_end_their_element() -> None:
    for name in ("report.css", "report.js"):
        assert "</" not in (FOLDER / name).read_text()


def test_columns_of_numbers_are_recognized() -> None:
    rows = [{"a": "1,234", "b": "-", "c": "+0.5", "d": "12 %"}, {"a": 5, "b": "x", "c": "-", "d": "none"}]
    assert [is_number_column(rows, column) for column in "abcd"] == [True, False, True, False]
    assert not is_number_column([{"a": "-"}], "a")
