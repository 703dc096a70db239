#!/usr/bin/env python
"""The original's evaluation of referring expressions, by its flags: `evaluate.py` does the work.

example:
  python eval_scripts/eval_ref.py --cfg-path eval_configs/minigptv2_benchmark_evaluation.yaml \\
      --dataset refcoco --split testA
"""

from minigpt4.compat.evaluation import evaluate_as

if __name__ == "__main__":
    evaluate_as(["refcoco", "refcoco+", "refcocog"])
