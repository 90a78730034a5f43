"""Sources of data sets: drawn scenes, Flickr8k, a folder of the user's own, or shards of many pictures.

Input: parameters and archives. Output: a `Dataset`, split into train, validation and test. It does not know how the
data set is stored or used.
"""

DATASETS = ("scenes", "flickr8k", "folder", "shards")
"""Names of the data sets that the stage `download` supports."""
