"""MkDocs hook: generated pages of the reference and of notebooks, and diagrams in the palette of the site.

The pages reference/{settings,commands,http}.md and those of notebooks exist only during a build. mkdocstrings renders
reference/python.md.
"""

import re
from pathlib import Path
from typing import Any

# MkDocs has the folder of a hook on sys.path while it loads the hook.
import code_pages
import notebook_pages
import schema_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import finetune_cnn


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {
        "settings": schema_pages.render_settings(),
        "commands": code_pages.render_commands(finetune_cnn.build_parser()),
        "http": schema_pages.render_http(),
    }
    for name, content in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    for path in sorted(Path(config.docs_dir, "notebooks").glob("*.ipynb")):
        page = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, page, content=notebook_pages.render_notebook(path)))
    return files


def on_page_content(html: str, config: MkDocsConfig, **_: Any) -> str:
    """Replace images of diagrams by the SVG itself: an image could follow only the palette of the system."""

    def inline(match: re.Match[str]) -> str:
        svg = Path(config.docs_dir, "assets", match["name"]).read_text(encoding="utf-8")
        return f"<div data-search-exclude>{svg}</div>"

    return re.sub(r'<p><img [^>]*src="[./]*assets/(?P<name>[a-z-]+\.svg)"[^>]*></p>', inline, html)
