#!/usr/bin/env python
"""The original's evaluation of questions about pictures, by its flags: `evaluate.py` does the work.

example:
  python eval_scripts/eval_vqa.py --cfg-path eval_configs/minigptv2_benchmark_evaluation.yaml \\
      --dataset okvqa,gqa
"""

from minigpt4.compat.evaluation import evaluate_as

if __name__ == "__main__":
    evaluate_as(["okvqa", "vizwiz", "iconvqa", "gqa", "vsr", "hm"])
