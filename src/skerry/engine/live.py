"""A sandbox that lives: its states, in the order in which it may go through them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from skerry.model.errors import Error, InternalError, SandboxEndedError
from skerry.model.sandboxes import SandboxState, SandboxView, may_follow
from skerry.model.text import escaped


@dataclass
class Live:
    """A sandbox that has not ended. `settled` is set once its start is over, `ended` once its end is on disk."""

    view: SandboxView
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    failure: Error | None = None
    finishing: bool = False

    def move(self, *states: SandboxState, **changes: object) -> SandboxView:
        """Go through `states` and take `changes`."""
        for state in states:
            if not may_follow(self.view.state, state):
                raise InternalError(f"sandbox {self.view.id} cannot go from {self.view.state} to {state}")
            self.view = replace(self.view, state=state)
        self.view = replace(self.view, **changes)  # type: ignore[arg-type]
        return self.view


def ended_error(view: SandboxView) -> SandboxEndedError:
    """Return the error for a call that needs a running sandbox."""
    end = view.exit
    reason = "start_failed" if end is None else end.reason.value
    details = (
        {}
        if end is None
        else {"reason": end.reason.value, "code": end.code, "signal": end.signal, "evidence": escaped(end.evidence)}
    )
    return SandboxEndedError(f"sandbox {view.id} has ended ({reason}); create a new one", exit=details)


def way(current: SandboxState, target: SandboxState) -> tuple[SandboxState, ...]:
    """Return the states to go through: what was never seen running stops by way of `stopping`."""
    if current is target:
        return ()
    if may_follow(current, target):
        return (target,)
    if current is SandboxState.PENDING:
        return (SandboxState.STARTING, *way(SandboxState.STARTING, target))
    return (SandboxState.STOPPING, target)
