"""Where the original has these names; the package itself uses none of them."""

from minigpt4.compat.evaluation import computeIoU, eval_parser, init_model, prepare_texts

__all__ = ["computeIoU", "eval_parser", "init_model", "prepare_texts"]
