"""Names and tags of real sandboxes, across the death of the server."""

from __future__ import annotations

import pytest
from realserver import Server

import skerry
from skerry.exception import AlreadyExistsError, NotFoundError

pytestmark = pytest.mark.root


def test_a_killed_server_loses_no_name_and_no_tag(server: Server) -> None:
    app = skerry.App.lookup("agents", create_if_missing=True)
    sandbox = skerry.Sandbox.create(app=app, name="web", tags={"stage": "new"})
    sandbox.set_tags({"stage": "done"})
    server.kill9()
    server.start()
    with pytest.raises(AlreadyExistsError, match=sandbox.object_id):
        skerry.Sandbox.create(app=app, name="web")
    found = skerry.Sandbox.from_name("agents", "web")
    assert (found.object_id, found.get_tags()) == (sandbox.object_id, {"stage": "done"})
    assert found.exec("echo", "alive").stdout.read() == "alive\n"
    server.kill9()
    server.start()
    found.terminate()
    with pytest.raises(NotFoundError):
        skerry.Sandbox.from_name("agents", "web")
    (ended,) = skerry.Sandbox.list(tags={"stage": "done"}, include_ended=True)
    assert ended.exit is not None
    assert ended.exit.reason == "terminated"
    skerry.Sandbox.create(app=app, name="web")
