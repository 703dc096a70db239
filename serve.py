#!/usr/bin/env python
"""`minigpt4 serve`, from a checkout."""

from minigpt4.commands.serve import main

if __name__ == "__main__":
    main()
