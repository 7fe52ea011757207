"""Frozen teachers' answers kept on disk, and found again by the very pixels that they answer.

The key is the digest of the images as the teachers see them, after every turn and variation. So an
answer can meet no other crop, whatever is shuffled, resumed or asked again: another seed or another
view is another key. It hits where another student or method sees the same images, which is so under
the same seed, views and batch size.
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dermdistill.run import atomic_write
from dermdistill.train.checkpoint import unwritten
from dermdistill.types import Batch, Taps

MOST_OF_FREE_DISK = 0.5
PLAIN = ("map", "embedding", "logits")


class TeacherCache:
    """The frozen teachers of a stage, asked once for every batch of images.

    Args:
        teach: asks them.
        folder: where answers lie; it must be of these very teachers in this number format.
        steps: how many answers a training needs, to see whether the disk can hold them.
        read_metadata: whether answers depend on metadata too, which are then part of the key.
    """

    def __init__(
        self,
        teach: Callable[[Batch], tuple[Taps, ...]],
        folder: Path,
        steps: int,
        read_metadata: bool = False,
    ):
        self.teach, self.folder, self.steps = teach, folder, steps
        self.read_metadata = read_metadata
        self.fits: bool | None = None  # known after the first answer
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, batch: Batch) -> tuple[Taps, ...]:
        """The teachers' taps, to the bit what they would say now."""
        images = batch.for_teacher()
        if images.requires_grad:  # made by the method: another gradient and other images each step
            return self.teach(batch)
        digest = digest_of_images(images)
        if self.read_metadata:
            known = "".join(repr(column.tolist()) for column in batch.metadata)
            digest = hashlib.sha256((digest + known).encode()).hexdigest()
        path = self.folder / f"{digest}.safetensors"
        kept = _load(path, images.device) if path.exists() else None
        if kept is not None:
            return kept
        taps = self.teach(batch)
        if self.fits is None:
            self.fits = self._fits(taps)
        if self.fits:
            with unwritten(path), atomic_write(path) as temporary:
                _save(temporary, taps)
        return taps

    def _fits(self, taps: tuple[Taps, ...]) -> bool:
        needed = self.steps * sum(t.numel() * t.element_size() for t in _named(taps).values())
        free = shutil.disk_usage(self.folder).free
        if needed <= MOST_OF_FREE_DISK * free:
            return True
        warnings.warn(
            f"the teachers' answers would take {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are "
            f"free in {self.folder}, so they are not kept; set cache_teacher to false, or free "
            "the disk",
            stacklevel=3,
        )
        return False


def digest_of_images(images: Tensor) -> str:
    """SHA-256 of a stack of images: of its size, and of every pixel's bits."""
    content = hashlib.sha256(repr((tuple(images.shape), str(images.dtype))).encode())
    content.update(images.detach().cpu().contiguous().numpy())
    return content.hexdigest()


def _named(taps: tuple[Taps, ...]) -> dict[str, Tensor]:
    """Every tensor of all teachers' taps under a name that sorts in order."""
    named = {}
    for index, one in enumerate(taps):
        named |= {f"{index:03d}.{name}": getattr(one, name) for name in PLAIN}
        named |= {f"{index:03d}.stage{depth:03d}": s for depth, s in enumerate(one.stages)}
    return named


def _order(tensor: Tensor) -> list[int]:
    """The dimensions as they lie in memory, the slowest first."""
    return sorted(range(tensor.ndim), key=lambda dim: (-tensor.stride(dim), dim))


def _save(path: Path, taps: tuple[Taps, ...]) -> None:
    named = _named(taps)
    # The order in memory decides the order of later sums, hence their last bits. And a stage may be
    # the map itself, but safetensors takes no two names for one memory: hence the copies.
    plain = {
        name: tensor.cpu().permute(_order(tensor)).clone(memory_format=torch.contiguous_format)
        for name, tensor in named.items()
    }
    save_file(plain, path, metadata={name: json.dumps(_order(t)) for name, t in named.items()})


def _load(path: Path, device: torch.device) -> tuple[Taps, ...] | None:
    """What was kept; None where the file is broken, so that it is written anew."""
    try:
        with safe_open(path, "pt") as file:
            orders = {name: json.loads(text) for name, text in file.metadata().items()}
            named = {name: file.get_tensor(name).to(device) for name in sorted(file.keys())}
    except (SafetensorError, OSError, KeyError):
        return None
    for name, order in orders.items():
        named[name] = named[name].permute([order.index(dim) for dim in range(len(order))])
    groups = sorted({name.split(".")[0] for name in named})
    return tuple(
        Taps(
            *(named[f"{group}.{name}"] for name in PLAIN),
            stages=tuple(t for n, t in named.items() if n.startswith(f"{group}.stage")),
        )
        for group in groups
    )
