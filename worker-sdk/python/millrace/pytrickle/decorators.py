# SPDX-License-Identifier: MIT
"""PyTrickle's decorators: they mark methods, StreamProcessor.from_handlers() finds them."""
MARK = "_millrace_handler"


def trickle_handler(kind):
    """`kind`: video, audio, model_loader, param_updater, stream_start or stream_stop."""
    def mark(function):
        setattr(function, MARK, kind)
        return function
    return mark


video_handler = trickle_handler("video")
audio_handler = trickle_handler("audio")
model_loader = trickle_handler("model_loader")
on_stream_start = trickle_handler("stream_start")
on_stream_stop = trickle_handler("stream_stop")


def param_updater(function=None, *, model=None):
    """With `model`, a class, the handler is given model(**params) instead of the dict."""
    def mark(function):
        function._millrace_model = model
        return trickle_handler("param_updater")(function)
    return mark if function is None else mark(function)


def find_handlers(instance):
    found = {}
    for name in dir(instance):
        kind = getattr(getattr(instance, name, None), MARK, None)
        if kind is not None:
            found[kind] = getattr(instance, name)
    return found
