"""What ``ray start`` runs before it starts a head of ours (``RAY_START_HOOK``): nobody speaks to it through Ray's client.

Where grpc is installed Ray starts a server for that client by itself: 100 MB, and a port (10001) through which programs can be run.
"""

from typing import Any


def no_client_server(parameters: Any, head: bool) -> None:
    """Takes the client's server out of what is started.

    Args:
        parameters: Ray's, which are changed.
        head: whether a head is started; other nodes have no such server.
    """
    if head:
        parameters.ray_client_server_port = None
