"""Adapters that let other programs use this project's models.

Each module needs the package of its program. None is imported with ``facenet_d2``.
"""
