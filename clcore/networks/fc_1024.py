"""SupSup's larger fully connected network, FC 1024-1024 (Wortsman et al. 2020, section 4)."""

from collections.abc import Sequence

from clcore.networks.base import NetworkOptions
from clcore.networks.images import require_alone
from clcore.networks.mlp import MLP


def from_text(argument: str, input_shape: Sequence[int], options: NetworkOptions) -> MLP:
    """SupSup's FC 1024-1024: ``mlp:1024-1024`` by a name.

    Raises:
        BadValue: something after the name.
    """
    require_alone("fc-1024", argument)
    return MLP(input_shape, (1024, 1024), options)


NETWORK = from_text
