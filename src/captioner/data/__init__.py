"""Pictures and captions on disk: decoding of pictures, and the three files of a data set.

Input: bytes and tables. Output: pixels and tables. It does not know where a data set comes from or what it is used for.
"""
