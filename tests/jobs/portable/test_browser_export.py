"""The files of `export --browser`, in Chromium: scores of the classifier, and a page that shows them."""

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from jobs.__main__ import main
from jobs.datasets.tokenizer import tokenize
from jobs.inference.classifier import Classifier
from jobs.inference.explanation import explain_texts
from jobs.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from jobs.portable.browser_export import STATIC_FILES, build_model
from jobs.portable.quantization import DEFAULT_BITS, quantize_checkpoint
from tests.support.checkpoints import WORDS, checkpoint_of
from tests.support.static_site import StaticSite

pytestmark = pytest.mark.slow

TEXTS = [
    *["word1 word2 elsewhere", "", "word5", "nobody knows these", " ".join(WORDS)],
    *["Don’t “quote” it… it's 10 %!!!!", "de\u0301ja\u0300 vu à İstanbul ΟΔΟΣ", "Привіт, м’яте", "شُكْرًا שָׁלוֹם"],
    *["नमस्ते दुनिया, यह अच्छा है", "ภาษาไทยไม่มีช่องว่าง", "我们去东京吃饭吧。", "東京タワーへ行きます"],
    *["👍🏽👍🏽 👩\u200d👩\u200d👧 ❤️ 🇩🇪", "\ud83d word1 \ude00\ud83d", "\u200b\ufeff \t\n"],
]
OPEN = 'const { load: open } = await load("text_classifier.mjs"); const classifier = await open();'
PREDICT = f"""{OPEN}
return args[0].map((text) => ({{
  predictions: classifier.predict(text),
  selected: classifier.predictLabels(text),
  explanation: classifier.explain(text, classifier.labels[0]),
}}));
"""
CASES = {
    "several labels": {"model.embedding": "multichannel", "data.multi_label": True, "text.tokenizer": "words"},
    "quantized": {"model.embedding": "multichannel", "text.tokenizer": "unicode-pairs", "text.lowercase": False},
    "quantized to 3 bits": {"model.embedding": "static", "text.tokenizer": "words"},
    "linear": {"model.linear": "words-and-pairs", "data.multi_label": True},
    "linear, quantized": {"model.linear": "words-and-pairs", "model.embedding": "multichannel"},
    # More than 32 MiB of projected words, and a text that is cut.
    "large": {"model.embedding": "static", "model.feature_maps": 7000, "text.max_tokens": 180},
}
BITS = {"quantized": DEFAULT_BITS, "quantized to 3 bits": 3, "linear, quantized": DEFAULT_BITS}
MAX_WORDS = {"linear, quantized": 120}


def build_checkpoint(**settings: object) -> Checkpoint:
    """Return a checkpoint that knows half of the tokens of TEXTS, with a temperature and thresholds."""
    base = checkpoint_of(str(settings.pop("model.embedding", "rand")), **settings)
    tokens = dict.fromkeys(token for text in TEXTS for token in tokenize(text, base.experiment.text))
    known = [token for token in list(tokens)[::2] if not re.search("[\ud800-\udfff]", token)]
    words = list(dict.fromkeys([*known, *WORDS]))[: len(WORDS)]
    metrics = {"epoch": 1, "temperature": 1.7}
    if base.is_multi_label:
        metrics["label_thresholds"] = {"values": [0.3, 0.5, 0.6]}
    return replace(base, words=words, metrics=metrics)


def export(
    site: StaticSite, name: str, checkpoint: Checkpoint, *, bits: int | None = None, max_words: int | None = None
) -> Path:
    """Write a checkpoint, and its export as a folder of the site; return the path of the checkpoint."""
    path = site.folder / f"{name}-checkpoint"
    save_checkpoint(path, checkpoint)
    if bits:
        source, path = path, site.folder / f"{name}-small"
        quantize_checkpoint(str(source), str(path), bits, max_words)
    assert main(["export", str(path), "--browser", str(site.folder / name)]) == 0
    return path


@pytest.mark.parametrize("case", CASES)
def test_scores_in_a_browser_are_those_of_the_classifier(site: StaticSite, case: str) -> None:
    """And so are the selected labels and the explanations, for texts of many scripts."""
    name = case.replace(", ", "-").replace(" ", "-")
    path = export(site, name, build_checkpoint(**CASES[case]), bits=BITS.get(case), max_words=MAX_WORDS.get(case))
    classifier = Classifier(load_checkpoint(str(path)), table_dtype="float32", share_table=False)
    texts = json.loads(json.dumps(TEXTS[:5] if case == "large" else TEXTS))
    results = site.run(name, PREDICT, texts)
    probabilities = classifier.predict_proba(texts)
    explanations = explain_texts(classifier, texts, np.zeros(len(texts), np.int64))
    for text, result, expected in zip(texts, results, probabilities, strict=True):
        labels = [prediction["label"] for prediction in result["predictions"]]
        assert labels == [classifier.labels[index] for index in np.argsort(-expected)], ascii(text)
        scores = [prediction["score"] for prediction in result["predictions"]]
        np.testing.assert_allclose(scores, sorted(expected, reverse=True), atol=1e-5, rtol=0)
    assert [result["selected"] for result in results] == classifier.predict_labels(texts)
    for result, explanation in zip(results, explanations, strict=True):
        actual = result["explanation"]
        assert (actual["score"], actual["bias"]) == pytest.approx((explanation.score, explanation.bias), abs=1e-4)
        shares = [phrase["share"] for phrase in actual["phrases"]]
        assert shares == pytest.approx([phrase.share for phrase in explanation.phrases], abs=1e-4)


def test_phrases_are_words_of_the_text(site: StaticSite) -> None:
    export(site, "phrases", build_checkpoint())
    body = f'{OPEN} return classifier.explain("Word1, elsewhere!!!!", "b").phrases.map((phrase) => phrase.text)'
    phrases = site.run("phrases", body)
    assert phrases
    assert all(phrase in "word1 , elsewhere !!!" for phrase in phrases)
    assert "word1 , elsewhere !!!" in phrases


def test_a_quantized_checkpoint_is_a_small_folder(tmp_path: Path, messages: list[str]) -> None:
    """Its numbers are not expanded; that of another one has the numbers of the checkpoint."""
    wide = checkpoint_of("rand")
    vectors = np.random.default_rng(0).normal(size=(202, 300)).astype(np.float32)
    filters = {name: np.tile(value, (1, 50)) for name, value in wide.weights.items() if name.startswith("filters")}
    save_checkpoint(tmp_path / "c", replace(wide, weights=wide.weights | filters | {"vectors": vectors}))
    quantize_checkpoint(str(tmp_path / "c"), str(tmp_path / "small"))
    for name in ("c", "small"):
        assert main(["export", str(tmp_path / name), "--browser", str(tmp_path / f"{name}-site")]) == 0
        sizes = [(tmp_path / folder / "weights.safetensors").stat().st_size for folder in (name, f"{name}-site")]
        assert sizes[1] == sizes[0]
    assert {path.name for path in (tmp_path / "small-site").iterdir()} == {
        "classifier.json", "weights.safetensors", *STATIC_FILES
    }  # fmt: skip
    assert [
        ("finetune-cnn quantize" in message) for message in messages if "-site: 200 words, 3 labels" in message
    ] == [True, False]


def test_a_word_may_be_a_surrogate() -> None:
    """The JSON of a checkpoint may have one, as an escape."""
    words = ["\ud800", "𠀀", *WORDS[2:]]
    assert json.loads(build_model(replace(checkpoint_of("rand"), words=words)))["words"] == words


def test_what_cannot_be_exported_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A tokenizer of a package; a folder with files, unless they are to be replaced; one in a checkpoint."""
    save_checkpoint(tmp_path / "c", checkpoint_of("rand"))
    save_checkpoint(tmp_path / "package", checkpoint_of("rand", **{"text.tokenizer": "jieba"}))

    def run(name: str, out: str, *options: str) -> str:
        code = main(["export", str(tmp_path / name), "--browser", str(tmp_path / out), *options])
        assert code in (0, 2)
        return capfd.readouterr().err if code else ""

    assert "text.tokenizer=jieba is Python code of an installed package, which a browser cannot" in run("package", "p")
    assert not (tmp_path / "p").exists()
    save_checkpoint(tmp_path / "near", checkpoint_of("rand", **{"text.max_edit_distance": 1}))
    assert "the page looks up words as they are, without text.max_edit_distance=1" in run("near", "n")
    assert run("c", "site") == ""
    assert "is not empty; name a new folder, or add --force" in run("c", "site")
    (tmp_path / "file").touch()
    assert "file is no folder that this user can write" in run("c", "file")
    (tmp_path / "site" / "page.css").write_text("changed")
    (tmp_path / "site" / "own.html").touch()
    assert run("c", "site", "--force") == ""
    assert (tmp_path / "site" / "page.css").read_text() != "changed"
    assert (tmp_path / "site" / "own.html").exists()
    assert "is in a checkpoint" in run("c", "c/site")
    assert "--no-tokenizer is for --onnx" in run("c", "other", "--no-tokenizer")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("classifier.predict(3)", "TypeError: a text is a string, not number"),
        ("classifier.predict('a', { topK: 0 })", "RangeError: topK must be an integer of at least 1, not 0"),
        ("classifier.predict('a', { topK: 1.5 })", "RangeError: topK must be"),
        ("classifier.explain('a', 'none')", "RangeError: there is no label 'none'"),
    ],
)
def test_wrong_arguments_are_explained(site: StaticSite, call: str, message: str) -> None:
    if not (site.folder / "arguments").exists():
        export(site, "arguments", build_checkpoint())
    assert message in site.run("arguments", f"{OPEN} return {call};")


def test_the_number_of_labels_is_limited_and_another_folder_can_be_loaded(site: StaticSite) -> None:
    """A reader reads models of other folders, with and without a slash at the end."""
    export(site, "reader", build_checkpoint())
    export(site, "reader/other", replace(build_checkpoint(), labels=["x", "y", "z"]))
    body = """
        const { load: open } = await load("text_classifier.mjs");
        const classifiers = [await open("other"), await open(new URL("other/", location.href))];
        return classifiers.map((classifier) => [classifier.labels, classifier.predict("word1", { topK: 2 }).length]);
    """
    assert site.run("reader", body) == [[["x", "y", "z"], 2]] * 2


def test_another_model_in_the_same_folder_is_read(site: StaticSite) -> None:
    """Browsers cache files of a simple server for a tenth of their age."""
    export(site, "again", build_checkpoint())
    for path in (site.folder / "again").iterdir():
        os.utime(path, (0, time.time() - 3 * 24 * 3600))
    body = f"{OPEN} return classifier.labels;"
    assert site.run("again", body) == build_checkpoint().labels
    save_checkpoint(site.folder / "again-2", replace(build_checkpoint(), labels=["x", "y", "z"]))
    assert main(["export", str(site.folder / "again-2"), "--browser", str(site.folder / "again"), "--force"]) == 0
    site.driver.get("about:blank")
    assert site.run("again", body) == ["x", "y", "z"]


DAMAGES = [
    ("classifier.json", b'"format":2', b'"format":1', "classifier.json has format 1; this reader needs 2"),
    (
        "classifier.json",
        b'"linear":null',
        b'"linear":{"words":3,"pairs":0}',
        "weights.safetensors: linear.pairs does not fit classifier.json",
    ),
    (
        "classifier.json",
        b'"words":["',
        b'"words":["more","',
        "weights.safetensors: vectors does not fit classifier.json",
    ),
    ("classifier.json", b'"unicode"', b'"jieba"', "classifier.json: the tokenizer 'jieba' is unknown"),
    ("weights.safetensors", b"", None, "weights.safetensors: 404"),
]


def test_damaged_files_are_explained(site: StaticSite) -> None:
    """On the page, instead of the text field."""
    export(site, "intact", build_checkpoint())
    for number, (file, old, new, message) in enumerate(DAMAGES):
        folder = site.folder / f"damaged-{number}"
        shutil.copytree(site.folder / "intact", folder)
        content = (folder / file).read_bytes()
        (folder / file).unlink()
        if new is not None:
            assert content.count(old) == 1
            (folder / file).write_bytes(content.replace(old, new))
        site.driver.get(f"{site.url}/{folder.name}/index.html")
        WebDriverWait(site.driver, 30).until(lambda driver: driver.find_element(By.ID, "error").text)
        assert message in site.driver.find_element(By.ID, "error").text
        assert site.driver.find_element(By.ID, "purpose").text == "The model cannot be loaded."
        assert not site.driver.find_element(By.ID, "classifier").is_displayed()


@contextmanager
def emulate_screen(site: StaticSite, width: int) -> Iterator[None]:
    """Context manager: a screen of a width in pixels; below 600 it is that of a phone."""
    metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
    site.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        yield
    finally:
        site.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_shows_labels_and_phrases_and_runs_nothing_of_the_model(site: StaticSite, tmp_path: Path) -> None:
    """A strict policy blocks none of its files; names of a stranger's model and texts are no HTML."""
    hostile = "<script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"
    labels = [hostile, "b" * 200, "c"]
    checkpoint = replace(build_checkpoint(), labels=labels)
    experiment = checkpoint.experiment.replace({"name": "tickets"})
    export(site, "page", replace(checkpoint, experiment=experiment, words=[hostile, *checkpoint.words[1:]]))
    driver = site.driver
    driver.get_log("browser")  # that of other tests
    driver.get(f"{site.url}/page/index.html")
    WebDriverWait(driver, 30).until(lambda driver: driver.find_element(By.ID, "text").is_displayed())
    assert driver.find_element(By.ID, "name").text == "tickets"
    assert driver.find_element(By.ID, "purpose").text == "Reads a text and assigns one of 3 labels."
    text = f"word1 {hostile} word2 {'x' * 200}"
    driver.execute_script("document.activeElement.value = arguments[0]", text)  # faster than 300 keys
    driver.switch_to.active_element.send_keys("!")
    WebDriverWait(driver, 30).until(lambda driver: driver.find_elements(By.CSS_SELECTOR, "#labels button"))
    buttons = driver.find_elements(By.CSS_SELECTOR, "#labels button")
    assert {button.find_element(By.CSS_SELECTOR, "span").text for button in buttons} == set(labels)
    assert [button.get_attribute("aria-pressed") for button in buttons] == ["true", "false", "false"]
    bars = [button.find_element(By.CSS_SELECTOR, "i").size["width"] / button.size["width"] for button in buttons]
    assert sum(bars) == pytest.approx(1, abs=0.05)
    first = driver.find_element(By.ID, "why").text
    buttons[0].send_keys(Keys.TAB)
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert driver.find_element(By.ID, "why").text not in ("", first)
    pressed = [
        button.get_attribute("aria-pressed") for button in driver.find_elements(By.CSS_SELECTOR, "#labels button")
    ]
    assert pressed == ["false", "true", "false"]
    shares = [
        cell.text.replace("\u2212", "-") for cell in driver.find_elements(By.CSS_SELECTOR, "#phrases td:last-child")
    ]
    *parts, total = map(float, shares)
    assert sum(parts) == pytest.approx(total, abs=0.02)
    assert driver.title == "tickets"
    assert driver.find_elements(By.CSS_SELECTOR, "main img, main script") == []
    for width in (1000, 360):
        with emulate_screen(site, width):
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width
            driver.save_screenshot(str(tmp_path / f"page-{width}.png"))
    assert driver.get_log("browser") == []


def test_a_text_may_have_no_label(site: StaticSite) -> None:
    """The page says so, if a model assigns several labels and none reaches its threshold."""
    checkpoint = build_checkpoint(**{"data.multi_label": True})
    metrics = checkpoint.metrics | {"label_thresholds": {"values": [0.999999] * 3}}
    export(site, "none", replace(checkpoint, metrics=metrics))
    site.driver.get(f"{site.url}/none/index.html")
    WebDriverWait(site.driver, 30).until(lambda driver: driver.find_element(By.ID, "text").is_displayed())
    assert site.driver.find_element(By.ID, "purpose").text == "Reads a text and assigns any of 3 labels."
    site.driver.find_element(By.ID, "text").send_keys("word1")
    WebDriverWait(site.driver, 30).until(lambda driver: driver.find_element(By.ID, "none").is_displayed())
    assert len(site.driver.find_elements(By.CSS_SELECTOR, "#labels button")) == 3
