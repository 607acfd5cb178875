"""What every room stands on: errors, files, model folders, progress, commands, the training loop.

It knows no room: nothing here knows what a codec, a prior or a conditioner is.
"""
