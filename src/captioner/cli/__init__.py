"""The command line `captioner`.

In come arguments, out go lines and exit codes. The other packages do the work.
"""
