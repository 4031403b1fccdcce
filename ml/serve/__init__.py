"""``stems serve``: the API and the page where one drops a mix, asks for a stem, and hears it.

``app`` puts the parts together, ``routes`` are the endpoints, ``schemas`` what they answer;
``uploads``, ``mixes`` and ``stem_audio`` keep audio in one private temporary folder; ``static`` is
the page. FastAPI and uvicorn are imported in this package alone.
"""
