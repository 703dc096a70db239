"""`minigpt4 download-minigptv2`, from a checkout."""

from minigpt4.commands.download_minigptv2 import main

if __name__ == "__main__":
    main()
