#!/usr/bin/env python
"""`minigpt4 chat`, from a checkout."""

from minigpt4.commands.chat import main

if __name__ == "__main__":
    main()
