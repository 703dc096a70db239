"""The original's way to convert the captions of CC3M, CC12M and SBU: `minigpt4 convert-captions`."""

from minigpt4.commands.convert_captions import main

if __name__ == "__main__":
    main()
