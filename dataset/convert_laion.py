"""The original's way to convert the captions of LAION: `minigpt4 convert-captions`."""

from minigpt4.commands.convert_captions import main

if __name__ == "__main__":
    main()
