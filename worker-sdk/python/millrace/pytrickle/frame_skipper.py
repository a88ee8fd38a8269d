# SPDX-License-Identifier: MIT
"""PyTrickle's settings for skipping frames: accepted, and not needed, since a slow worker is given the newest frames."""
from dataclasses import dataclass
from typing import Optional


@dataclass
class FrameSkipConfig:
    target_fps: Optional[float] = None
    adaptation_cooldown: float = 0.5
    max_queue_size: int = 15
