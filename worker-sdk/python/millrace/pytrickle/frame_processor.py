# SPDX-License-Identifier: MIT
"""PyTrickle's base class for those who subclass instead of giving functions."""
from abc import ABC, abstractmethod

import millrace


class FrameProcessor(ABC):
    """
    process_video_async() returns a frame, or None for "no frame"; process_audio_async() a list of frames. All methods
    may be plain or async.
    """

    passes_original = False  # what None and exceptions mean: False: no frame; True: the original

    def __init__(self, error_callback=None, **init_kwargs):
        self.error_callback, self.init_kwargs = error_callback, init_kwargs
        self.host = None  # the server that runs it

    async def load_model(self, **kwargs):
        pass

    @abstractmethod
    async def process_video_async(self, frame):
        ...

    async def process_audio_async(self, frame):
        return [frame]

    async def update_params(self, params):
        pass

    async def on_stream_start(self, params=None):
        pass

    async def on_stream_stop(self):
        pass

    def has_audio(self):
        return type(self).process_audio_async is not FrameProcessor.process_audio_async

    # ---- what an application may call

    def _session(self):
        return self.host.session if self.host is not None else None

    async def send_data(self, data):
        """One line for the data channel. False: there is no stream, the line is too long, or there are too many."""
        session = self._session()
        if session is None or len(str(data).encode()) > millrace.TEXT_MAX:
            return False
        return session.data(str(data))

    async def send_monitoring_event(self, event, event_type="custom"):
        session = self._session()
        return session is not None and session.event({"type": event_type, **event})

    def set_loading_overlay(self, on):
        """Shows the loading overlay, or hides it. False: there is no stream."""
        if self._session() is None:
            return False
        self.host.overlay.set_manual(bool(on))
        return True
