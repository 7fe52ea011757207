"""Channels scaled so that each uses the 256 places of 8 bits, in a network that answers as before.

A map has one grid for all its channels, as wide as the widest needs; most need a third of it or
less. What a batch norm gives can be scaled channel by channel if whoever reads it divides by the
same numbers: the answers stay, and the grid becomes as fine for a channel as its values allow.
Which convolutions read which norms, and which norms are added and so must be scaled alike, is seen
from a forward pass, so that no network has to be known.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

MOST = 16.0  # that a channel is scaled by: what was nearly silent on some images may not be on all
AT_ONCE = 64  # images
TOLERANCE = 1e-3  # of an answer, relative to the largest
TOP = 6.0
ADDING = {torch.add, Tensor.add, Tensor.add_}
CUTTING = {F.relu6, F.hardtanh}
PASSING = {F.pad, F.dropout, F.relu}  # what gives a scaled map where it reads one


@dataclass(eq=False)
class _Stream:
    """Maps that must share the scales of their channels.

    Args:
        norms: weight and bias of every batch norm that makes some of them.
        readers: weights of the convolutions that read them, and their axis of these channels.
        peaks: largest magnitude of every channel, of each map that is read.
        ceiling: what all of them are cut off at; None where they are not.
        fixed: whether something reads them that cannot divide, so that they stay as they are.
    """

    norms: list[tuple[Tensor, Tensor]]
    readers: list[tuple[Tensor, int]] = field(default_factory=list)
    peaks: list[Float[Tensor, " channels"]] = field(default_factory=list)
    ceiling: float | None = None
    fixed: bool = False

    def join(self, other: "_Stream") -> None:
        """Take over the maps of another; what is cut off and what is not cannot be scaled alike."""
        self.fixed |= other.fixed or self.ceiling != other.ceiling
        for name in ("norms", "readers", "peaks"):
            getattr(self, name).extend(getattr(other, name))


class _Following(TorchFunctionMode):
    """Notes, while it is entered, what becomes of the answers of batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: list[_Stream] = []
        self._maps: dict[int, tuple[Tensor, _Stream]] = {}  # keeps maps, so that no id comes again

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Call one of torch's functions."""
        kwargs = kwargs or {}
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        read = [value for value in given if id(value) in self._maps]
        if function is F.conv2d:
            self._convolved(*args, **kwargs)
        elif function in ADDING:
            self._added(read, everything=len(read) == len(given))
        result = function(*args, **kwargs)
        if function is F.batch_norm:
            self._normed(result, *args, **kwargs)
        elif function in CUTTING and _is_relu6(function, *args, **kwargs):
            self._passed(read, result, TOP)
        elif function in ADDING | PASSING:
            self._passed(read, result)
        elif function is not F.conv2d and isinstance(result, Tensor):
            self._fix(read)
        return result

    def _normed(self, result, images, mean, var, weight=None, bias=None, *_, **__) -> None:
        self._fix([images])
        if weight is not None and bias is not None and result.ndim == 4:
            self.streams.append(_Stream([(weight, bias)]))
            self._maps[id(result)] = (result, self.streams[-1])

    def _convolved(self, images, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        if id(images) not in self._maps:
            return
        stream = self._note(images)
        if groups in (1, images.shape[1]):
            stream.readers.append((weight, int(groups == 1)))
        else:
            stream.fixed = True

    def _added(self, read: list[Tensor], everything: bool) -> None:
        if not everything:
            return self._fix(read)
        first = self._note(read[0])
        for other in map(self._note, read[1:]):
            if other is first:
                continue
            first.join(other)
            self.streams.remove(other)
            moved = [(key, kept) for key, (kept, stream) in self._maps.items() if stream is other]
            self._maps |= {key: (kept, first) for key, kept in moved}
        return None

    def _passed(self, read: list[Tensor], result: Tensor, ceiling: float | None = None) -> None:
        if read:
            stream = self._maps[id(read[0])][1]
            stream.ceiling = ceiling or stream.ceiling
            self._maps[id(result)] = (result, stream)

    def _note(self, images: Tensor) -> _Stream:
        stream = self._maps[id(images)][1]
        stream.peaks.append(images.abs().amax((0, 2, 3)))
        return stream

    def _fix(self, read: list[Tensor]) -> None:
        for images in read:
            if id(images) in self._maps:
                self._maps[id(images)][1].fixed = True


def _is_relu6(
    function: Callable, given: Tensor, min_val: float = 0, max_val: float = 0, **_
) -> bool:
    """Whether a call is ReLU6, under one of its names."""
    return function is F.relu6 or (function is F.hardtanh and (min_val, max_val) == (0, TOP))


@torch.no_grad()
def equalise(network: nn.Module, images: Float[Tensor, "samples 3 rows cols"]) -> None:
    """Scale the channels between a network's layers so that they are about equally large, in place.

    On these images it answers as before, to rounding. On others a channel behind ReLU6 may be cut
    off where it comes to more than its largest value on these.

    Args:
        network: in evaluation mode.
        images: in [0, 1], some hundreds of all kinds.

    Source: Nagel, van Baalen, Blankevoort and Welling, Data-Free Quantization Through Weight
        Equalization and Bias Correction, ICCV 2019, section 4.1, by the ranges of maps instead of
        weights, along additions too, and only up to where ReLU6 cuts off.
    """
    streams: list[_Stream] = []
    for batch in images.split(AT_ONCE):
        with _Following() as seen:
            before = network(batch)
        for kept, new in zip(streams or seen.streams, seen.streams, strict=True):
            kept.peaks = [torch.maximum(*pair) for pair in zip(kept.peaks, new.peaks, strict=True)]
        streams = streams or seen.streams
    state = {name: value.clone() for name, value in network.state_dict().items()}
    for stream in streams:
        if stream.readers and not stream.fixed:
            _scale(stream)
    after = network(batch)
    if not all(map(_alike, before[:3], after[:3])):
        warnings.warn(
            f"{type(network).__name__} answers otherwise with its channels scaled for 8 bits; "
            "they stay as they are, which costs its 8-bit models some accuracy",
            stacklevel=2,
        )
        network.load_state_dict(state)


def _scale(stream: _Stream) -> None:
    """Scale each channel by what room its peaks leave in all maps of a stream."""
    rooms = [(stream.ceiling or peak.max()) / peak for peak in stream.peaks]
    scale = torch.stack(rooms).amin(0)
    scale = torch.where(scale.isfinite(), scale, 1).clamp(1, MOST)
    for weight, bias in stream.norms:
        weight.mul_(scale)
        bias.mul_(scale)
    for weight, axis in stream.readers:
        weight.div_(scale.view([-1 if place == axis else 1 for place in range(4)]))


def _alike(before: Tensor, after: Tensor) -> bool:
    return bool((after - before).abs().max() <= TOLERANCE * before.abs().max())
