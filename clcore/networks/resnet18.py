"""ResNet-18 with the stem for small images (He et al. 2016): GEM's narrow one with 20 filters, RMN's and SupSup's."""

from collections.abc import Sequence

from clcore.networks.base import NetworkOptions
from clcore.networks.residual import Residual, Style, filters


def from_text(argument: str, input_shape: Sequence[int], options: NetworkOptions) -> Residual:
    """ResNet-18 with a 3 x 3 stem, for images of any size; ``resnet18:20`` is GEM's narrow one, as in SupSup.

    Four stages of two blocks with 1, 2, 4 and 8 times the filters (64 by default), projected shortcuts, each map's mean.
    Convolutions that a normalisation follows have no biases.

    Raises:
        BadValue: no images, or no number of filters.
    """
    width = filters("resnet18", argument, 64)
    style = Style((width, 2 * width, 4 * width, 8 * width), blocks=2, projected=True, conv_bias=False)
    return Residual("resnet18", input_shape, style, options)


NETWORK = from_text
