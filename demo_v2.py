#!/usr/bin/env python
"""The original's name of `demo.py` for MiniGPT-v2:

python demo_v2.py --cfg-path eval_configs/minigptv2_eval.yaml --gpu-id 0
"""

from minigpt4.commands.chat import main

if __name__ == "__main__":
    main()
