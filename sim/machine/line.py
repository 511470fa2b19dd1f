"""The line between two processes of ours: an inherited socket."""

from __future__ import annotations

CONTROL_FD = "BUSLAB_CONTROL_FD"
