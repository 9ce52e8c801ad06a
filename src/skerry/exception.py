"""The errors, under the module name that Modal programs use."""

from __future__ import annotations

from skerry.model.errors import *  # noqa: F403
