#!/usr/bin/env python
"""`minigpt4 evaluate`, from a checkout."""

from minigpt4.commands.evaluate import main

if __name__ == "__main__":
    main()
