"""The two images that every sandbox uses, made anew for each build of the agent."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Final, NamedTuple

from skerry.images.erofs import pack_agent

KEPT: Final = 2
"""How many builds are kept: the one in use, and the one before it, to which one may go back."""


class AgentImages(NamedTuple):
    """`member` is the root of a member, `agent` is mounted in a user's image."""

    member: Path
    agent: Path


class AgentFolder:
    """A folder for each build of the agent, named by its digest, the newest ones alone.

    Sandboxes of an earlier build hold the files that they have mounted, whatever becomes of the names.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def images(self, agent: Path) -> AgentImages:
        """Return the images of this program, made now if there are none; older builds beyond the bound go."""
        own = self.folder / hashlib.sha256(agent.read_bytes()).hexdigest()[:20]
        made = AgentImages(member=own / "member.erofs", agent=own / "agent.erofs")
        if not made.member.exists() or not made.agent.exists():
            pack_agent(agent, made.member, made.agent)
        own.touch()
        self._shrink(own)
        return made

    def _shrink(self, own: Path) -> None:
        others = sorted((one for one in self.folder.iterdir() if one != own), key=lambda one: one.stat().st_mtime)
        for old in others[: max(0, len(others) - KEPT + 1)]:
            shutil.rmtree(old, ignore_errors=True)
        for left in own.glob(".*"):  # of a packing that a kill cut off
            shutil.rmtree(left, ignore_errors=True)
