"""Environment variables that Ray and Tune read at import; nothing heavy is imported here, since commands start with it."""

import os
import secrets

MODE = "RAY_AUTH_MODE"
#: Makes a head, or a driver, take 127.0.0.1 for its own address; told that address, Ray takes the machine's, and listens to all.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
#: What Ray and Tune read at import, so that they neither chatter nor write outside their folder.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own snapshots are never read
}


def prepare_environment(address: str | None) -> None:
    """Sets what Ray and Tune read at import, where the user has not; needed before either is imported.

    Args:
        address: of a cluster that is there already, whose owner says whether it wants a token. A Ray of our own obeys who knows
            its token, which this process tells its own processes alone: everybody on this machine reaches its loopback.
    """
    own = {} if address else dict(LOOPBACK)
    if MODE not in os.environ:
        own |= {MODE: "disabled"} if address else {MODE: "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for key, value in (own | ENVIRONMENT).items():
        os.environ.setdefault(key, value)
