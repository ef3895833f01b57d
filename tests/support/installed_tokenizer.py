"""A package with a tokenizer, as pip installs it."""

from pathlib import Path

NAME = "bars"


def install_tokenizer(folder: Path) -> str:
    """Write a package whose tokenizer `bars` divides texts at bars and after slashes; return the folder to import from.

    Its module is the same in all tests, since it is imported once.
    """
    info = folder / "sample_tokens-1.dist-info"
    info.mkdir()
    Path(info, "METADATA").write_text("Metadata-Version: 2.1\nName: sample-tokens\nVersion: 1\n")
    Path(info, "entry_points.txt").write_text(f"[finetune_cnn.tokenizers]\n{NAME} = sample_tokens:split\n")
    Path(folder, "sample_tokens.py").write_text("def split(text): return text.replace('/', '/ |').split('|')\n")
    return str(folder)
