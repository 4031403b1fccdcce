"""Answers for people: a mix, an example or words in, stems out.

A *retriever* holds one model and its tables; a *mix* is cut into chunks, each of which asks; a
*candidate* is a stem that was found, with the *place* to play it from and its *variants*, other
recordings of the same thing. *Words* may name an instrument that is known, or be a guess.
*Excerpts* are candidates as files. Tables and the search in them are ``ml.retrieval.tables``;
routes of the web page ``ml.serve``.
"""
