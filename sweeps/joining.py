"""Whether a Ray cluster can be joined, tried in a process of its own: there Ray may hang, abort or exit as it likes.

Ray itself tries for 20 to 120 seconds, and ends the process where nothing answers; we say what is wrong within a few.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from clcore.errors import BadValue, UserError

#: Seconds in which something must answer at the port.
QUICK = 3.0
#: Seconds that joining may take; on a busy machine the import of Ray alone takes several. What is wrong is seen earlier.
PATIENCE = 30.0
#: What is run; its last line says what went wrong.
JOIN = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"
#: What to do about a token.
NAME_IT = "name the file of the cluster's own: RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=FILE"
#: What Ray says -> what it means and what to do.
REASONS = {
    "InvalidAuthToken|Unauthenticated": f"it does not take the token that is sent, or wants one; {NAME_IT}",
    "AuthenticationError": f"there is no token here; {NAME_IT}",
    "Failed to connect to GCS": "what answers there is no Ray cluster",
}
VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


def check_joining(address: str, environment: Mapping[str, str] | None = None) -> None:
    """Joins a cluster and leaves it again.

    Args:
        address: ``HOST:PORT``, or ``auto``.
        environment: variables over those of this process.

    Raises:
        BadValue: no such address can be.
        UserError: it cannot be joined, and why.
    """
    if address != "auto":
        _knock(address)
    whole = {**os.environ, **(environment or {})}
    with tempfile.TemporaryDirectory(prefix="clsweep-") as folder:
        said = Path(folder) / "said.txt"
        with said.open("w") as output:
            process = subprocess.Popen([sys.executable, "-c", JOIN, address], stdout=output, stderr=output, env=whole)
        try:
            code = _wait(process, said)
        finally:
            process.kill()
            process.wait()
        if code != 0:
            raise UserError(f"--address {address}: {reason(said.read_text(errors='replace'), code)}.")


def _knock(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise BadValue("--address", address, "auto or HOST:PORT of a Ray cluster")
    try:
        socket.create_connection((host, int(port)), timeout=QUICK).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--address {address}: no Ray cluster answers there ({error}).") from None


def reason(said: str, code: int | None) -> str:
    """What Ray's words mean, for a person.

    Args:
        said: everything it wrote while it tried to join.
        code: how its process ended; None: it did not.
    """
    for pattern, meaning in REASONS.items():
        if re.search(pattern, said):
            return meaning
    if "Version mismatch" in said and len(found := VERSIONS.findall(said)) == 2:
        (ray, python), (own_ray, own_python) = found
        return f"it runs Ray {ray} on Python {python}, this machine Ray {own_ray} on Python {own_python}; install the same here"
    if code is None or not said.strip():
        return "it takes too long to answer; try again when it is less busy"
    return f"no Ray cluster to join ({said.strip().splitlines()[-1].strip().rstrip('.')})"


def _wait(process: "subprocess.Popen[bytes]", said: Path) -> int | None:
    """Its exit code; None where it is known to fail or takes too long."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None:
        if time.monotonic() > end or any(re.search(pattern, said.read_text(errors="replace")) for pattern in REASONS):
            return None
        time.sleep(0.05)
    return process.returncode
