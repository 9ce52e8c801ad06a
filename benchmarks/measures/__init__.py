"""One module for each promise; `ALL` has them in the order of SPECIFICATION.md."""

from __future__ import annotations

from benchmarks.findings import Measure
from benchmarks.measures import (
    cold_create,
    cp,
    ends,
    exec,
    files,
    idle_memory,
    importing,
    slow_reader,
    stdout,
    volume_create,
)

ALL = (
    Measure("cold-create", "cold create to the first output of echo", cold_create.run),
    Measure("exec", "exec of /bin/true", exec.run),
    Measure("stdout", "1 GiB of random bytes from a sandbox", stdout.run),
    Measure("files", "files of 100 MiB and 1 MiB through the SDK", files.run),
    Measure("cp", "a tree of 10,000 small files", cp.run),
    Measure("slow-reader", "exec beside a slow reader", slow_reader.run),
    Measure("idle-memory", "memory of idle sandboxes", idle_memory.run),
    Measure("ends", "creates and ends leave nothing", ends.run),
    Measure("volume-create", "create with a volume", volume_create.run),
    Measure("import", "import skerry", importing.run),
)
