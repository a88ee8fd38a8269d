# SPDX-License-Identifier: MIT
"""PyTrickle's StreamProcessor: functions, or the decorated methods of an object, as a service."""
import asyncio
import inspect
from enum import Enum

import numpy

from .decorators import find_handlers
from .frame_processor import FrameProcessor
from .frames import AudioFrame, VideoFrame, torch
from .server import StreamServer


class VideoProcessingResult(Enum):
    """What a video handler may return instead of a frame."""

    WITHHELD = "withheld"


async def call(function, *arguments, **more):
    """Plain functions run in a thread, so that other tasks go on."""
    if inspect.iscoroutinefunction(function):
        return await function(*arguments, **more)
    result = await asyncio.to_thread(function, *arguments, **more)
    return await result if inspect.isawaitable(result) else result


def is_array(value):
    return isinstance(value, numpy.ndarray) or torch is not None and isinstance(value, torch.Tensor)


class _Functions(FrameProcessor):
    """Functions as a FrameProcessor: None, a wrong type or an exception lets the original pass."""

    passes_original = True

    def __init__(self, owner, handlers):
        super().__init__()
        self.owner, self.handlers = owner, handlers

    def has_audio(self):
        return self.handlers.get("audio") is not None

    async def load_model(self, **kwargs):
        loader = self.handlers.get("model_loader")
        if loader is None or getattr(self, "loaded", False):
            return
        self.loaded = True
        # Older applications take the processor as a first argument.
        first = next(iter(inspect.signature(loader).parameters.values()), None)
        wants_owner = first is not None and first.kind is first.POSITIONAL_OR_KEYWORD and first.default is first.empty
        await call(loader, *((self.owner,) if wants_owner else ()), **kwargs)

    async def process_video_async(self, frame):
        function = self.handlers.get("video")
        result = await call(function, frame) if function is not None else frame
        if isinstance(result, VideoFrame) or result is VideoProcessingResult.WITHHELD:
            return result
        return frame.replace_tensor(result) if is_array(result) and result.shape[-1] in (1, 3) else None

    async def process_audio_async(self, frame):
        result = await call(self.handlers["audio"], frame)
        if isinstance(result, AudioFrame):
            return [result]
        return [frame.replace_samples(result)] if is_array(result) else result

    async def update_params(self, params):
        function = self.handlers.get("param_updater")
        if function is None:
            return
        model = getattr(function, "_millrace_model", None)
        await call(function, model(**params) if model is not None else params)

    async def on_stream_start(self, params=None):
        function = self.handlers.get("stream_start")
        if function is not None:
            await call(function, *([params] if inspect.signature(function).parameters else []))

    async def on_stream_stop(self):
        if self.handlers.get("stream_stop") is not None:
            await call(self.handlers["stream_stop"])


class StreamProcessor:
    def __init__(self, video_processor=None, audio_processor=None, model_loader=None, param_updater=None,
                 on_stream_start=None, on_stream_stop=None, send_data_interval=0.333, name="stream-processor", port=8000,
                 frame_skip_config=None, overlay_config=None, **server_options):
        self.name, self.port = name, port
        self._frame_processor = _Functions(self, {
            "video": video_processor, "audio": audio_processor, "model_loader": model_loader,
            "param_updater": param_updater, "stream_start": on_stream_start, "stream_stop": on_stream_stop})
        server_options.setdefault("capability_name", name)
        self.server = StreamServer(frame_processor=self._frame_processor, port=port, overlay_config=overlay_config,
                                   frame_skip_config=frame_skip_config, **server_options)

    @classmethod
    def from_handlers(cls, handler_instance, **options):
        """From an object whose methods carry the decorators."""
        found = find_handlers(handler_instance)
        return cls(video_processor=found.get("video"), audio_processor=found.get("audio"),
                   model_loader=found.get("model_loader"), param_updater=found.get("param_updater"),
                   on_stream_start=found.get("stream_start"), on_stream_stop=found.get("stream_stop"), **options)

    async def send_data(self, data):
        return await self._frame_processor.send_data(data)

    async def send_monitoring_event(self, event, event_type="custom"):
        return await self._frame_processor.send_monitoring_event(event, event_type)

    def set_loading_overlay(self, on):
        return self._frame_processor.set_loading_overlay(on)

    def get_metrics(self):
        return self.server.get_metrics()

    async def run_forever(self):
        await self.server.run_forever()

    def run(self):
        asyncio.run(self.run_forever())
