"""
What is on the disk, and how a program runs, made readable for people: for the command line, and as pages.
"""
