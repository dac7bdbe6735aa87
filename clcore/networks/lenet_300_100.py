"""LeNet-300-100, which is no convolutional network: SupSup's network for permuted MNIST (Wortsman et al. 2020, section 4)."""

from collections.abc import Sequence

from clcore.networks.base import NetworkOptions
from clcore.networks.images import require_alone
from clcore.networks.mlp import MLP


def from_text(argument: str, input_shape: Sequence[int], options: NetworkOptions) -> MLP:
    """LeNet-300-100: ``mlp:300-100`` by the name it has in the literature.

    Raises:
        BadValue: something after the name.
    """
    require_alone("lenet-300-100", argument)
    return MLP(input_shape, (300, 100), options)


NETWORK = from_text
