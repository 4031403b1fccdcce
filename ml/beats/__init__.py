"""Beat tracking from frozen embeddings (Riou et al., section IV-C; Table II)."""
