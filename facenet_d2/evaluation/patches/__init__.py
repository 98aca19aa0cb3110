"""Results of an evaluation on patches, put together to results and truth of whole scenes.

Needs the extra ``geo``, except for :mod:`.places` and :mod:`.result_index`.
"""
