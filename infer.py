#!/usr/bin/env python
"""`minigpt4 infer`, from a checkout."""

from minigpt4.commands.infer import main

if __name__ == "__main__":
    main()
