# SPDX-License-Identifier: MIT
"""
PyTrickle's StreamServer

Started by a person, it becomes `millrace serve` with this very program as its worker. Started by the supervisor, it is
that worker: the handlers run in the event loop that run_forever() was called in.
"""
import asyncio
import inspect
import logging
import os
import shlex
import shutil
import socket
import sys

import numpy

import millrace

from .. import _Worker, _core
from .frame_overlay import Overlay, OverlayConfig
from .frames import AudioFrame, VideoFrame

log = logging.getLogger(__name__)
PACKAGES = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def is_supervised():
    try:
        line = socket.socket(fileno=os.dup(3))
    except OSError:
        return False
    with line:
        return line.family == socket.AF_UNIX and line.type == socket.SOCK_SEQPACKET


def find_millrace():
    """The program that belongs to this package, else one in PATH."""
    beside = os.path.join(PACKAGES, "..", "..", "..", "bin", "millrace")
    found = os.path.normpath(beside) if os.access(beside, os.X_OK) else shutil.which("millrace")
    if found is None:
        sys.exit("millrace.pytrickle: there is no program millrace in PATH; install millrace, or add its folder bin to PATH")
    return found


class StreamServer:
    def __init__(self, frame_processor, port=8000, capability_name="", host="127.0.0.1", frame_skip_config=None,
                 overlay_config=None, **other_options):
        self.frame_processor, self.port, self.capability_name, self.host = frame_processor, port, capability_name, host
        self.overlay_config = overlay_config or OverlayConfig()
        self.session = self.overlay = self.worker = None
        self.counts = {"frames": 0, "withheld": 0, "errors": 0}
        frame_processor.host = self
        if other_options:
            log.debug("millrace serve decides about these itself: %s", ", ".join(sorted(other_options)))

    def get_metrics(self):
        return dict(self.counts)

    async def run_forever(self):
        if not is_supervised():
            self.become_service()
        handlers = {"load": self.load, "stream_start": self.start, "params": self.update, "video": self.video,
                    "stream_stop": self.stop}
        if self.frame_processor.has_audio():
            handlers["audio"] = self.audio
        try:
            core = _core.Worker(name=self.capability_name or os.path.basename(sys.argv[0]), format=_core.RGB24, capacity=1,
                                hold_count=2, audio="audio" in handlers)
        except OSError as e:
            sys.exit(_core.exit_code(e.errno))
        self.worker = millrace._worker = _Worker(handlers, core)
        sys.exit(await self.worker.life())

    def run(self):
        asyncio.run(self.run_forever())

    def become_service(self):
        command = [sys.executable, os.path.abspath(sys.argv[0]), *sys.argv[1:]]
        arguments = [find_millrace(), "serve", "--host", self.host, "--port", str(self.port), "--worker", shlex.join(command)]
        if self.capability_name:
            arguments += ["--name", self.capability_name]
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join([p for p in paths if p and p != PACKAGES] + [PACKAGES])
        arguments += shlex.split(os.environ.get("MILLRACE_SERVE_ARGS", ""))
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(arguments[0], arguments)

    # ---- handlers of millrace

    async def load(self):
        await self.frame_processor.load_model(**getattr(self.frame_processor, "init_kwargs", {}))

    async def start(self, session):
        self.session, self.overlay = session, Overlay(self.overlay_config, session)
        try:
            start = self.frame_processor.on_stream_start
            await start(*([dict(session.params)] if inspect.signature(start).parameters else []))
        except Exception:
            log.exception("on_stream_start failed; the stream goes on")

    async def update(self, session, changes):
        changes = dict(changes)
        if "show_loading" in changes:
            self.overlay.set_manual(bool(changes.pop("show_loading")))
        if changes:
            await self.frame_processor.update_params(changes)

    async def video(self, session, source, out):
        frame = VideoFrame.from_millrace(source)
        try:
            result = await self.frame_processor.process_video_async(frame)
        except Exception as e:
            self.counts["errors"] += 1
            if self.frame_processor.passes_original:
                raise  # millrace logs it, and the original passes
            self.worker.log(session, "video", e)
            result = None
        finally:
            frame.let_go()
        self.counts["frames"] += 1
        if result is frame and frame.is_untouched or result is None and self.frame_processor.passes_original:
            self.overlay.real_frame()
            return millrace.PASS
        if not isinstance(result, VideoFrame):  # withheld, or no frame
            self.counts["withheld"] += 1
            return millrace.PASS if self.overlay.no_frame() else millrace.WITHHOLD
        self.overlay.real_frame()
        pixels = result.to_pixels()
        if pixels.shape[:2] != (out.height, out.width):  # results have another size from now on
            session.resize(pixels.shape[1], pixels.shape[0])
            return millrace.PASS
        return pixels

    async def audio(self, session, source, out):
        frame = AudioFrame.from_millrace(source)
        result = await self.frame_processor.process_audio_async(frame)
        if not isinstance(result, list):
            return millrace.PASS if self.frame_processor.passes_original else millrace.WITHHOLD
        if not result:
            return millrace.WITHHOLD
        if result == [frame]:
            return millrace.PASS
        if len(result) == 1:
            return result[0].to_block()
        return numpy.concatenate([f.to_block() for f in result])

    async def stop(self, session):
        self.session = None
        try:
            await self.frame_processor.on_stream_stop()
        except Exception:
            log.exception("on_stream_stop failed")
        self.overlay = None
