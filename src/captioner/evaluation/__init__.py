"""Evaluation of a model: baselines, confidence intervals, attention metrics, and the files of an evaluation.

Input: captions, scores and statistics. Output: `results/evaluate/` and `results/baselines/`. It does not depend on
MLflow or other runs.
"""

BASELINES = {
    "constant": "one caption for all pictures",
    "person": "a person, against one reference fewer",
    "unigram": "word frequencies",
    "unigram-by-position": "word frequencies by position",
    "picture-blind": "a model without pictures",
}
"""Baselines that depend on the data and not on a model: the suffix of the score's name, and its meaning."""
CHANCE = ("pointing-chance", "box-share")
"""Expected values for a random position: also baselines, computed for the objects that a model names."""
