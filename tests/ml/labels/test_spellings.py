from __future__ import annotations

import pytest

from ml.labels.spellings import INSTRUMENTS, WORDS, read_spelling
from ml.labels.taxonomy import CATEGORIES, FOUR_CLASSES, four_class

NAMES = {
    "bass": (
        "Bass Syn, Chapman Stick, Bass DI, Bs DI, Bass1, E-Bass, Sub, SynthBass, Bass Gtr, "
        "808s Bass, UB, Fretless"
    ),
    "bowed strings": "Vln 1, Vla, Vc, Strgs Hi, Violins2, Cello_L, Fiddle, Str, Pizz",
    "drums": (
        "Snare Smpl, Kick Boom, Drum Ambience, Stick, "
        "Kick In, K In, Sub Kick, Kick1, BD, SN TOP, Sn T, Snr Btm, SD, HH, HiHat, T1, Toms2, FT, "
        "OH L, OHR, Dr. Overheads, CYM, Bassdrum, DrumLoop, Rimshot, drums_OH_L, DRM_Kick, Room L"
    ),
    "guitar": (
        "Elec Gtr L, E Gtr Chorus, Chorus Gtr, Gtr-Ch, Ac Gtr, AGtr, EGT 1, Steel Gtr, Nylon, PSG, "
        "Acoustic Gtr Verse, Dist Gtr R, GtrAc2, E-Gitarre, Guitarra"
    ),
    "other": (
        "Vinyl, Ambience 2, Atmo, Samples, White Noise, FX, SFX, Riser, Click, Count, "
        "Scratches, Foley"
    ),
    "other keys": (
        "Synth Pad, Choir Pad, Org, B3, Clav, Keys, Stabs, Syn Ld, Arp, Moog, Mellotron Flutes"
    ),
    "other plucked": "Bjo, Mand, Uke, Hrp, Sitar",
    "percussion": (
        "Cow Bell, Wood Block, Perc, Tambo, Shkr, Congas, Vibes, Glock, Timp, Cowbell, Claps, "
        "Percussão 2"
    ),
    "piano": "Pno Vinyl, Pno, Rhodes, Wurl, EP, Grand Piano, E.Piano, Klavier",
    "vocals": (
        "Lead Vox DT, LdVox2, LV-D, Vox1, Vocs, BGV, bgv stack, BGV Alto 4, BV1, BackingVox, "
        "Harmony Vocal, Harmonies, Ad Libs, Choir, V Lead Chorus DBL, Vx Lead, Rap, Vocal FX, Voix"
    ),
    "wind": (
        "Brass Stabs, Cor Anglais, Alto Sax, Tenor Sax 1, Bass Clarinet, Bass Harmonica, "
        "Tpt 2, Tbn, Hrns, Fl, Ob, Flöte"
    ),
}


@pytest.mark.parametrize("category", sorted(CATEGORIES))
def test_what_engineers_write_gets_its_category(category: str) -> None:
    read = {name: read_spelling(name).labels for name in NAMES[category].split(", ")}
    assert {name for name, labels in read.items() if labels[:1] != (category,)} == set()


def test_instruments_have_the_texts_of_the_taxonomy() -> None:
    for name, text in {
        "Kick1": "kick drum", "OH L": "overheads", "BGVs": "background vocals", "FT": "toms",
        "Ac Gtr Verse 2": "acoustic guitar", "Dist Gtr": "distorted electric guitar",
        "Rhds": "electric piano", "Syn Pad": "synth pad", "SynBass": "synth bass",
        "Strings": "string section", "Vln": "violin", "Click": "click track",
    }.items():  # fmt: skip
        labels = read_spelling(name).labels
        assert labels[-1] == text
        assert text in CATEGORIES[labels[0]]


def test_numbers_case_and_marks_change_nothing() -> None:
    for name in [short for names in WORDS.values() for short in names.split(", ")]:
        labels = read_spelling(name).labels
        if name[-1].isdigit():
            continue
        for other in (
            f"{name}1",
            f"{name}_02",
            f"03-{name}",
            name.upper(),
            f"{name} L",
            f"{name}.R",
        ):
            assert read_spelling(other).labels == labels, other


def test_categories_agree_with_the_four_classes() -> None:
    for category, instruments in INSTRUMENTS.items():
        expected = category if category in FOUR_CLASSES else "other"
        for instrument, names in instruments.items():
            if instrument == "claps":  # drums among the four, percussion in MoisesDB
                continue
            assert four_class([category, *filter(None, [instrument])]) == expected, instrument
            for name in names.split(", "):
                assert read_spelling(name).labels[:1] == (category,), name


def test_doubt_and_what_is_not_read_are_said() -> None:
    assert read_spelling("Kick").is_sure
    assert not read_spelling("T1").is_sure
    assert not read_spelling("Chorus L").is_sure
    assert read_spelling("Zorp Gtr 2").unread == ("zorp",)
    assert read_spelling("Zorp").labels == ()
    assert read_spelling("snrtop").labels == ("drums", "snare drum")
    assert read_spelling("Cajon 2").labels == ("percussion", "cajon")
    assert read_spelling("01").labels == read_spelling("").labels == ()
