"""The address of the folder reader for code outside: ``ml.corpora.readers.folder`` has it."""

from ml.corpora.readers.folder import FolderCorpus, labels_of_name

__all__ = ["FolderCorpus", "labels_of_name"]
