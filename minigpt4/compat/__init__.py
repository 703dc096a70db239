"""What code written for the original calls and this project calls otherwise: docs/porting.md lists it.

Nothing of the project uses it. The modules where the original has these names hand them on:
`common.dist_utils`, `common.utils`, `conversation.conversation` and `models`.
"""
