"""The command line `captioner`.

Input: arguments. Output: lines and exit codes. The other packages do the work.
"""
