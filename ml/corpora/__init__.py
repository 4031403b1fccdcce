"""Corpora: what is on disk, as tracks of labelled stems. No audio is decoded here."""
