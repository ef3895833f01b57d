"""Page of a notebook: its text and its code, without outputs."""

import json
from pathlib import Path


def render_notebook(path: Path) -> str:
    """Return a notebook as Markdown, after a link to the file."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    title, *parts = [
        "".join(cell["source"]) if cell["cell_type"] == "markdown" else f"```python\n{''.join(cell['source'])}\n```"
        for cell in cells
    ]
    heading, _, text = title.partition("\n")
    link = f"This page is the notebook [{path.name}]({path.name}), which a test runs."
    return "\n\n".join([heading, link, text.strip(), *parts]) + "\n"
