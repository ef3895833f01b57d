"""Markdown documents of the repository: their code blocks, links and inline code."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.package import REPOSITORY

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_EXCUSE = re.compile(r"<!-- not tested: .+ -->")


@dataclass(frozen=True)
class CodeBlock:
    """A fenced code block. is_excused: preceded by the line `<!-- not tested: REASON -->`; section: number of `## `
    headings before it."""

    path: Path
    line: int
    language: str
    text: str
    is_excused: bool
    section: int

    @property
    def is_service(self) -> bool:
        """Whether the block only starts a service, which runs during the next block."""
        return self.text.startswith("finetune-cnn serve ") and self.text.count("\n") == 1

    def run(self, names: dict[str, Any], replacement: tuple[str, str] = ("", "")) -> None:
        """Run a block of Python in a namespace; replacement: of a text in it, such as a port, by another one."""
        exec(compile(self.text.replace(*replacement), str(self), "exec"), names)

    def __str__(self) -> str:
        return f"{self.path.relative_to(REPOSITORY)}, line {self.line}"


def list_documents() -> list[Path]:
    """Return the README and the pages of the documentation."""
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def read_code_blocks(path: Path) -> list[CodeBlock]:
    """Return the fenced code blocks of a document in their order."""
    document = path.read_text(encoding="utf-8")
    blocks = []
    for match in _FENCE.finditer(document):
        before = document[: match.start()]
        indent = len(match["indent"])
        blocks.append(
            CodeBlock(
                path=path,
                line=before.count("\n") + 1,
                language=match["language"],
                text="".join(line[indent:] for line in match["text"].splitlines(keepends=True)),
                is_excused=bool(_EXCUSE.fullmatch(before.rstrip("\n").rpartition("\n")[2].strip())),
                section=len(re.findall(r"^## ", before, re.MULTILINE)),
            )
        )
    return blocks


def remove_code_blocks(path: Path) -> str:
    """Return the text of a document without its fenced code blocks."""
    return _FENCE.sub("", path.read_text(encoding="utf-8"))


def read_links(path: Path) -> list[str]:
    """Return the targets of a document's links and images that are not URLs."""
    targets = re.findall(r"\]\(([^)\s]+)\)", remove_code_blocks(path))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def list_anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as MkDocs and GitHub name them."""
    headings = re.findall(r"^#+ (.+)$", remove_code_blocks(path), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


def find_commands(path: Path) -> Iterator[str]:
    """Yield each `finetune-cnn` command of a document's code blocks and inline code."""
    sources = [block.text for block in read_code_blocks(path) if block.language in ("bash", "console")]
    for text in sources:
        for line in text.replace("\\\n", " ").splitlines():
            if match := re.search(r"finetune-cnn [^|>#)]*", line):
                yield match[0].strip()
    for code in re.findall(r"`(finetune-cnn [^`]+)`", remove_code_blocks(path)):
        yield " ".join(code.split())
