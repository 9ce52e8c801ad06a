"""`StreamType`, under the module name that Modal programs use."""

from __future__ import annotations

from skerry.client.stream_type import StreamType

__all__ = ["StreamType"]
