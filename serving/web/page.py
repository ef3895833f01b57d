"""Web page at `GET /`: a single file without external resources."""

import base64
import hashlib
import re
from pathlib import Path

PAGE_PATH = Path(__file__).with_name("page.html")


def load_page() -> bytes:
    """Return the page."""
    return PAGE_PATH.read_bytes()


def build_headers() -> list[tuple[bytes, bytes]]:
    """Return the page's headers, which allow the browser to run its inline script and style and nothing else."""
    policy = (
        f"default-src 'none'; script-src {_hash_inline('script')}; style-src {_hash_inline('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    return [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    ]


def _hash_inline(tag: str) -> str:
    """Return the SHA-256 sums of the inline scripts or styles, in the format of a Content-Security-Policy."""
    contents = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE_PATH.read_text(encoding="utf-8"), re.DOTALL)
    digests = [hashlib.sha256(content.encode()).digest() for content in contents]
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
