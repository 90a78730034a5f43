"""The command `captioner`.

In come arguments, out go lines and exit codes. What a command does is in the other packages.
"""
