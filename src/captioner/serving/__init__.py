"""Models over HTTP: a web page to try them, and the MLflow server.

Input: requests. Output: responses. It trusts no input and stores none.
"""
