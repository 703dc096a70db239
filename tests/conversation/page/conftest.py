"""A page that this process serves, whose model says what it is told, and a browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from minigpt4.conversation.page.loader import Loader
from minigpt4.processors import Blip2ImageEvalProcessor
from tests.support.browsing import Page, open_browser, serving_here
from tests.support.golden import build_golden_model
from tests.support.scripted import ScriptedEngine, ScriptedModel


@pytest.fixture(scope="session")
def browser(tmp_path_factory) -> Iterator:
    driver = open_browser(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def loader() -> Loader:
    loader, model = Loader(), build_golden_model(max_context_len=128).eval()
    loader.model = ScriptedModel(model, Blip2ImageEvalProcessor(image_size=56))
    return loader


@pytest.fixture(scope="module")
def address(tmp_path_factory, loader) -> Iterator[str]:
    with serving_here(tmp_path_factory.mktemp("page"), loader) as address:
        yield address


@pytest.fixture
def engine(loader) -> Iterator[ScriptedEngine]:
    yield loader.model.engine
    loader.model.engine.reset()


@pytest.fixture
def page(browser, address, engine) -> Page:
    return Page(browser, address)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """A red, a green and a blue one."""
    from PIL import Image

    paths = [tmp_path / f"{colour}.png" for colour in ("red", "green", "blue")]
    for path in paths:
        Image.new("RGB", (320, 200), path.stem).save(path)
    return paths
