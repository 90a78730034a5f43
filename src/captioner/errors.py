"""The one exception for what a user can cause and mend."""


class CaptionerError(Exception):
    """Says in one line what was received, what is allowed and how to mend it.

    Stages and commands print the message without a stack trace and exit with 1.
    """
