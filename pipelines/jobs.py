"""What can be run as a whole: one job a stage. Jobs are verbs; assets are nouns.

``ASSETS`` is the only list of which asset belongs to which stage; steps in this process, the
nightly schedule and tests read it. Jobs over partitioned assets take one corpus a run (no range
runs: they would give every corpus the same data version).
https://docs.dagster.io/guides/build/jobs/asset-jobs
"""

import dagster as dg

ASSETS = {
    "prepare_corpus": ("corpus_tracks", "label_embeddings", "stem_shards"),
    "train_model": ("contrastive_encoder", "stem_jepa"),
    "embed_corpus": ("stem_embeddings",),
    "evaluate_retrieval": ("stem_embeddings", "retrieval_scores", "instrument_scores"),
    "prepare_beats": ("beat_features",),
    "evaluate_beats": ("beat_probe", "beat_scores"),
    "write_report": ("champion", "report"),
    "observe_corpora": ("corpus_files",),
}
"""Job → its assets, in the order in which they are made."""
DESCRIPTIONS = {
    "prepare_corpus": "Scan a corpus, encode its labels and make its training shards. For a corpus "
    "that is only evaluated, leave stem_shards out.",
    "train_model": "Phase 1, then phase 2 for each preset, on the shards of training.corpora. "
    "Unfinished runs are resumed, finished ones reused.",
    "embed_corpus": "Embed a corpus with every current model and publish it for queries.",
    "evaluate_retrieval": "Embed a corpus with every current model, score retrieval, also by "
    "instrument.",
    "prepare_beats": "Features of a corpus with beats by every current model, for beat probes.",
    "evaluate_beats": "Train beat probes on the features of beats.corpora and score them "
    "(Table II).",
    "write_report": "Let the first preset be champion if it is not worse, write the HTML report.",
    "observe_corpora": "Look at the files of every corpus; it reads no audio and makes nothing.",
}
all_jobs = {
    name: dg.define_asset_job(name, selection=list(assets), description=DESCRIPTIONS[name])
    for name, assets in ASSETS.items()
}
