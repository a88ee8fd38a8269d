# SPDX-License-Identifier: MIT
"""
PyTrickle's frames over millrace's

A VideoFrame makes its tensor, [1, height, width, 3] of float32 from 0 to 1, when it is first asked for: frames that only
pass cost nothing. Tensors are copies, so they may be kept.
"""
from fractions import Fraction

import numpy

try:
    import torch
except ImportError:
    torch = None

VIDEO_TIME_BASE = Fraction(1, 90000)


class SideData:
    """A place for what an application wants to attach to a frame."""

    skipped = True
    input = None


def to_numpy(tensor):
    if torch is not None and isinstance(tensor, torch.Tensor):
        return tensor.detach().cpu().numpy()
    return numpy.asarray(tensor)


class VideoFrame:
    def __init__(self, tensor, timestamp, time_base, log_timestamps=None):
        self._tensor, self._source = tensor, None
        self.timestamp, self.time_base = timestamp, time_base
        self.log_timestamps, self.side_data = dict(log_timestamps or {}), SideData()

    @classmethod
    def from_tensor(cls, tensor, timestamp=0):
        return cls(tensor, timestamp, Fraction(1, 1))

    @classmethod
    def from_millrace(cls, frame):
        self = cls(None, frame.pts_ns * 90000 // 1_000_000_000, VIDEO_TIME_BASE)
        self._source = frame
        return self

    def let_go(self):
        """The input frame is released: a tensor that was not asked for until now cannot be made any more."""
        self._source = None

    @property
    def tensor(self):
        if self._tensor is None:
            if self._source is None:
                raise RuntimeError("the frame is over; read its tensor in the handler")
            pixels = self._source.array.astype(numpy.float32)[None]
            pixels *= 1 / 255
            self._tensor = pixels if torch is None else torch.from_numpy(pixels)
        return self._tensor

    @property
    def is_untouched(self):
        return self._tensor is None

    @property
    def height(self):
        return self._source.height if self._source is not None else self.tensor.shape[-3]

    @property
    def width(self):
        return self._source.width if self._source is not None else self.tensor.shape[-2]

    @property
    def pts(self):
        """Seconds."""
        return float(self.timestamp * self.time_base)

    def to(self, *device):
        return self.replace_tensor(self.tensor.to(*device) if torch is not None else self.tensor)

    def replace_tensor(self, tensor):
        frame = VideoFrame(tensor, self.timestamp, self.time_base, self.log_timestamps)
        frame.side_data = self.side_data
        return frame

    def to_pixels(self):
        """uint8 [height, width, 3], whatever the tensor is: float 0 to 1 or uint8, with a batch of one, 1 to 4 colours."""
        pixels = to_numpy(self.tensor)
        if pixels.ndim == 4 and pixels.shape[0] == 1:
            pixels = pixels[0]
        if pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4) and pixels.shape[0] == 3:
            pixels = pixels.transpose(1, 2, 0)
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
            raise ValueError(f"a frame of shape {list(pixels.shape)}; [1, height, width, 3] is wanted")
        if pixels.dtype.kind == "f":
            pixels = numpy.nan_to_num(pixels) * 255 + 0.5
        pixels = numpy.clip(pixels, 0, 255).astype(numpy.uint8)
        return numpy.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]


class AudioFrame:
    def __init__(self, samples, timestamp, rate, layout=None):
        self.samples, self.timestamp, self.rate = samples, timestamp, rate
        self.time_base, self.format = Fraction(1, rate), "fltp"
        self.nb_samples = samples.shape[-1]
        self.layout = layout or ("mono" if samples.ndim == 1 or samples.shape[0] == 1 else "stereo")
        self.log_timestamps, self.side_data = {}, SideData()

    @classmethod
    def from_millrace(cls, frame):
        return cls(numpy.array(frame.array.T), frame.pts_ns * frame.sample_rate // 1_000_000_000, frame.sample_rate)

    pts = property(lambda self: self.timestamp)
    sample_rate = property(lambda self: self.rate)

    def replace_samples(self, samples):
        frame = AudioFrame(to_numpy(samples), self.timestamp, self.rate, self.layout)
        frame.log_timestamps, frame.side_data = dict(self.log_timestamps), self.side_data
        return frame

    def to_block(self):
        """float32 [samples, channels]."""
        samples = numpy.atleast_2d(self.samples)
        if samples.dtype.kind == "i":
            samples = samples.astype(numpy.float32) / -float(numpy.iinfo(samples.dtype).min)
        return samples.astype(numpy.float32).T
