"""Backpropagation derived by hand, in NumPy: every equation stated once, proved, executed and weighed."""

__version__ = "0.1.0"
