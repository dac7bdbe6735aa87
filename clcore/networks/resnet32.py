"""HNET's ResNet-32 for split CIFAR-10/100 (von Oswald et al. 2020, appendix C; He et al. 2016, section 4.2)."""

from collections.abc import Sequence

from clcore.networks.base import NetworkOptions
from clcore.networks.residual import Residual, Style, filters


def from_text(argument: str, input_shape: Sequence[int], options: NetworkOptions) -> Residual:
    """HNET's ResNet-32 for images of any size: three stages of five blocks, 16, 32 and 64 filters.

    Shortcuts have no weights; convolutions have biases, as in HNET's code. ``resnet32:8`` begins with 8 filters.

    Raises:
        BadValue: no images, or no number of filters.
    """
    width = filters("resnet32", argument, 16)
    style = Style((width, 2 * width, 4 * width), blocks=5, projected=False, conv_bias=True)
    return Residual("resnet32", input_shape, style, options)


NETWORK = from_text
