#!/usr/bin/env python
"""`minigpt4 sweep`, from a checkout."""

from minigpt4.commands.sweep import main

if __name__ == "__main__":
    main()
