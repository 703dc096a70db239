"""Where the original has these names; the package itself uses none of them."""

from minigpt4.compat.utils import get_abs_path, is_url, now

__all__ = ["get_abs_path", "is_url", "now"]
