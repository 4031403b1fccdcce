from __future__ import annotations

import pytest

from ml.labels.names import MEDLEYDB, MIDI_CLASSES, medleydb_labels, moisesdb_labels, slakh_labels
from ml.labels.taxonomy import CATEGORIES, FOUR_CLASSES, TRACK_TYPES, four_class


@pytest.mark.parametrize("category", sorted(TRACK_TYPES))
def test_moisesdb_types_become_the_texts_of_the_taxonomy(category: str) -> None:
    for long, text in TRACK_TYPES[category].items():
        expected = (category,) if text == category else (category, text)
        assert moisesdb_labels(category.replace(" ", "_"), long) == expected
        assert moisesdb_labels(category, long.replace(" ", "_").upper()) == expected


@pytest.mark.parametrize(
    ("stem_name", "track_type", "labels"),
    [
        ("drums", "hi-hat", ("drums", "hi-hat")),  # not among the 44: kept as cleaned text
        ("wind", "Ocarina (sampled), ", ("wind", "ocarina")),
        ("bass", "", ("bass",)),
        ("", "synth pad", ("other keys", "synth pad")),
        ("", "", ()),
        ("new_category", "theremin", ("new category", "theremin")),
    ],
)
def test_moisesdb_names_that_are_not_known(stem_name, track_type, labels) -> None:
    assert moisesdb_labels(stem_name, track_type) == labels


@pytest.mark.parametrize(
    ("instrument", "labels"),
    [
        ("female singer", ("vocals", "female singer")),
        ("Unlabeled", ()),
        ("Main System", ()),
        ("", ()),
        ([], ()),
        (["violin", "cello", "violin"], ("bowed strings", "violin and cello")),
        (["toms", "kick drum", "high hat"], ("drums", "toms, kick drum and hi-hat")),
        (["piano", "Unlabeled"], ("piano",)),
        (["electric bass", "piano"], ("bass guitar and piano",)),
        ("nyckelharpa (solo)", ("nyckelharpa",)),
    ],
)
def test_medleydb_instruments(instrument, labels) -> None:
    assert medleydb_labels(instrument) == labels


def test_medleydb_names_stand_once_under_a_category_of_the_taxonomy() -> None:
    names = [name for text in MEDLEYDB.values() for name in text.split(", ")]
    assert len(names) == len(set(names)) == 115  # its taxonomy without the two for "unknown"
    assert set(MEDLEYDB) <= set(CATEGORIES)
    assert set(MIDI_CLASSES.values()) <= set(CATEGORIES)


@pytest.mark.parametrize("category", ["bass", "drums", "vocals"])
def test_medleydb_names_fall_into_the_class_of_their_category(category: str) -> None:
    for name in MEDLEYDB[category].split(", "):
        assert four_class(medleydb_labels(name)) == category in FOUR_CLASSES, name


@pytest.mark.parametrize(
    ("midi_class", "program", "labels"),
    [
        ("Piano", "Acoustic Grand Piano", ("piano", "grand piano")),
        ("Piano", "Electric Piano 2", ("piano", "electric piano")),
        ("Strings", "Tremolo Strings", ("bowed strings", "tremolo strings")),
        ("Strings (continued)", "String Ensemble 2", ("bowed strings", "string ensemble")),
        ("Strings (continued)", "Choir Aahs", ("vocals", "choir aahs")),
        ("Strings", "Contrabass", ("bass", "double bass")),
        ("Guitar", "Electric Guitar (clean)", ("guitar", "clean electric guitar")),
        ("Synth Lead", "Lead 2 (sawtooth)", ("other keys", "sawtooth synth lead")),
        ("Synth Pad", "Pad 4 (choir)", ("other keys", "choir synth pad")),
        ("Sound Effects", "FX 1 (rain)", ("other", "rain sound effect")),
        ("Sound effects", "Helicopter", ("other", "helicopter")),
        ("Reed", "Alto Sax", ("wind", "alto saxophone")),
        ("Unknown", "Violin", ("bowed strings", "violin")),
        ("Unknown", "Something New", ("something new",)),
        ("Bass", "", ("bass",)),
        ("", "", ()),
    ],
)
def test_slakh_classes_and_programs(midi_class: str, program: str, labels) -> None:
    assert slakh_labels(midi_class, program, is_drums=False) == labels


def test_slakh_drums_whatever_the_program_is_called() -> None:
    assert slakh_labels("Piano", "Violin", is_drums=True) == ("drums", "drum kit")
