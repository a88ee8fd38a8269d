# SPDX-License-Identifier: MIT
"""
millrace for Python: write a worker

    import millrace

    @millrace.video
    def invert(session, frame, out):
        out.array[:] = 255 - frame.array

    if __name__ == "__main__":
        millrace.run()

    millrace serve --worker ./invert.py

A worker's life is told at the top of millrace.h; here is what differs.

Handlers are plain functions or coroutines, registered by decorators. All run in one thread, one after another:

    @millrace.load           load()                       before the first stream; takes as long as it takes
    @millrace.stream_start   start(session)               session.params is what the client sent, a dict
    @millrace.params         update(session, changes)     session.params has them when it returns
    @millrace.video          video(session, frame, out)
    @millrace.audio          audio(session, frame, out)
    @millrace.stream_stop    stop(session)
    @millrace.unload         unload()

What a video or audio handler returns: None: `out` as it was written; PASS: the original; WITHHOLD: nothing, the
stream's fallback decides; an array or other buffer: it is copied into `out`. An exception lets the original pass; it
is logged, at most every 10 s. An exception in load ends the process and it is started again later (PermanentError:
not again). One in stream_start or params refuses the parameters; its text is the answer that the client gets.

Frames are not copied. `frame` and `out` are views of shared memory: `frame.array` is a read-only numpy array [height,
width, 3] of uint8 (rgba: 4; rgbf32p: [3, height, width] of float32; audio: [samples, channels] of float32; nv12 and
i420: bytes, see `frame.planes`), and `frame.data`, a memoryview of bytes, does without numpy. A view may be kept
beyond the handler: its frame then stays held. One frame of a stream may be kept so (run(hold_count=...) allows more);
with more the stream stands still. A view of `out` must not be kept: the frame fails.
"""
import asyncio
import inspect
import json
import os
import sys
import time
import traceback

from . import _core
from ._core import DISCONTINUITY, OK, PASS, REDELIVERED, TEXT_MAX, WITHHOLD

__all__ = ["DISCONTINUITY", "OK", "PASS", "REDELIVERED", "TEXT_MAX", "WITHHOLD", "Frame", "Output", "PermanentError",
           "Session", "audio", "load", "params", "run", "status", "stream_start", "stream_stop", "unload", "video"]
__version__ = _core.VERSION

FORMATS = {"rgb24": _core.RGB24, "rgba": _core.RGBA, "bgr24": _core.BGR24, "nv12": _core.NV12, "i420": _core.I420,
           "rgbf32p": _core.RGBF32P}
NAMES = {number: name for name, number in FORMATS.items()} | {_core.F32: "f32"}
LOG_EVERY_S = 10.0
SLICE_S = 0.05  # with frames that views hold, take() must come round to release them


class PermanentError(Exception):
    """Raised by load: trying again cannot help; an operator must act."""


class _Buffer:
    """What Frame and Output have in common."""

    def __init__(self, core, session):
        self.core, self.session = core, session

    @property
    def data(self):
        """A memoryview of the payload, as bytes."""
        return memoryview(self.core).cast("B")

    @property
    def array(self):
        """A numpy array over the payload; see the text of the module for its shape."""
        import numpy
        return numpy.asarray(self.core)

    @property
    def planes(self):
        """nv12, i420: numpy arrays of the planes, without the padding of rows; nv12: [h, w] and [h/2, w/2, 2]."""
        flat, strides, width, height = self.array, self.core.strides, self.core.width, self.core.height
        if self.core.format not in (_core.NV12, _core.I420):
            return (flat,) if flat.shape[0] != 3 or self.core.format != _core.RGBF32P else tuple(flat)
        planes, at = [], 0
        for i, stride in enumerate(strides):
            rows = height if i == 0 else height // 2
            used = width if i == 0 or self.core.format == _core.NV12 else width // 2
            plane = flat[at:at + stride * rows].reshape(rows, stride)[:, :used]
            planes.append(plane.reshape(rows, used // 2, 2) if i == 1 and self.core.format == _core.NV12 else plane)
            at += stride * rows
        return tuple(planes)

    format = property(lambda self: NAMES[self.core.format], doc="its name: rgb24, ...")
    width = property(lambda self: self.core.width)
    height = property(lambda self: self.core.height)


class Frame(_Buffer):
    """One picture or block of audio. Its memory does not change while this or a view of it is there."""

    seq = property(lambda self: self.core.seq, doc="unique in the session, grows")
    pts_ns = property(lambda self: self.core.pts_ns, doc="presentation time on the session's clock, nanoseconds")
    duration_ns = property(lambda self: self.core.duration_ns, doc="nanoseconds; 0: unknown")
    flags = property(lambda self: self.core.flags, doc="DISCONTINUITY, REDELIVERED")
    sample_rate = property(lambda self: self.core.sample_rate, doc="audio: Hz")
    channels = property(lambda self: self.core.channels, doc="audio: 1 or 2")
    sample_count = property(lambda self: self.core.sample_count, doc="audio: in each channel")
    frame_rate = property(lambda self: self.core.frame_rate, doc="frames a second as far as known; 0: unknown")


class Output(_Buffer):
    """The place for the answer. What is not written is undefined."""


class Session:
    """One stream. Keep what belongs to it as attributes of it."""

    def __init__(self, core, params):
        self._core, self.params = core, params
        self._refused = None  # the parameters that it could not start with
        self._failures = {}  # by handler: [since the last line in the log, when that was]

    id = property(lambda self: self._core.id, doc="number of the session, as in logs")

    def event(self, event):
        """Publishes a dict, or a JSON object as text, on the events channel. False: too many, this one is dropped."""
        return self._say(self._core.event, event if isinstance(event, str) else json.dumps(event))

    def data(self, data):
        """Publishes a line of text, or an object as JSON, on the data channel. False: dropped."""
        return self._say(self._core.data, data if isinstance(data, str) else json.dumps(data))

    def overlay(self, on, progress=None, text=None):
        """Shows a slate instead of the picture, or goes back to it. `progress`: 0 to 100."""
        return self._say(self._core.overlay, bool(on), -1 if progress is None else int(progress), text)

    def resize(self, width, height):
        """Results will have this size; 0, 0: that of the input."""
        self._core.resize(width, height)

    @staticmethod
    def _say(function, *arguments):
        try:
            function(*arguments)
        except BlockingIOError:
            return False
        return True


# ---- handlers ---------------------------------------------------------------

_handlers = {}
_worker = None


def _decorator(name):
    def register(function):
        if not callable(function):
            raise TypeError(f"@millrace.{name} decorates a function")
        _handlers[name] = function
        return function
    register.__name__ = register.__qualname__ = name
    register.__doc__ = f"Decorator: this function is the {name} handler; see the text of the module."
    return register


load = _decorator("load")
stream_start = _decorator("stream_start")
params = _decorator("params")
video = _decorator("video")
audio = _decorator("audio")
stream_stop = _decorator("stream_stop")
unload = _decorator("unload")


def status(text):
    """What this worker is doing, for people ("loading weights 40%"); shown in /status."""
    if _worker is not None:
        try:
            _worker.core.status(text)
        except OSError:
            pass  # too many, or nobody listens: it is for people


class _Worker:
    """The loop. Everything that calls a handler is a coroutine; without coroutines among the handlers it never waits in
    the event loop but in take(), which costs less."""

    def __init__(self, handlers, core):
        self.handlers, self.core, self.sessions = handlers, core, {}
        self.is_async = any(inspect.iscoroutinefunction(f) for f in handlers.values())
        self.kept_logged = False

    async def call(self, name, *arguments):
        handler = self.handlers.get(name)
        result = handler(*arguments) if handler else None
        return await result if inspect.isawaitable(result) else result

    # -- parameters

    async def start(self, s):
        try:
            await self.call("stream_start", s)
        except Exception as e:
            if s._refused is None:
                s._refused = dict(s.params)
            self.log(s, "stream_start", e)
            s._core.params_result(-22, _why(e))
            return
        s._refused = None
        s._core.params_result(0)

    async def update(self, s, changes):
        if s._refused is not None:  # it never started; with these over the first ones it may
            s.params = {**s._refused, **changes}
            await self.start(s)
            return
        try:
            await self.call("params", s, changes)
        except Exception as e:
            self.log(s, "params", e)
            s._core.params_result(-22, _why(e))
            return
        s.params.update(changes)
        s._core.params_result(0)

    # -- frames

    async def process(self, s, kind, core):
        name = "video" if kind == _core.VIDEO else "audio"
        if s._refused is not None:
            core.answer(PASS, _core.REASON_ERROR)
        elif name not in self.handlers:
            core.answer(PASS)
        else:
            place = core.claim()
            if place is not None:  # else the result would be lost, so it is not computed
                await self.compute(s, name, core, place)
        core.release()

    async def compute(self, s, name, core, place):
        try:
            result = await self.call(name, s, Frame(core, s), Output(place, s))
            if result is None or type(result) is int and result == OK:
                place.publish()
                return
            if type(result) is int and result in (PASS, WITHHOLD):
                place.abandon()
                core.answer(result)
                return
            _fill(place, result)
            del result
            place.publish()
        except Exception as e:
            place.abandon()
            self.log(s, name, e)
            core.answer(PASS, _core.REASON_ERROR)

    # -- the loop

    async def dispatch(self, kind, core, payload):
        if kind == _core.START:
            text, width, height, recovering = payload
            s = self.sessions[core] = Session(core, json.loads(text))
            s.width, s.height, s.recovering = width, height, recovering
            await self.start(s)
        elif kind == _core.PARAMS:
            await self.update(self.sessions[core], json.loads(payload))
        elif kind == _core.STOP:
            s = self.sessions.pop(core)
            try:
                await self.call("stream_stop", s)
            except Exception as e:
                self.log(s, "stream_stop", e)
            s.__dict__.clear()  # views that it kept must not hold its frames
            s._core = core
        else:
            await self.process(self.sessions[core], kind, payload)

    def take(self, seconds):
        kept = self.core.kept()
        if kept > 1 and not self.kept_logged:
            self.kept_logged = True
            _log(f"{kept} frames are held by views of them; copy what must last: numpy.array(frame.array)")
        return self.core.take(min(seconds, SLICE_S) if kept else seconds)

    async def serve(self):
        while True:
            item = self.take(0 if self.is_async else 10.0)
            if item is not None:
                await self.dispatch(*item)
                del item
                if self.is_async:
                    await asyncio.sleep(0)
            elif self.is_async:
                await self.wait()

    async def wait(self):
        """Until take() may have something; other tasks run meanwhile."""
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        fd = self.core.fileno()
        loop.add_reader(fd, ready.set)
        try:
            await asyncio.wait_for(ready.wait(), SLICE_S)
        except asyncio.TimeoutError:
            pass
        finally:
            loop.remove_reader(fd)

    async def life(self):
        try:
            await self.call("load")
        except PermanentError as e:
            traceback.print_exc()
            status(_why(e))
            return 125
        except Exception as e:
            traceback.print_exc()
            status(_why(e))
            return 111
        try:
            self.core.ready()
            await self.serve()
        except OSError as e:
            code = _core.exit_code(e.errno)
            if code:
                _log(f"unable to go on: {e}")
        try:
            await self.call("unload")
        except Exception:
            traceback.print_exc()
        return code

    def log(self, s, handler, error):
        """The first failure of a handler in a session, then one every LOG_EVERY_S, with a count."""
        record = s._failures.setdefault(handler, [0, None])
        record[0] += 1
        now = time.monotonic()
        if record[1] is None or now - record[1] > LOG_EVERY_S:
            text = "".join(traceback.format_exception(error)).rstrip()
            _log(f"session={s.id} handler={handler} failures={record[0]}: {text}")
            record[:] = 0, now
        error.__traceback__ = None  # its frames hold views of pictures


def _log(text):
    print("millrace: " + text, file=sys.stderr, flush=True)


def _why(error):
    text = str(error) or type(error).__name__
    return text.replace("\0", " ").encode(errors="replace")[:TEXT_MAX].decode(errors="ignore")


def _fill(place, result):
    """A handler's own buffer becomes the answer: one copy."""
    target = memoryview(place)
    if isinstance(result, (bytes, bytearray, memoryview)):
        source = memoryview(result)
        if source.nbytes != target.nbytes:
            raise ValueError(f"the handler returned {source.nbytes} bytes, {target.nbytes} are wanted")
        target.cast("B")[:] = source.cast("B")
        return
    import numpy
    array = numpy.asarray(result)
    if array.shape != target.shape or array.dtype != numpy.dtype(target.format):
        raise ValueError(f"the handler returned {array.dtype}{list(array.shape)}, "
                         f"{numpy.dtype(target.format)}{list(target.shape)} is wanted")
    numpy.asarray(target)[...] = array


def run(name=None, format="rgb24", capacity=1, hold_count=2):
    """
    Runs the worker until the supervisor lets it go, then ends the process.

    name        for people; by default the name of the program
    format      of video frames, in and out: rgb24, rgba, bgr24, nv12, i420, rgbf32p
    capacity    streams at once, 1 to 64
    hold_count  frames of one stream held at once, 1 to 16: the current one and those of which views are kept
    """
    global _worker
    if format not in FORMATS:
        raise ValueError(f"format {format!r} is none of {', '.join(FORMATS)}")
    try:
        core = _core.Worker(name=name or os.path.basename(sys.argv[0]) or "python", format=FORMATS[format],
                            capacity=capacity, hold_count=hold_count, audio="audio" in _handlers)
    except OSError as e:
        sys.exit(_core.exit_code(e.errno))
    _worker = _Worker(dict(_handlers), core)
    if _worker.is_async:
        code = asyncio.run(_worker.life())
    else:
        code = _run_plain(_worker.life())
    _worker.sessions.clear()
    core.close()
    sys.exit(code)


def _run_plain(coroutine):
    """A coroutine that never waits needs no event loop."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a handler returned an awaitable; declare it with async def")
