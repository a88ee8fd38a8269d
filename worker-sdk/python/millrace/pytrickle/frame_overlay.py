# SPDX-License-Identifier: MIT
"""PyTrickle's loading overlay: the slate of millrace, shown when no frame has come for a while."""
import time
from dataclasses import dataclass
from enum import Enum
from typing import Optional


class OverlayMode(str, Enum):
    PROGRESSBAR = "progressbar"
    PASSTHROUGH = "passthrough"


@dataclass
class OverlayConfig:
    mode: OverlayMode = OverlayMode.PROGRESSBAR
    message: str = "Loading..."
    progress: Optional[float] = None  # 0 to 100; None: unknown
    enabled: bool = True
    auto_timeout_seconds: float = 1.5
    frame_count_to_disable: int = 1

    def is_active(self):
        return self.enabled and self.mode != OverlayMode.PASSTHROUGH


class Overlay:
    """Whether the slate is shown in one stream, and why: because somebody said so, or because frames are withheld."""

    def __init__(self, config, session):
        self.config, self.session = config, session
        self.manual = self.automatic = False
        self.last_real, self.real_count = time.monotonic(), 0

    def show(self, on):
        self.session.overlay(on, self.config.progress, self.config.message)

    def set_manual(self, on):
        if self.config.is_active() and on != self.manual:
            self.manual = on
            self.show(on or self.automatic)

    def real_frame(self):
        self.last_real, self.real_count = time.monotonic(), self.real_count + 1
        if self.automatic and self.real_count >= self.config.frame_count_to_disable:
            self.automatic = False
            self.show(self.manual)

    def no_frame(self):
        """True: the original passes until the slate comes. False: nothing is sent."""
        self.real_count = 0
        if not self.config.is_active():
            return False
        if not self.automatic and time.monotonic() - self.last_real >= self.config.auto_timeout_seconds:
            self.automatic = True
            self.show(True)
        return True
