"""A recording and a model in, the recording and its continuation out: three commands in one go.

It knows the rooms' public functions and the layout of a model folder, not how any of them works.
"""
