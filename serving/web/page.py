"""The page at `GET /`: one file, nothing from elsewhere."""

import base64
import hashlib
import re
from pathlib import Path

PAGE_PATH = Path(__file__).with_name("page.html")


def load_page() -> bytes:
    """Return the page."""
    return PAGE_PATH.read_bytes()


def _hashes(tag: str) -> str:
    """Return the SHA-256 sums of the page's inline scripts or styles, as a Content-Security-Policy names them."""
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE_PATH.read_text(encoding="utf-8"), re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in found)


def build_headers() -> list[tuple[bytes, bytes]]:
    """Return the page's headers: a browser runs its own script and style and asks no other machine."""
    policy = (
        f"default-src 'none'; script-src {_hashes('script')}; style-src {_hashes('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    return [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    ]
