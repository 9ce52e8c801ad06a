"""What may happen to a running sandbox: the first of these in its supervisor's queue ends it, or lets go of it."""

from __future__ import annotations

from dataclasses import dataclass

from skerry.model.exits import ProcessExit, SandboxReason
from skerry.node.agent_stream import Lost


@dataclass(frozen=True)
class Asked:
    """Somebody ends it on purpose."""

    reason: SandboxReason


@dataclass(frozen=True)
class EntrypointEnded:
    exit: ProcessExit


@dataclass(frozen=True)
class AgentGone:
    """The link to its agent is over."""

    lost: Lost


@dataclass(frozen=True)
class AgentSilent:
    """Its agent answers nothing, though the link is there."""

    evidence: str


@dataclass(frozen=True)
class SentryGone:
    pass


@dataclass(frozen=True)
class Leave:
    """The node goes, the sandbox stays: its successor takes it over."""


Happening = Asked | EntrypointEnded | AgentGone | AgentSilent | SentryGone | Leave
