"""Check of the scripts of the texts, such as Latin or Cyrillic, by the Unicode names of their letters."""

import unicodedata
from collections import Counter
from functools import cache

from cluster import choose_form
from jobs.data_checks.findings import Finding, FindingRow, Severity
from jobs.data_checks.rows import TRAINING, Rows
from jobs.datasets.text_checks import describe_undivided_texts

RARE_SHARE = 0.05  # of the texts with letters; a script with fewer is unusual
NUM_NAMED_SCRIPTS = 5
ORDINAL_INDICATORS = "ªº"
# By the first word of Unicode names, of which some name no script.
_SCRIPTS = {
    "CJK": "Han", "KANGXI": "Han", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean", "MODIFIER": "",
    "COMBINING": "", "SPACE": "",
}  # fmt: skip


def check_scripts(rows: Rows) -> list[Finding]:
    """Return findings on the scripts of the texts."""
    scripts = [find_script(text) for text in rows.texts]
    counts = Counter(script for script in scripts if script)
    if not counts:
        return []
    total = counts.total()
    names = [f"{script} {count / total:.1%}" for script, count in counts.most_common(NUM_NAMED_SCRIPTS)]
    findings = [Finding("scripts", Severity.INFO, f"scripts of the texts: {', '.join(names)}")]
    main = counts.most_common(1)[0][0]
    rare = {script for script, count in counts.items() if count < RARE_SHARE * total}
    unusual = [FindingRow(index, note=script) for index, script in enumerate(scripts) if script in rare]
    if unusual:
        subject = f"{len(unusual):,} of {len(rows):,} texts {choose_form(len(unusual), 'is', 'are')}"
        message = f"{subject} in another script than most, which is {main}"
        findings.append(Finding("unusual scripts", Severity.MEDIUM, message, unusual))
    words = Counter(
        token for tokens, part in zip(rows.tokens, rows.part, strict=True) if part == TRAINING for token in tokens
    )
    undivided = describe_undivided_texts(words.items())
    if undivided:
        findings.append(Finding("no spaces between words", Severity.HIGH, undivided))
    return findings


def find_script(text: str) -> str:
    """Return the script of most letters of a text, such as Latin; empty without letters."""
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else ""
    counts: Counter[str] = Counter()
    for character, count in Counter(text).items():
        script = _script_of(character)
        if script:
            counts[script] += count
    if not counts:
        return ""
    if counts["Japanese"]:  # Japanese texts have Han signs too
        counts["Japanese"] += counts.pop("Han", 0)
    return counts.most_common(1)[0][0]


@cache
def _script_of(character: str) -> str:
    """Return the script of a letter; empty for other characters, and for letters without a script."""
    if character.isascii():
        return "Latin" if character.isalpha() else ""
    if unicodedata.category(character)[0] != "L" or character in ORDINAL_INDICATORS:
        return ""
    letter = unicodedata.normalize("NFKC", character)[0]  # of a mathematical letter or another form
    name = unicodedata.name(letter, "").partition(" ")[0]
    return _SCRIPTS.get(name, name.capitalize())
