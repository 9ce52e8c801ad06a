from __future__ import annotations

import itertools

import pytest

from skerry.engine.live import Live, ended_error, way
from skerry.model.errors import InternalError
from skerry.model.ids import ImageId, NodeId, SandboxId
from skerry.model.sandboxes import SandboxState, SandboxView, may_follow
from skerry.model.specs import SandboxSpec


def view(state: SandboxState) -> SandboxView:
    return SandboxView(
        id=SandboxId("sb_1"),
        spec=SandboxSpec(image=ImageId("im_1")),
        state=state,
        node=NodeId("no_1"),
        created_at=1.0,
    )


@pytest.mark.parametrize("current", [state for state in SandboxState if not state.ended])
def test_from_every_state_that_is_no_end_there_is_a_lawful_way_to_stopped(current: SandboxState) -> None:
    steps = (current, *way(current, SandboxState.STOPPED))
    assert steps[-1] is SandboxState.STOPPED
    assert all(may_follow(before, after) for before, after in itertools.pairwise(steps))


def test_a_move_that_the_table_does_not_have_is_a_defect() -> None:
    live = Live(view(SandboxState.RUNNING))
    with pytest.raises(InternalError, match="running to pending"):
        live.move(SandboxState.PENDING)
    assert live.view.state is SandboxState.RUNNING


def test_a_start_that_failed_without_an_exit_still_has_a_reason() -> None:
    assert "start_failed" in str(ended_error(view(SandboxState.FAILED)))
