"""`python -m minigpt4 COMMAND`."""

from minigpt4.commands import main

if __name__ == "__main__":
    main()
