"""Merging of patch results, and of the patches' ground truth, into whole scenes.

Needs the extra ``geo``, except for :mod:`.places` and :mod:`.result_index`.
"""
