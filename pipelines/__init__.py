"""When and with what the assets run.

*Definitions* are all that Dagster knows of a home (``build``). A *job* is a stage that can be run,
a *step* a job that a terminal runs in this process (``jobs``, ``execute``: the demo and single
corpora). What begins runs without a person, and what follows from them, is in ``automation``; what
people see of them in ``progress``. What an asset is made of, and its checks, stand in
``assets_def``; how it is made stands in ``ml``.
"""
