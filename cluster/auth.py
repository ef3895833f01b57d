"""Authentication token of a Ray cluster: loaded, restricted to its owner, and verified before it is used.

The token comes from `RAY_AUTH_TOKEN`, else from the file that `RAY_AUTH_TOKEN_PATH` names, else from
`~/.ray/auth_token`. Ray itself sends it only if `RAY_AUTH_MODE=token` is set, writes the file readable by all, and
retries a wrong token for twenty seconds.
"""

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path

from cluster import UsageError
from cluster.durable_files import make_folder, publish_file, temporary_path
from cluster.ray_private import call_node_service, reload_token

AUTH_MODE_VARIABLE = "RAY_AUTH_MODE"
TOKEN_VARIABLE = "RAY_AUTH_TOKEN"
TIMEOUT_S = 4
TOKEN_HELP = (
    "put the cluster's token into ~/.ray/auth_token (chmod 600) or RAY_AUTH_TOKEN; "
    "on the head, `ray get-auth-token` prints it"
)


class TokenError(UsageError):
    """The cluster rejects the token, or requires one and there is none."""


def token_path() -> Path:
    """Return the path of the token's file, whether it exists or not."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(path) if path else Path.home() / ".ray" / "auth_token"


def read_variable() -> str | None:
    """Return the token of RAY_AUTH_TOKEN; None if the variable is not set, or blank."""
    return os.environ.get(TOKEN_VARIABLE, "").strip() or None


def load_token() -> str | None:
    """Return the token, or None if there is none. Only the owner can read its file afterwards.

    Raises:
        TokenError: the file cannot be read.
    """
    token = read_variable()
    if token:
        return token
    path = token_path()
    try:
        if not path.is_file():
            return None
        if path.stat().st_mode & 0o077:
            with suppress(OSError):  # of another user, such as a mounted secret
                path.chmod(0o600)
        return path.read_text(encoding="utf-8").strip() or None
    except OSError as error:
        raise TokenError(f"{path}: the token cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TokenError(f"{path}: the token is not UTF-8 text; {TOKEN_HELP}") from error


def ensure_token() -> str:
    """Return the token; write a new one if there is none. Of concurrent commands, the first one's is used by all.

    Raises:
        TokenError: the file cannot be read or written.
    """
    token = load_token()
    if token is not None:
        return token
    path = token_path()
    part = temporary_path(path)
    token = secrets.token_hex(32)
    try:
        make_folder(path.parent)
        try:
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
                stream.write(token)
            publish_file(part, path, replace=False)  # the token of a command that was faster stays
            if load_token() is None:  # the file was empty
                publish_file(part, path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise TokenError(f"{path}: the token cannot be written: {error.strerror}") from error
    return load_token() or token


def enable_token_auth() -> str | None:
    """Make the Ray clients of this process send the token, and return it.

    Returns None and changes nothing if there is no token, or if `RAY_AUTH_MODE` disables tokens.
    """
    if os.environ.get(AUTH_MODE_VARIABLE, "token").lower() != "token":
        return None
    token = load_token()
    if token is None:
        return None
    os.environ[AUTH_MODE_VARIABLE] = "token"
    if read_variable() is None:
        os.environ.pop(TOKEN_VARIABLE, None)  # Ray takes a blank one for a token
    if "ray" in sys.modules:  # Ray read the environment when it was imported
        reload_token()
    return token


def verify_token(address: str, token: str | None) -> None:
    """Return if the cluster at HOST:PORT accepts the token, or does not respond at all.

    Raises:
        TokenError: the cluster requires a token, or a different one.
    """
    import grpc

    try:
        call_node_service("CheckAlive", address, token, TIMEOUT_S)
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            raise TokenError(f"the Ray cluster at {address} {describe_rejection(token)}") from error


def describe_rejection(token: str | None) -> str:
    """Return the reason why a cluster rejected a client with this token, and the remedy."""
    return f"{'rejects the token' if token else 'requires a token, and there is none'}: {TOKEN_HELP}"
