from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from skerry.engine.placement import CPU_OVERCOMMIT, NoCapacity, place
from skerry.model.ids import NodeId
from skerry.model.nodes import NodeView
from skerry.model.specs import Resources

NODE = NodeView(
    id=NodeId("no_1"), cpus=2.0, memory_mib=1000, reserved_cpus=0.0, reserved_memory_mib=0, sandboxes=0, sandboxes_max=4
)
ASK = Resources(memory_mib=100)


def test_the_node_with_the_most_memory_left_is_chosen() -> None:
    emptier = replace(NODE, id=NodeId("no_2"), reserved_memory_mib=100)
    fuller = replace(NODE, reserved_memory_mib=500)
    assert place(ASK, [fuller, emptier]) == "no_2"


def test_a_lack_of_memory_says_what_was_asked_and_what_is_free() -> None:
    answer = place(replace(ASK, memory_mib=600), [replace(NODE, reserved_memory_mib=500)])
    assert answer == NoCapacity({"memory_mib": {"asked": 600.0, "free": 500.0}})
    assert "memory_mib (asked 600, free 500)" in str(answer)


def test_a_full_node_says_that_sandboxes_are_missing() -> None:
    answer = place(ASK, [replace(NODE, sandboxes=4)])
    assert isinstance(answer, NoCapacity)
    assert list(answer.missing) == ["sandboxes"]


def test_requests_of_cpu_are_shares_up_to_a_bound() -> None:
    bound = NODE.cpus * CPU_OVERCOMMIT
    assert place(replace(ASK, cpu=1.0), [replace(NODE, reserved_cpus=bound - 1.0)]) == NODE.id
    assert isinstance(place(replace(ASK, cpu=1.0), [replace(NODE, reserved_cpus=bound - 0.5)]), NoCapacity)


def test_without_nodes_there_is_no_capacity() -> None:
    assert isinstance(place(ASK, []), NoCapacity)


nodes = st.lists(
    st.builds(
        NodeView,
        id=st.uuids().map(lambda id: NodeId(str(id))),
        cpus=st.floats(1, 64),
        memory_mib=st.integers(100, 10_000),
        reserved_cpus=st.floats(0, 1000),
        reserved_memory_mib=st.integers(0, 12_000),
        sandboxes=st.integers(0, 20),
        sandboxes_max=st.integers(0, 20),
    ),
    max_size=5,
)


@given(nodes, st.integers(64, 5000), st.floats(0.01, 4))
def test_a_chosen_node_has_room_and_a_refusal_names_a_lack(nodes: list[NodeView], memory: int, cpu: float) -> None:
    answer = place(Resources(memory_mib=memory, cpu=cpu), nodes)
    if isinstance(answer, NoCapacity):
        assert answer.missing
        assert all(lack["asked"] > lack["free"] >= 0 for lack in answer.missing.values())
    else:
        chosen = next(node for node in nodes if node.id == answer)
        assert chosen.reserved_memory_mib + memory <= chosen.memory_mib
        assert chosen.sandboxes < chosen.sandboxes_max
