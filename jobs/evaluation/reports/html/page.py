"""HTML pages of the reports: a self-contained file each, from the templates in this folder.

A page has its style and its script inline and loads nothing; its Content-Security-Policy allows these two only. Without
the script it has the same contents; the script sorts tables, filters rows and highlights. Every value in a template is
escaped.
"""

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

FOLDER = Path(__file__).parent
PAGE_NAME = "report.html"  # in the folder of a report


def render_page(template: str, title: str, **values: object) -> str:
    """Return the page of a template; the same values have the same page.

    Args:
        title: of the page. values: variables of the template.
    """
    from markupsafe import Markup

    style, script = ((FOLDER / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    policy = (
        f"default-src 'none'; style-src {_hash_inline(style)}; script-src {_hash_inline(script)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    page = _load_environment().get_template(template)
    return page.render(title=title, policy=policy, style=Markup(style), script=Markup(script), **values)


@functools.cache
def _load_environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.globals["find_number_columns"] = find_number_columns
    return environment


def find_number_columns(rows: Sequence[Mapping[str, object]]) -> set[str]:
    """Return the columns of a table whose values are all numbers, or missing."""
    return {column for column in rows[0] if is_number_column(rows, column)}


def is_number_column(rows: Sequence[Mapping[str, object]], column: str) -> bool:
    """Return whether every value of a column is a number, or missing ("-")."""
    values = [str(row[column]).lstrip("+-") for row in rows]
    return any(values) and all(not value or value[:1].isdigit() for value in values)


def _hash_inline(content: str) -> str:
    """Return the SHA-256 sum of an inline style or script, in the format of a Content-Security-Policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
