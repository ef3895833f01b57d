"""Tokenizers of packages that are written as in the guide to languages: Chinese words from texts to a service."""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from cluster.package import REPOSITORY
from jobs.datasets.tokenization.installed import TokenizerError, load_tokenizer
from jobs.model.checkpoint import CheckpointError, load_checkpoint
from jobs.portable.browser_export import export_browser
from jobs.portable.onnx_export import export_onnx
from jobs.portable.quantization import quantize_checkpoint
from tests.support.asgi import make_replica, send_request
from tests.support.commands import run_command
from tests.support.documents import read_code_blocks

BLOCKS = read_code_blocks(REPOSITORY / "docs/guides/languages.md")
[PROJECT] = [block.text for block in BLOCKS if block.language == "toml"]
CHINESE, JAPANESE, THAI = (block.text for block in BLOCKS if block.language == "python")

FOOD = ("餐厅的面条", "今天的午餐", "妈妈做的鱼汤", "新鲜的水果", "早上的鸡蛋")
SPORT = ("昨天的足球比赛", "北京的篮球队", "每天早上跑步", "游泳运动员", "教练的训练")
ENDS = ("非常精彩", "我很喜欢", "味道不错", "大家都说好")
SETTINGS = (
    "name=zh", "text.tokenizer=chinese", "model.embedding=rand", "model.filter_widths=[1,2]", "model.feature_maps=8",
    "vectors.dimensions=8", "train.epochs=2",
)  # fmt: skip


def run(folder: Path, *arguments: str, site: Path | None = None, code: int = 0) -> str:
    """Return the standard output of a command, which may import from `site`; of a failing one, the error output."""
    path = os.pathsep.join(map(str, filter(None, (REPOSITORY, site))))
    environment = os.environ | {"PYTHONPATH": path, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    result = run_command("python", "-m", "jobs", *arguments, cwd=folder, env=environment)
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr if code else result.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where the guide's package is installed."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "tokens").mkdir()
    (folder / "tokens/pyproject.toml").write_text(PROJECT)
    (folder / "tokens/chinese_tokens.py").write_text(CHINESE)
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", "site")
    result = run_command("python", "-m", "pip", "install", *options, "./tokens", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def trained(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts and a run."""
    folder = tmp_path_factory.mktemp("chinese")
    rows = [(label, start + end) for label, starts in (("吃", FOOD), ("动", SPORT)) for start in starts for end in ENDS]
    lines = ["label,text", *(f"{label},{text}" for label, text in rows)]
    (folder / "texts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    run(folder, "train", *SETTINGS, "data.train=texts.csv", site=site)
    return folder


@pytest.mark.slow
def test_words_of_jieba_are_trained_and_explained(trained: Path, site: Path) -> None:
    """In a new process, and in two that write a folder; 云原生 is one of the words that the package adds."""
    [vocabulary, *_] = trained.glob("runs/zh/*/epoch-0001/vocabulary.json")
    assert json.loads((vocabulary.parent / "metrics.json").read_text())["versions"]["tokens"] == "1"
    assert ", tokens 1." in (vocabulary.parent / "README.md").read_text()
    assert {"足球比赛", "运动员", "面条"} <= {*json.loads(vocabulary.read_text(encoding="utf-8"))}
    (trained / "new").mkdir()
    content = "\n".join(["text", *(start + ENDS[0] for start in (*FOOD, *SPORT)), "云原生  的足球比赛", ""])
    for name in ("a", "b"):
        Path(trained, f"new/{name}.csv").write_text(content, encoding="utf-8")
    lines = run(trained, "predict", "runs/zh", "new/a.csv", "--explain", site=site).splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        phrases = [(phrase["text"], phrase["start"], phrase["end"]) for phrase in row["explanation"]["phrases"]]
        assert all(row["text"][start:end] == phrase for phrase, start, end in phrases)
    assert {("云原生", 0, 3), ("足球比赛", 6, 10)} <= {*phrases}
    run(trained, "predict", "runs/zh", "new", "--out", "out/", "--workers", "2", "--format", "jsonl", site=site)
    parts = [part.read_text(encoding="utf-8").splitlines() for part in sorted(trained.glob("out/*.jsonl"))]
    labels = [row["label"] for row in rows]
    assert [[json.loads(line)["label"] for line in part] for part in parts] == [labels, labels]
    message = (
        "error: text.tokenizer: 'chinese' is neither unicode, unicode-pairs, words, nor a tokenizer of an installed"
    )
    assert message in run(trained, "predict", "runs/zh", "new/a.csv", code=2)


@pytest.mark.slow
def test_a_model_is_quantized_and_exported_without_its_package(trained: Path) -> None:
    """Only a tokenizer of another program is refused: it is Python code."""
    path = str(trained / "runs/zh")
    quantize_checkpoint(path, str(trained / "small"))
    assert load_checkpoint(str(trained / "small")).experiment.text.tokenizer == "chinese"
    export_onnx(path, str(trained / "model.onnx"), with_tokenizer=False)
    with pytest.raises(CheckpointError, match=r"cannot express text\.tokenizer=chinese"):
        export_onnx(path, str(trained / "other.onnx"))
    with pytest.raises(CheckpointError, match=r"text\.tokenizer=chinese is Python code of an installed package"):
        export_browser(path, str(trained / "page"))


@pytest.mark.slow
def test_a_service_needs_the_package(trained: Path, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text on which the tokenizer fails is an error of its request only."""
    monkeypatch.setattr(tempfile, "tempdir", str(trained))  # jieba has a cache there
    load_tokenizer.cache_clear()
    monkeypatch.delitem(sys.modules, "chinese_tokens", raising=False)
    config = {"checkpoint": str(trained / "runs/zh")}
    with pytest.raises(CheckpointError, match=r"epoch-000.: text.tokenizer: 'chinese' is neither unicode"):
        make_replica(config)
    monkeypatch.syspath_prepend(site)
    replica = make_replica(config)
    body = json.dumps({"inputs": "昨天的足球比赛"}).encode()
    status, headers, prediction = send_request(replica, "/predict", body)
    assert (status, headers["x-unknown-words"]) == (200, "0.000")
    explained = send_request(replica, "/predict", json.dumps({"inputs": "昨天的足球比赛", "explain": True}).encode())
    assert "'text': '足球比赛'" in str(explained[2])
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["chinese_tokens"], "tokenizer", None)
        with pytest.raises(TokenizerError, match="'昨天的足球比赛', with AttributeError: 'NoneType'"):
            send_request(replica, "/predict", body)
    assert send_request(replica, "/predict", body)[2] == prediction


@pytest.mark.parametrize("length", [0, 30, 100_000])
def test_the_example_with_sudachipy_divides_long_texts(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """SudachiPy is replaced: it fails on texts of more than 49,149 bytes."""

    def tokenize(text: str) -> list[SimpleNamespace]:
        assert 0 < len(text.encode()) <= 49_149
        return [
            SimpleNamespace(surface=lambda start=start: text[start : start + 2]) for start in range(0, len(text), 2)
        ]

    dictionary = SimpleNamespace(tokenizer=lambda: SimpleNamespace(tokenize=tokenize))
    split = import_example(JAPANESE, monkeypatch, sudachipy={"Dictionary": lambda: dictionary})
    assert split("東京" * length) == ["東京"] * length


def test_the_example_with_pythainlp_adds_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyThaiNLP is replaced."""
    modules: dict[str, dict[str, object]] = {
        "pythainlp": {"word_tokenize": lambda text, custom_dict: [text, *sorted(custom_dict)]},
        "pythainlp.corpus": {},
        "pythainlp.corpus.common": {"thai_words": lambda: frozenset({"ดี"})},
        "pythainlp.util": {"dict_trie": set},
    }
    assert import_example(THAI, monkeypatch, **modules)("ก") == ["ก", "ดี", "เครื่องคั่วกาแฟ"]


def import_example(
    example: str, monkeypatch: pytest.MonkeyPatch, **modules: dict[str, object]
) -> Callable[[str], list[str]]:
    """Return the function `split` of an example, which imports some modules, by name, with these attributes."""
    for name, attributes in modules.items():
        module = ModuleType(name)
        module.__dict__.update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    namespace: dict[str, Any] = {}
    exec(example, namespace)
    split: Callable[[str], list[str]] = namespace["split"]
    return split
