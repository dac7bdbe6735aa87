"""Methods as their authors' code is organised, to be measured against: one model at a time, written from papers and descriptions.

Each module has ``second_task``: a step of a second task, as a function of images and labels, after a first one that was closed.
"""
