"""Whether a Ray cluster can be joined: first who answers there, then tried in a process of its own.

There Ray may hang, abort or exit as it likes. It tries for 20 to 120 seconds, and ends the process where nothing answers; we say
what is wrong within a few.
"""

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clcore.errors import BadValue, UserError

#: Seconds in which a connection must be made, and those in which whoever answers must have said a first word, as Ray has it.
QUICK, FIRST_WORD = 3.0, 5.0
#: What a client of gRPC begins with (HTTP/2, RFC 9113: section 3.4, and an empty SETTINGS frame), and how each answer to it begins.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
SETTINGS, HEADER = 4, 9
#: Seconds that joining may take; on a busy machine the import of Ray alone takes several. What is wrong is seen earlier.
PATIENCE = 30.0
#: What is run; its last line says what went wrong.
JOIN = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"
#: Set where a job of a cluster runs.
OF_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
#: What to do about a token.
NAME_IT = "name the file of the cluster's own: RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=FILE"
#: Said of what is no head.
NO_HEAD = "what answers there is no head of a Ray cluster, whose port is 6379 unless told"
#: What Ray says -> what it means and what to do.
REASONS = {
    "InvalidAuthToken|Unauthenticated": f"it does not take the token that is sent, or wants one; {NAME_IT}",
    "AuthenticationError": f"there is no token here; {NAME_IT}",
    "Failed to connect to GCS|rpc_code: 12": NO_HEAD,  # 12: gRPC's UNIMPLEMENTED
}
VERSIONS = re.compile(r"Ray: (\S+)\s+Python: (\S+)")


def check_joining(address: str) -> None:
    """Joins a cluster and leaves it again.

    Args:
        address: ``HOST:PORT``, or ``auto``.

    Raises:
        BadValue: no such address can be.
        UserError: it cannot be joined, and why.
    """
    if address == "auto" and OF_JOB in os.environ:
        return  # it is the cluster that has started us
    if address != "auto":
        knock(address)
    with tempfile.TemporaryDirectory(prefix="clsweep-") as folder:
        said = Path(folder) / "said.txt"
        with said.open("w") as output:
            process = subprocess.Popen([sys.executable, "-c", JOIN, address], stdout=output, stderr=output)
        try:
            code = _wait(process, said)
        finally:
            process.kill()
            process.wait()
        if code != 0:
            raise UserError(f"--address {address}: {reason(said.read_text(errors='replace'), code)}.")


def knock(address: str) -> None:
    """Sees whether somebody who speaks gRPC answers, as the head of a cluster does; takes no time where one does.

    Args:
        address: ``HOST:PORT``.

    Raises:
        BadValue: no such address can be.
        UserError: nobody answers, or something else.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise BadValue("--address", address, "auto or HOST:PORT of a Ray cluster")
    try:
        with socket.create_connection((host, int(port)), timeout=QUICK) as caller:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return  # who is behind it is seen by joining
            word = _first_word(caller)
    except (OSError, OverflowError) as error:
        raise UserError(f"--address {address}: no Ray cluster answers there ({error}).") from None
    if len(word) < HEADER or word[3] != SETTINGS:
        raise UserError(f"--address {address}: {NO_HEAD}.")


def _first_word(caller: socket.socket) -> bytes:
    """The header of the first frame of an answer, or what there is of it."""
    caller.settimeout(FIRST_WORD)
    caller.sendall(PREFACE)
    word = b""
    while len(word) < HEADER and (more := caller.recv(HEADER - len(word))):
        word += more
    return word


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
