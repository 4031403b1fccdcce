"""Audio: decoding, silence, log-mels."""
