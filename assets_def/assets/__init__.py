"""Assets, one module a stage: corpus, training, embeddings, champion, beats, retrieval."""
