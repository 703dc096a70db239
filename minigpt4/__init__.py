"""MiniGPT-4 and MiniGPT-v2 for today's libraries: align a vision encoder with any language model.

Importing the package is cheap: nothing heavy is loaded before a class is looked up in
`minigpt4.common.registry`.
"""

__version__ = "0.1.0"
