"""serve.py's limits."""

import argparse

import pytest

from minigpt4.commands.serve import checked
from minigpt4.common.errors import ConfigError

pytestmark = pytest.mark.unit

LIMITS = {"max_concurrency": 1, "max_queue": 1, "max_images": 0, "max_new_tokens": 1, "max_body_mb": 1}


def arguments(**changed: int) -> argparse.Namespace:
    return argparse.Namespace(**LIMITS | changed, model_name=None, api_key="", allow_image_urls=False)


def test_checked_takes_the_least_values() -> None:
    limits = checked(arguments(), "minigpt4")
    assert (limits.name, limits.api_key, limits.images, limits.body) == ("minigpt4", None, 0, 2**20)


@pytest.mark.parametrize(("name", "least"), LIMITS.items())
def test_checked_names_the_least_value(name, least) -> None:
    with pytest.raises(ConfigError, match=f"{name.replace('_', '-')} is {least - 1}, .* at least {least}"):
        checked(arguments(**{name: least - 1}), "minigpt4")
