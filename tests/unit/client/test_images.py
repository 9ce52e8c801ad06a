from __future__ import annotations

from typing import Any

import pytest

import skerry
from skerry import aio
from skerry.exception import InvalidError, UnimplementedError
from skerry.model.specs import ImageDefinition, ImageStep, StepKind


def definition(image: aio.Image) -> ImageDefinition:
    return image._definition


def test_a_chain_describes_its_steps_in_order() -> None:
    image = (
        aio.Image.debian_slim("3.11")
        .apt_install("gcc", ["make", "git"])
        .pip_install("pandas")
        .run_commands("echo one", "echo two")
        .env({"A": "b=c"})
        .workdir("/src/")
    )
    assert definition(image) == ImageDefinition(
        python_version="3.11",
        steps=(
            ImageStep(kind=StepKind.APT, arguments=("gcc", "make", "git")),
            ImageStep(kind=StepKind.PIP, arguments=("pandas",)),
            ImageStep(kind=StepKind.RUN, arguments=("echo one", "echo two")),
            ImageStep(kind=StepKind.ENV, arguments=("A=b=c",)),
            ImageStep(kind=StepKind.WORKDIR, arguments=("/src",)),
        ),
    )


def test_a_step_leaves_the_image_before_it_as_it_was() -> None:
    base = aio.Image.debian_slim()
    base.pip_install("pandas")
    assert definition(base).steps == ()
    assert base.pip_install() is base


@pytest.mark.parametrize(
    "step",
    [
        lambda image: image.pip_install(3),
        lambda image: image.apt_install(""),
        lambda image: image.run_commands("a\0b"),
        lambda image: image.env({"A=B": "x"}),
        lambda image: image.env({"A": 3}),
        lambda image: image.workdir("relative"),
        lambda _: aio.Image.debian_slim(3.11),  # type: ignore[arg-type]
    ],
)
def test_a_step_that_cannot_be_is_refused_when_it_is_written(step: Any) -> None:
    with pytest.raises(InvalidError):
        step(aio.Image.debian_slim())


def test_the_synchronous_chain_is_the_same() -> None:
    image = skerry.Image.debian_slim().pip_install("pandas").env({"A": "b"})
    assert definition(image._inner) == definition(aio.Image.debian_slim().pip_install("pandas").env({"A": "b"}))
    with pytest.raises(UnimplementedError, match="index_url"):
        skerry.Image.debian_slim().pip_install("pandas", index_url="https://x")
