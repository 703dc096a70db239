"""`python -m minigpt4.reproduce minigptv2` is `minigpt4 reproduce minigptv2`."""

from minigpt4.commands.reproduce import main

if __name__ == "__main__":
    main()
