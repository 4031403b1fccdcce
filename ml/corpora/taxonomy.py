"""The address of the taxonomy for code outside: ``ml.labels.taxonomy`` has it."""

from ml.labels.taxonomy import CATEGORIES, FOUR_CLASSES, TRACK_TYPES, category_of, four_class

__all__ = ["CATEGORIES", "FOUR_CLASSES", "TRACK_TYPES", "category_of", "four_class"]
