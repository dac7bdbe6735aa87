"""Ray's token: what keeps strangers out of a cluster. It is named by its file and never said: not in arguments, logs or records."""

import os
import secrets
from pathlib import Path

from clcore.errors import UserError

MODE, TOKEN, TOKEN_FILE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def new_token(path: Path) -> Path:
    """Draws a token and keeps it in a file that its owner alone can read (mode 600).

    Args:
        path: of a file that is not there yet.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return path


def token_environment(path: Path) -> dict[str, str]:
    """The variables with which Ray's processes use the token of a file, and no other."""
    return {MODE: "token", TOKEN_FILE: str(path.absolute()), TOKEN: ""}


def own_environment(token_file: Path | None) -> dict[str, str]:
    """The variables for joining a cluster that is there: by a token file, or as the environment says.

    A token that the environment names is used without ``RAY_AUTH_MODE=token`` too.

    Raises:
        UserError: there is no such file, or nothing in it.
    """
    if token_file is None:
        named = os.environ.get(TOKEN) or os.environ.get(TOKEN_FILE)
        return {MODE: os.environ.get(MODE) or ("token" if named else "disabled")}
    try:
        empty = not token_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--token-file {token_file} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    if empty:
        raise UserError(f"--token-file {token_file} is empty: it must hold the cluster's token.")
    return token_environment(token_file)


def read_token(environment: dict[str, str]) -> str | None:
    """The token that these variables (over those of this process) stand for; None where there is none."""
    known = {**os.environ, **environment}
    if known.get(MODE) != "token":
        return None
    if known.get(TOKEN):
        return known[TOKEN]
    path = Path(known.get(TOKEN_FILE) or Path.home() / ".ray" / "auth_token")
    return path.read_text().strip() if path.is_file() else None
