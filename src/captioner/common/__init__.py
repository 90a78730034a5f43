"""What every other package needs: errors, whole files, threads, the start of a process, and Keras as it is used here.

It takes and returns plain values. It knows nothing of pictures, captions or models, and no result depends on it.
"""
