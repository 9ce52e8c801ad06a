"""Where the time of a start went: the server's stages and the client's, which add up to what the caller's clock saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from skerry.model.sandboxes import Stage


@dataclass(frozen=True)
class Timings:
    """The waterfall of one `Sandbox.create`."""

    stages: tuple[Stage, ...] = ()

    @property
    def total_ms(self) -> float:
        return sum(stage.ms for stage in self.stages)

    def __str__(self) -> str:
        width = max(len("total"), *(len(stage.name) for stage in self.stages), 0)
        rows, at = [], 0.0
        for stage in self.stages:
            rows.append(f"{stage.name:<{width}}  {at:9.1f}  +{stage.ms:.1f} ms")
            at += stage.ms
        return "\n".join([*rows, f"{'total':<{width}}  {at:9.1f} ms"])


class Stopwatch:
    """Cuts the time of a call into named stages without gaps."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = clock()
        self._stages: list[Stage] = []

    def lap(self, name: str) -> None:
        """End a stage here; one that took no measurable time is left out."""
        self._add(name, self._elapsed())

    def lap_around(self, name: str, inner: Sequence[Stage]) -> None:
        """End a stage of which the server told the inside; `name` gets what is left for the way there and back."""
        rest = self._elapsed() - sum(stage.ms for stage in inner)
        self._stages.extend(inner)
        # The server's clock may run a little ahead of ours: then the inside is all there is.
        self._add(name, max(rest, 0.0))

    def timings(self) -> Timings:
        return Timings(tuple(self._stages))

    def _elapsed(self) -> float:
        now = self._clock()
        elapsed, self._last = (now - self._last) * 1000, now
        return elapsed

    def _add(self, name: str, ms: float) -> None:
        if ms > 0:
            self._stages.append(Stage(name=name, ms=ms))
