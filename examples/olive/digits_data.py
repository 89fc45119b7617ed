"""The data script of `digits.json`: samples of an .npz file as Olive wants them."""

import numpy as np
from olive.data.component.dataset import BaseDataset
from olive.data.registry import Registry


@Registry.register_dataset()
def first_digits(path: str, count: int, **_: object) -> BaseDataset:
    """The first `count` images, (1, 8, 8) each, with their labels."""
    with np.load(path) as arrays:
        pairs = list(zip(arrays["image"][:count], arrays["labels"][:count], strict=True))
    return BaseDataset([({"image": image}, label) for image, label in pairs])
