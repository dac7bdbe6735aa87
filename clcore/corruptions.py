"""How much a learned model suffers from worse images than it learned on: noise, blur, brightness and rotation at five severities.

Constants are those of MNIST-C's code (Mu & Gilmer 2019, arXiv:1906.02337, ``corruptions.py``), which are ImageNet-C's (Hendrycks &
Dietterich 2019) for noise, blur and brightness, and its own for rotations. They were made for 28 x 28 images of digits; CIFAR-10-C
has milder ones for photographs of that size. Here: blur is in proportion to the images' height, so that those of 8 x 8 digits are
not wiped out, images stay floats, and nothing is learned again.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clcore.benchmarks import Benchmark, Split
from clcore.errors import BadValue, UnknownName
from clcore.predictor import Predictor
from clcore.randomness import derive

#: Standard deviation of Gaussian noise, images in [0, 1] (MNIST-C's code, ``gaussian_noise``; ImageNet-C).
NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)
#: Standard deviation of a Gaussian blur in pixels of a 28 x 28 image (MNIST-C's code, ``gaussian_blur``; ImageNet-C).
BLUR = (1.0, 2.0, 3.0, 4.0, 6.0)
#: The height that they are for.
HEIGHT = 28
#: What is added to a colour's value V (MNIST-C's code, ``brightness``; ImageNet-C).
BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
#: Radians of a rotation, to either side by chance (MNIST-C's code, ``rotate``).
ROTATION = (0.2, 0.4, 0.6, 0.8, 1.0)
CORRUPTIONS = ("noise", "blur", "brightness", "rotation")
SEVERITIES = (1, 2, 3, 4, 5)
#: What the images are called that nothing was done to, at severity 0.
CLEAN = "none"
#: A Gaussian is cut off at so many standard deviations (scikit-image's default).
TRUNCATE = 4.0


def corrupt(images: Tensor, name: str, severity: int, seed: int) -> Tensor:
    """Worse images; the same for the same seed.

    Args:
        images: in [0, 1], floats, shape [n, channels, height, width].
        name: one of ``CORRUPTIONS``.
        severity: 1 to 5.
        seed: of noise and of the sides that rotations go to.

    Returns:
        In [0, 1], with the shape of the images.

    Raises:
        UnknownName: no such corruption.
        BadValue: no such severity.
    """
    if name not in CORRUPTIONS:
        raise UnknownName("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise BadValue("severity", severity, "1, 2, 3, 4 or 5")
    generator = torch.Generator().manual_seed(derive(seed, "corruption", name, severity))
    level = severity - 1
    if name == "noise":
        noise = torch.randn(images.shape, generator=generator).to(images)
        worse = images + NOISE[level] * noise
    elif name == "blur":
        worse = blurred(images, BLUR[level] * images.shape[-2] / HEIGHT)
    elif name == "brightness":
        worse = brighter(images, BRIGHTNESS[level])
    else:
        side = 2 * torch.randint(2, (len(images),), generator=generator) - 1
        worse = rotated(images, ROTATION[level] * side.to(images))
    return worse.clamp(0, 1)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Images under a Gaussian filter; beyond the edge they go on as they end.

    Args:
        images: shape [n, channels, height, width].
        sigma: standard deviation in pixels, > 0.
    """
    radius = int(TRUNCATE * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    weights = (-0.5 * (offsets / sigma) ** 2).exp()
    weights = (weights / weights.sum()).reshape(1, 1, 1, -1)
    flat = images.flatten(0, 1)[:, None]
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="replicate"), weights)
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="replicate"), weights.mT)
    return flat.reshape(images.shape)


def brighter(images: Tensor, by: float) -> Tensor:
    """Images with something added to the value V of HSV (the largest of a pixel's channels), which is at most 1; hue stays.

    Args:
        images: in [0, 1], shape [n, channels, height, width]; with one channel it is the value itself.
        by: what is added, >= 0.
    """
    value = images.amax(1, keepdim=True)
    lighter = (value + by).clamp(max=1)
    return torch.where(value > 0, images * (lighter / value.clamp(min=torch.finfo(images.dtype).tiny)), lighter)


def rotated(images: Tensor, radians: Tensor) -> Tensor:
    """Images turned around their middle, bilinear; what comes from outside is black.

    Args:
        images: shape [n, channels, height, width].
        radians: of each image, shape [n]; above 0 they turn counterclockwise.
    """
    height, width = images.shape[-2:]
    cos, sin = radians.cos(), radians.sin()
    none = torch.zeros_like(cos)
    # grid_sample measures both axes from -1 to 1, whatever their lengths
    across = torch.stack([cos, -sin * height / width, none], -1)
    down = torch.stack([sin * width / height, cos, none], -1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def worse_split(split: Split, name: str, severity: int, seed: int) -> Split:
    """The same examples from worse images; these are permuted or rotated as the task's are after they were made worse."""
    images = split.images[split.rows].float() / split.scale
    rows = torch.arange(len(split), device=split.rows.device)
    return replace(split, images=corrupt(images, name, severity, seed), rows=rows, scale=1.0)


def robustness(
    predictor: Predictor, benchmark: Benchmark, names: Sequence[str] = CORRUPTIONS, severities: Sequence[int] = SEVERITIES
) -> list[dict[str, Any]]:
    """Accuracy of a finished trial on corrupted test images of each task; nothing is trained.

    The task is given or inferred as in the trial's scenario, and noise is that of the trial's seed.

    Args:
        predictor: the trial.
        benchmark: the one it was learned on.
        names: of ``CORRUPTIONS``.
        severities: of ``SEVERITIES``.

    Returns:
        Rows of ``task`` (from 0), ``corruption``, ``severity``, ``accuracy`` in [0, 1], ``examples``. The first of each task are
        its images as they are: corruption ``none``, severity 0.

    Raises:
        BadValue: a benchmark of values: what they look at are no images; or no such severity.
        UnknownName: no such corruption.
    """
    if benchmark.targets == "values":
        raise BadValue("benchmark", benchmark.name, "one of images here: there is no noise or blur of single numbers")
    seed = predictor.recipe.seed
    kinds = [(CLEAN, 0), *((name, severity) for name in names for severity in severities)]
    rows = []
    for at in predictor.learned:
        test = benchmark.test(at.task)
        for name, severity in kinds:
            split = worse_split(test, name, severity, seed) if severity else test
            right = predictor.accuracy(split, at.task)
            rows.append({"task": at.task, "corruption": name, "severity": severity, "accuracy": right, "examples": len(test)})
    return rows
