"""Models behind HTTP: the web page to try them on, and the MLflow server.

In come requests, out go answers. It trusts nothing that it receives, and keeps nothing of it.
"""
