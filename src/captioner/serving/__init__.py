"""Models over HTTP: a web page to try them, and the MLflow server.

In come requests, out go responses. It trusts no input and stores none.
"""
