# SPDX-License-Identifier: MIT
"""
PyTrickle's names on millrace

An application that was written for PyTrickle changes its imports from `pytrickle` to `millrace.pytrickle` and goes on as
before: `python app.py` brings up the whole service. Then it is `millrace serve` that listens, decodes and encodes, and
this program again, as its worker, that has the handlers; a crash of them costs no stream.

What is here: StreamProcessor (from_handlers and plain functions), FrameProcessor, StreamServer, VideoFrame, AudioFrame, the
decorators, FrameSkipConfig, OverlayConfig, OverlayMode, VideoProcessingResult. Tensors are torch's where torch can be
imported, else numpy arrays. What differs:

  - FrameSkipConfig is accepted and ignored: a slow worker is given the newest frames, always.
  - send_data() takes at most millrace.TEXT_MAX bytes and answers False for more.
  - A parameter update whose handler raises is refused, with the exception's text as the answer.
  - Audio reaches handlers as float32 [channels, samples] in blocks of 20 ms; as many samples must come back.
  - The service listens on loopback unless host says otherwise; then it wants --auth-token-file, see MILLRACE_SERVE_ARGS.
  - TrickleClient, TricklePublisher, TrickleSubscriber, RegisterCapability and custom routes are not here.

MILLRACE_SERVE_ARGS in the environment holds more arguments for `millrace serve`; they win over those of the program.
"""
from .decorators import (audio_handler, model_loader, on_stream_start, on_stream_stop, param_updater, trickle_handler,
                         video_handler)
from .frame_overlay import OverlayConfig, OverlayMode
from .frame_processor import FrameProcessor
from .frame_skipper import FrameSkipConfig
from .frames import AudioFrame, VideoFrame
from .server import StreamServer
from .stream_processor import StreamProcessor, VideoProcessingResult

__all__ = ["AudioFrame", "FrameProcessor", "FrameSkipConfig", "OverlayConfig", "OverlayMode", "StreamProcessor",
           "StreamServer", "VideoFrame", "VideoProcessingResult", "audio_handler", "model_loader", "on_stream_start",
           "on_stream_stop", "param_updater", "trickle_handler", "video_handler"]
