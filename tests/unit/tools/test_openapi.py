from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import openapi

from skerry.doors.native.errors import STATUS

ROOT = openapi.ROOT


def refs(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if "$ref" in part:
            yield part["$ref"]
        for value in part.values():
            yield from refs(value)
    elif isinstance(part, list):
        for value in part:
            yield from refs(value)


def test_the_file_is_what_its_generator_writes() -> None:
    assert openapi.TARGET.read_text() == openapi.generate()


def test_every_reference_leads_somewhere() -> None:
    document = json.loads(openapi.generate())
    for ref in refs(document):
        found = document
        for step in ref.removeprefix("#/").split("/"):
            found = found[step]


def test_every_call_of_the_protocol_page_is_there_and_no_other() -> None:
    page = (ROOT / "proto/native/socket.md").read_text()
    told = set(re.findall(r"^\| `(GET|POST|PUT|DELETE) (/[^`?]*)", page, re.MULTILINE))
    paths = json.loads(openapi.generate())["paths"]
    there = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert {(method, re.sub(r"{\w+}", "{}", path)) for method, path in told} == {
        (method, re.sub(r"{\w+}", "{}", path)) for method, path in there
    }


def test_the_reference_page_has_every_call_and_every_status() -> None:
    page = (ROOT / "docs/reference/http.md").read_text()
    for path, methods in json.loads(openapi.generate())["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path}`" in page
    for code, status in STATUS.items():
        assert re.search(rf"\| {status} \|[^\n]*`{code}`", page), code
