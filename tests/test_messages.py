"""Messages, help texts and docstrings of the code, and comments of YAML files: the commands in them exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.package import REPOSITORY
from tests.support.command_lines import check_command
from tests.support.documents import list_documents

# Anything that does not look like a command or an option ends it.
COMMAND = re.compile(r"finetune-cnn(?! command)((?: (?:--)?[a-z][\w-]*(?![\w./:=*]))+)")
FILES = sorted({path for pattern in ("*.yaml", "*.py", "{}/**/*.yaml", "{}/**/*.py")
               for name in ("cluster", "jobs", "serving", "experiments")
               for path in REPOSITORY.glob(pattern.format(name))})  # fmt: skip


def list_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of a YAML file's lines or a module's string literals; `*` is a value in an f-string."""
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        yield from enumerate(content.splitlines(), 1)
        return
    tree = ast.parse(content)
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            yield (
                node.lineno,
                "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values),
            )


def test_nothing_installs_the_project_by_its_name() -> None:
    """At the package index the name may be that of another project; optional packages are installed by their own."""
    for path in [*FILES, *list_documents(), *REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.ipynb")]:
        assert not re.search(r"pip install (?:-\S+ )*['\"]?finetune[-_]cnn", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_commands_in_texts_exist(path: Path) -> None:
    for line, text in list_texts(path):
        for match in COMMAND.finditer(text):
            check_command(match[1].split(), f"{path.name}:{line}: {match[0]}")
