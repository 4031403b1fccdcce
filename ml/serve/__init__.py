"""``stems serve``: the API and the page where one drops a mix, asks for a stem, and hears it.

A *mix* is uploaded (``uploads``, decoded by the process ``decode_upload``) or summed of a track
(``mixes``); a *search* ranks the stems of the table (``search_routes``, ``catalog``); a *sound* is
what browsers play, kept in one private temporary folder (``sounds``, ``stem_audio``,
``stem_routes``). ``app`` puts ``service``, endpoints and ``security`` together, ``schemas`` are the
answers, ``static`` is the page. FastAPI and uvicorn are imported here alone; how a query is
answered: ``ml.retrieval.queries``.
"""
