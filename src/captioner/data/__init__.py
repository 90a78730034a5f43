"""Pictures and captions on disk: encoded pictures to pixels, and the three files that hold a data set.

In come bytes and tables, out go pixels and tables. It does not know where a data set comes from or what it is used for.
"""
