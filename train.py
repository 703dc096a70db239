#!/usr/bin/env python
"""`minigpt4 train`, from a checkout."""

from minigpt4.commands.train import main

if __name__ == "__main__":
    main()
