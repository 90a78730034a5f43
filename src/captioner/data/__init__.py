"""Pictures and captions on disk: decoding of pictures, and the three files of a data set.

In come bytes and tables, out go pixels and tables. It does not know where a data set comes from or what it is used for.
"""
