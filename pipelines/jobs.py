"""What can be run as a whole: one job a stage. Jobs are verbs; assets are nouns.

Jobs over partitioned assets take one corpus a run (no range runs: they would give every corpus the
same data version). https://docs.dagster.io/guides/build/jobs/asset-jobs
"""

import dagster as dg

prepare_corpus = dg.define_asset_job(
    "prepare_corpus",
    selection=["corpus_tracks", "label_embeddings", "stem_shards"],
    description="Scan a corpus, encode its labels and make its training shards. For a corpus that "
    "is only evaluated, leave stem_shards out.",
)
train_model = dg.define_asset_job(
    "train_model",
    selection=["contrastive_encoder", "stem_jepa"],
    description="Phase 1, then phase 2 for each preset, on the shards of training.corpora. "
    "Unfinished runs are resumed, finished ones reused.",
)
embed_corpus = dg.define_asset_job(
    "embed_corpus",
    selection=["stem_embeddings"],
    description="Embed a corpus with every current model and publish it for queries.",
)
evaluate_retrieval = dg.define_asset_job(
    "evaluate_retrieval",
    selection=["stem_embeddings", "retrieval_scores", "instrument_scores"],
    description="Embed a corpus with every current model, score retrieval, also by instrument.",
)
prepare_beats = dg.define_asset_job(
    "prepare_beats",
    selection=["beat_features"],
    description="Features of a corpus with beats by every current model, for beat probes.",
)
evaluate_beats = dg.define_asset_job(
    "evaluate_beats",
    selection=["beat_probe", "beat_scores"],
    description="Train beat probes on the features of beats.corpora and score them (Table II).",
)
write_report = dg.define_asset_job(
    "write_report",
    selection=["champion", "report"],
    description="Let the first preset be champion if it is not worse, write the HTML report.",
)

all_jobs = [
    prepare_corpus,
    train_model,
    embed_corpus,
    evaluate_retrieval,
    prepare_beats,
    evaluate_beats,
    write_report,
]
