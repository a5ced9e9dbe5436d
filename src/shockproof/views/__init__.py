"""
What is on the disk, made readable for people: for the command line, and as a page.
"""
