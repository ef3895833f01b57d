"""The token that a Ray cluster asks of whoever reaches it: found, kept to its owner, tried before it is relied on.

Ray sends it only where `RAY_AUTH_MODE=token` is set, writes it readable by all, and tries a wrong one for
twenty seconds. It stands in `RAY_AUTH_TOKEN`, in the file that `RAY_AUTH_TOKEN_PATH` names, or in
`~/.ray/auth_token`, in this order.
"""

import os
import secrets
import sys
from pathlib import Path

from cluster import UsageError

AUTH_MODE_VARIABLE = "RAY_AUTH_MODE"
TIMEOUT_S = 4
TOKEN_HELP = (
    "the cluster's token belongs into ~/.ray/auth_token (chmod 600), or into RAY_AUTH_TOKEN; "
    "on the head, `ray get-auth-token` prints it"
)


class TokenError(UsageError):
    """The cluster does not take the token, or wants one where none was found."""


def token_path() -> Path:
    """Return the path of the token's file, whether there is one or not."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return Path(named) if named else Path.home() / ".ray" / "auth_token"


def load_token() -> str | None:
    """Return the token, None if there is none; its file is made its owner's alone.

    Raises:
        TokenRefused: the file cannot be read.
    """
    given = os.environ.get("RAY_AUTH_TOKEN")
    if given:
        return given.strip()
    path = token_path()
    try:
        if not path.is_file():
            return None
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        return path.read_text(encoding="utf-8").strip() or None
    except OSError as error:
        raise TokenError(f"{path}: the token cannot be read: {error.strerror}") from error


def ensure_token() -> str:
    """Return the token, made now if there is none.

    Raises:
        TokenRefused: its file cannot be read or written.
    """
    token = load_token()
    if token is not None:
        return token
    path = token_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        token = secrets.token_hex(32)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
            stream.write(token)
    except OSError as error:
        raise TokenError(f"{path}: a token cannot be written: {error.strerror}") from error
    return token


def enable_token_auth() -> str | None:
    """Let Ray's clients in this process send the token, and return it; None if there is none, or it is not wanted.

    What `RAY_AUTH_MODE` says already stays.
    """
    if os.environ.get(AUTH_MODE_VARIABLE, "token").lower() != "token":
        return None
    token = load_token()
    if token is None:
        return None
    os.environ[AUTH_MODE_VARIABLE] = "token"
    if "ray" in sys.modules:  # it looked at the environment when it was imported
        from ray._raylet import AuthenticationTokenLoader, Config

        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()
    return token


def verify_token(address: str, token: str | None) -> None:
    """Return when the cluster at HOST:PORT takes the token, or does not answer at all (which is not told here).

    Raises:
        TokenRefused: it wants a token, or another one.
    """
    import grpc
    from ray.core.generated.gcs_service_pb2 import CheckAliveRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    sent = [("authorization", f"Bearer {token}")] if token else []
    try:
        with grpc.insecure_channel(address) as channel:
            NodeInfoGcsServiceStub(channel).CheckAlive(CheckAliveRequest(), timeout=TIMEOUT_S, metadata=sent)
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            raise TokenError(f"the Ray cluster at {address} {describe_rejection(token)}") from error


def describe_rejection(token: str | None) -> str:
    """Return what a cluster that refused does, and what to do about it."""
    return f"{'does not take the token that was sent' if token else 'wants a token, and there is none'}: {TOKEN_HELP}"
