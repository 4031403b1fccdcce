"""What engineers call their tracks, read as labels: "Kick1", "OH L", "Ac Gtr Verse", "BGV".

A name is cut into words (``KickIn_01`` is "kick in 01"), an abbreviation stands for its word
("gtr" for "guitar"), and the longest phrases of the vocabulary are looked for. As in English the
last one names the thing ("choir pad" is a pad, "sub kick" a kick); words that may also say how or
where it plays ("chorus", "alto", "fx") count where nothing else does, and words of the trade
("di", "top", "take", "L") count for nothing.

The vocabulary is that of ``ml.labels.taxonomy`` and ``ml.labels.names`` and the tables here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from ml.labels.names import MEDLEYDB, SYNONYMS
from ml.labels.taxonomy import CATEGORIES

WORDS: dict[str, str] = {
    "acoustic": "ac, acc gtr, aco, acous, acst, acoust, akustik, acustica, acoustique",
    "acoustic guitar": "acg, acgtr, ag, agt, agtr, agit, akustikgitarre, akustikgitarren",
    "alto saxophone": "asax",
    "background": "bg, bk, bkg, bck, bkgd, backing, backup, backgrounds",
    "background vocals": (
        "bgv, bgvs, bgvx, bgvox, bgvoc, bgvocs, bv, bvs, bvx, bvox, bvoc, bvocs, backvox, bvocals, "
        "backings, cori, coros, choeurs"
    ),
    "banjo": "banj, bjo, bnjo",
    "baritone saxophone": "bsax, barisax, bari",
    "bass": "bs, bss, bas, basses, basse, basso, bajo, baixo",
    "bass guitar": "bassgtr, bgtr, ebass, ebs, e-bass, bassgitarre",
    "bassoon": "bsn, bssn",
    "bongo": "bongos, bng, bngo, bngs",
    "brass": "brs, brss, blaser, blaeser, cuivres, metales, metais, ottoni",
    "cello": "vc, vcs, vlc, clo, celli, cellos, violoncello, violoncelle",
    "choir": "chor, chr, choeur, coro, choirs",
    "clarinet": "cl, clar, clari, clart, clarinets, klarinette, clarinette, clarinetto",
    "clavinet": "clav, clavi, clv",
    "conga": "congas, cong, cng, cngs",
    "cowbell": "cowb, cwbl, cbell, cow bell",
    "cymbal": "cym, cyms, cymb, cymbs, cymbals, becken",
    "distorted": "dist, dst, disto, overdriven, od, crunch",
    "double bass": (
        "db bass, db bs, dbl bass, dbl bs, contrabass, kontrabass, cb, dbass, dblbass, upr bs, "
        "upright bs, ub, urb"
    ),
    "drum": "dr, drm",
    "drums": "drms, drs, drumz, schlagzeug, batterie, bateria, batteria, kit, drumkit, drumset",
    "electric": "el, elec, elect, elektrik, electrique, electrica, elettrica",
    "electric guitar": "eg, egt, egtr, egit, elgtr, elecgtr, egitarre, egitarren",
    "electric piano": (
        "ep, epno, epn, epiano, rhodes, rhds, rhd, wurli, wurl, wurly, wurlitzer, fender rhodes"
    ),
    "female": "fem",
    "floor tom": "ft, flr tom, fl tom, flrtom, floor",
    "flugelhorn": "flugel, flug",
    "flute": "fl, flt, flutes, flote, floete, flauta, flauto",
    "french horn": "fhn, fhrn, frhn, fr hn, fr hrn, fr horn",
    "glockenspiel": "glock, glk, glsp, glocken",
    "guitar": (
        "gtr, gtrs, gt, gts, gtar, gtars, git, gits, guit, guits, guitars, gitarre, gitarren, "
        "guitare, guitares, guitarra, guitarras, chitarra, chitarre, gitara"
    ),
    "harmony": "harmonies, harms, hmy, hmny, harmo, harm",
    "harmonica": "hca, hrmca, bluesharp, blues harp, harp mic",
    "harp": "hrp, harfe",
    "harpsichord": "harpsi, hpschd, cembalo",
    "hi hat": "hh, hhs, hht, hihat, hihats, hat, hats, hhat, hi hats, high hat, high hats, charley",
    "horn": "hn, hns, hrn, hrns, horns",
    "keyboard": (
        "key, keys, kys, kb, kbd, kbds, keyb, keyboards, clavier, claviers, teclado, teclados, "
        "tastiera, tastiere"
    ),
    "kick": (
        "kik, kck, kk, kd, bd, bdr, kicks, kickdrum, bassdrum, bass drum, bass drums, kick drum, "
        "kick drums, bombo, grosse caisse"
    ),
    "lead": "ld, lds",
    "lead vocals": "lv, lvs, lvx, lvox, ldvox, leadvox, ldv, ldvx",
    "mandolin": "mand, mando, mandos, mndln, mdln",
    "marimba": "mar, marim, mrmb",
    "mellotron": "mello, mtron",
    "oboe": "ob, obs, oboes",
    "organ": "org, orgn, hammond, hmnd, b 3, organs, orgel, orgue, organo, farfisa",
    "overheads": "oh, ohs, ohl, ohr, oheads, overhead, over heads, over head, ovhd, ovh, ohd",
    "percussion": (
        "perc, percs, prc, prcs, percu, percuss, percusion, percussao, percussioni, perkussion"
    ),
    "piano": "pno, pnos, pn, pf, pia, pianos, klavier, pianoforte",
    "piccolo": "picc, pic",
    "rack tom": "rt, rck tom, racktom, rack",
    "ride": "rd",
    "room": "rm, rms, rooms",
    "rhythm": "rhy, rhyth, rtm, rth, rhtm, rym",
    "saxophone": "sax, saxes, saxs, sx, saxophones, saxofon, saxofone, sassofono",
    "shaker": "shk, shkr, shkrs, shak, shake, shakers, shekere, egg",
    "slide guitar": (
        "slide, lap steel, steel guitar, pedal steel, pedal steel guitar, psg, dobro, resonator, "
        "slide gtr, lapsteel, pedalsteel, steel gtr, lap steel guitar"
    ),
    "snare": "sn, sns, snr, snrs, sd, sna, snre, snares, snare drum, snare drums, caisse claire",
    "soprano saxophone": "ssax",
    "strings": "str, strs, strgs, strng, strngs, string, streicher, cuerdas, cordas, cordes, archi",
    "synth": "syn, synt, syns, synths, syth, synthe, synthesizer, synthesiser, synthesizers, sy",
    "synth bass": (
        "synbass, sybass, syn bs, synthbass, bass synth, bass syn, bs syn, moog bass, bassynth"
    ),
    "tambourine": "tamb, tambo, tambs, tmb, tambor, tambourin, tambourines",
    "tenor": "ten, tnr",
    "tenor saxophone": "tsax",
    "timpani": "timp, timps, tmp, pauken",
    "tom": "toms, tm, tms, tomtom, tom tom, tom toms",
    "trombone": "tbn, tbns, trb, trbn, bone, bones, tbone, tbones, trombones, posaune, posaunen",
    "trumpet": "tpt, tpts, trp, trpt, trpts, tp, trumpets, trompete, trompeten, trompeta, tromba",
    "tuba": "tba",
    "ukulele": "uke, ukes, ukelele",
    "vibraphone": "vib, vibs, vibe, vibes",
    "viola": "vla, vlas, vas, violas, bratsche",
    "violin": (
        "vln, vlns, vl, vn, vns, vio, viol, violins, geige, geigen, violon, violino, violines"
    ),
    "vocals": (
        "vox, voxs, voc, vocs, vx, vcl, vcls, vcx, vocal, voice, voices, stimme, stimmen, gesang, "
        "voix, chant, voz, voces, vozes, voce, voci, vokal, singer, singers, singing"
    ),
    "xylophone": "xyl, xylo",
}
"""A word or phrase, and what else is written for it."""

INSTRUMENTS: dict[str, dict[str, str]] = {
    "bass": {
        "bass": "bass",
        "bass guitar": "bass guitar, electric bass, precision bass, jazz bass, chapman stick",
        "fretless bass": "fretless, fretless bass",
        "double bass": "double bass, upright, upright bass, acoustic bass, standup bass",
        "synth bass": "synth bass, reese, bassline, acid bass",
        "sub bass": "sub, sub bass, subs",
        "808 bass": "808 bass, 808 sub",
    },
    "bowed strings": {
        "string section": (
            "strings, pizz, pizzicato, spicc, spiccato, string section, string quartet, quartet, "
            "string orchestra"
        ),
        "violin": "violin, fiddle",
        "viola": "viola",
        "cello": "cello",
    },
    "drums": {
        "drums": (
            "drum, drums, drum bus, beat, beats, breakbeat, breakbeats, break, breaks, brushes"
        ),
        "drum machine": "drum machine, drum machines, 808, 808s, 909, 909s, 707, tr 808, tr 909",
        "kick drum": "kick, kick drum, sub kick, kick sub",
        "snare drum": (
            "snare, snare drum, rim, rimshot, rim shot, sidestick, side stick, crossstick, "
            "cross stick, xstick"
        ),
        "hi-hat": "hi hat, open hat, closed hat, hi-hat",
        "toms": "tom, toms, floor tom, rack tom",
        "cymbals": "cymbal, cymbals, crash, ride, ride bell, china, splash",
        "overheads": "overheads, drum overheads",
    },
    "guitar": {
        "guitar": "guitar",
        "electric guitar": (
            "electric guitar, guitar electric, strat, tele, stratocaster, telecaster, les paul"
        ),
        "clean electric guitar": (
            "clean guitar, guitar clean, clean electric guitar, electric clean"
        ),
        "distorted electric guitar": (
            "distorted guitar, guitar distorted, distorted electric guitar, heavy guitar, power "
            "chords, palm mute, palm mutes"
        ),
        "acoustic guitar": (
            "acoustic guitar, nylon guitar, nylon, classical guitar, spanish guitar, 12 string, "
            "guitar acoustic, 12 string guitar, twelve string, steel string, flamenco guitar, "
            "strummed guitar, 12 str, 12 str guitar"
        ),
        "slide guitar": "slide guitar",
    },
    "other": {
        "sound effects": (
            "sound effects, sound fx, foley, riser, risers, impact, impacts, sweep, sweeps, "
            "whoosh, downlifter, uplifter, sfx, atmos, atmo, atmosphere, ear candy, glitch, "
            "glitches, vinyl crackle, explosion, explosions"
        ),
        "click track": (
            "click, clk, click track, metronome, count, count in, countin, count off, countoff"
        ),
        "scratches": "scratch, scratches, turntable, turntables, dj",
        "sampler": "sampler",
        "crowd": "crowd, audience, applause",
        "orchestra": "orchestra, orch",
    },
    "other keys": {
        "keyboard": "keyboard",
        "organ": "organ, drawbar, leslie",
        "clavinet": "clavinet",
        "harpsichord": "harpsichord",
        "mellotron": "mellotron, mellotron flute, mellotron strings, mellotron choir",
        "synthesizer": (
            "synth, moog, minimoog, juno, prophet, dx 7, jupiter, synth stab, synth "
            "brass, synth strings, synth choir, synth voice, synth vocals"
        ),
        "synth pad": (
            "pad, pads, synth pad, choir pad, string pad, strings pad, vocals pad, voice pad, drone"
        ),
        "synth lead": (
            "synth lead, lead synth, saw lead, supersaw, synth arp, arp, arps, arpeggio, "
            "arpeggiator, pluck, plucks, synth pluck, sequence, sequencer, seq"
        ),
    },
    "other plucked": {
        "banjo": "banjo",
        "mandolin": "mandolin",
        "ukulele": "ukulele",
        "harp": "harp",
        "bouzouki": "bouzouki, bouz",
        "sitar": "sitar",
        "": "zither, koto, charango, cavaquinho, balalaika, kora, lute, oud, mandola, autoharp",
    },
    "percussion": {
        "percussion": "percussion, percussion loop, latin percussion, hand drum, hand drums",
        "claps": (
            "clap, claps, handclap, handclaps, hand clap, hand claps, snap, snaps, stomp, stomps"
        ),
        "tambourine": "tambourine",
        "shaker": "shaker",
        "conga": "conga",
        "bongo": "bongo",
        "cowbell": "cowbell",
        "": (
            "maracas, cabasa, agogo, djembe, cajon, darbuka, udu, surdo, pandeiro, timbales, frame "
            "drum, woodblock, wood block, claves, temple block, guiro, kalimba, mbira, celesta, "
            "celeste, tubular bells, handpan, bells, music box, vibraslap"
        ),
        "triangle": "triangle, tri",
        "chimes": "chimes, wind chimes, mark tree, windchimes",
        "steel drums": "steel drum, steel drums, steel pan, steel pans, steelpan",
        "vibraphone": "vibraphone",
        "marimba": "marimba",
        "xylophone": "xylophone",
        "glockenspiel": "glockenspiel",
        "timpani": "timpani",
        "pitched percussion": "mallets, mallet, pitched percussion",
    },
    "piano": {
        "piano": "piano, upright piano, upr piano, felt piano",
        "grand piano": "grand piano, grand, steinway",
        "electric piano": "electric piano",
    },
    "vocals": {
        "vocals": (
            "vocals, scream, shout, whisper, growl, yell, humming, spoken word, speech, acapella, "
            "a cappella, dialog, dialogue, narration, spoken, sop"
        ),
        "lead vocals": "lead vocals, vocals lead, main vocals, vocals main",
        "background vocals": (
            "background vocals, harmony vocals, vocals harmony, gang vocals, vocals background, "
            "ooh, oohs, aah, aahs, oohs aahs, gang, vocals double"
        ),
        "ad libs": "ad lib, ad libs, adlib, adlibs, vocals ad lib, vocals ad libs",
        "choir": "choir, choral",
        "rap": "rap, raps, rapper, mc",
        "vocoder or beatboxing": "vocoder, beatbox, beatboxing, talkbox, talk box",
    },
    "wind": {
        "flute": "flute",
        "saxophone": "saxophone",
        "brass": "brass, brass section, horn section, horn, trumpet section",
        "trumpet": "trumpet",
        "trombone": "trombone",
        "french horn": "french horn, french horns",
        "clarinet": "clarinet",
        "oboe": "oboe",
        "piccolo": "piccolo",
        "harmonica": "harmonica, bass harmonica",
        "wind instrument": "woodwind, woodwinds, ww, winds, wind instrument",
        "reeds": "reeds, reed",
        "": (
            "recorder, tin whistle, whistle, panpipes, flugelhorn, cornet, english horn, cor "
            "anglais, melodica, duduk"
        ),
    },
}
"""Category → instrument as labels have it → phrases that name it, in the words of ``WORDS``; under
"" each phrase is its own instrument."""

WEAK: dict[str, tuple[str, str]] = {
    "acoustic": ("guitar", "acoustic guitar"),
    "alto": ("vocals", "vocals"),
    "ambiance": ("other", "sound effects"),
    "ambience": ("other", "sound effects"),
    "baritone": ("vocals", "vocals"),
    "boom": ("other", "sound effects"),
    "chorus": ("vocals", "background vocals"),
    "clean": ("guitar", "clean electric guitar"),
    "distorted": ("guitar", "distorted electric guitar"),
    "electric": ("guitar", "electric guitar"),
    "fx": ("other", "sound effects"),
    "efx": ("other", "sound effects"),
    "g": ("guitar", "guitar"),
    "harmony": ("vocals", "background vocals"),
    "background": ("vocals", "background vocals"),
    "k": ("drums", "kick drum"),
    "loop": ("drums", "drums"),
    "noise": ("other", "sound effects"),
    "room": ("drums", "drums"),
    "sample": ("other", "sampler"),
    "smpl": ("other", "sampler"),
    "soprano": ("vocals", "vocals"),
    "stab": ("other keys", "synthesizer"),
    "stick": ("drums", "snare drum"),
    "t": ("drums", "toms"),
    "tenor": ("vocals", "vocals"),
    "texture": ("other", "sound effects"),
    "v": ("vocals", "vocals"),
    "vinyl": ("other", "sound effects"),
}
"""Words that name something where no other word does, and then only perhaps."""

_SILENT = frozenset(
    re.findall(
        r"\w+",
        "a amp audio b bot bottom bounce bridge btm bus c cab center ch clean close comp d "
        "dbl delay di dly double dry dt e edit far fin final group grp h hi high hit hits "
        "hook i in intro l ld lead left lo loop loops low lr m main mic mics mid mix mk mono "
        "ms new o old one out outro overdub part pre print r raw ret rev reverb rhythm right "
        "s send solo st stack stem stems stereo sub take the top track trig trk tuned two "
        "verb verse vrs wav wet x xy y ",
    )
)
"""Words of the trade that name no instrument."""
_LETTERS = str.maketrans(
    {"œ": "oe", "Œ": "Oe", "æ": "ae", "Æ": "Ae", "ø": "o", "Ø": "O", "ß": "ss"}
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a name says."""

    labels: tuple[str, ...]
    """Category and instrument (one where they are the same); () where no word is known."""
    is_sure: bool
    """Whether a word named it that can mean nothing else."""
    unread: tuple[str, ...]
    """Words that are not known."""


@cache
def read_spelling(name: str) -> Reading:
    """Read what a track is from its name.

    >>> read_spelling("Ac Gtr Verse 2").labels
    ('guitar', 'acoustic guitar')
    """
    words = _expanded([part for word in _words(name) for part in _parts(word)])
    sure = [(place, *_PHRASES[phrase]) for place, phrase in _phrases(words, _PHRASES)]
    taken = {n for place, phrase in _phrases(words, _PHRASES) for n in _span(place, phrase)}
    weak = [WEAK[word] for word in words if word in WEAK]
    unread = tuple(
        word
        for place, word in enumerate(words)
        if place not in taken and word not in _SILENT | WEAK.keys() and not word.isdigit()
    )
    if sure:
        _, category, instrument = sure[-1]
        if instrument in (category, "guitar", "keyboard"):  # "kick drums": the more exact one
            same = [text for _, other, text in sure if other == category and text != instrument]
            instrument = same[-1] if same else instrument
        return Reading(labels=_pair(category, instrument), is_sure=True, unread=unread)
    if weak and (
        len(words) == 1 or any(len(word) > 1 for word in words if word in WEAK) or not unread
    ):
        return Reading(labels=_pair(*weak[0]), is_sure=False, unread=unread)
    return Reading(labels=(), is_sure=False, unread=unread)


def _words(name: str) -> list[str]:
    """Cut a name into lower-case words without accents: ``KickIn_01`` → kick, in, 01."""
    plain = unicodedata.normalize("NFKD", name.translate(_LETTERS))
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z]{2})(?=[A-Z][a-z])", " ", plain)
    plain = re.sub(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])", " ", plain.lower())
    return re.sub(r"[\W_]+", " ", plain).split()


def _parts(word: str) -> tuple[str, ...]:
    """Cut a word that is not known into two that are (``snrtop``), or take its plural's "s" off."""
    if word in _KNOWN or word.isdigit():
        return (word,)
    if word.endswith("s") and word[:-1] in _KNOWN:
        return (word[:-1],)
    for cut in range(len(word) - 2, 0, -1):
        left, right = word[:cut], word[cut:]
        if right in _KNOWN and (left in _KNOWN or left in ("a", "e")):
            return (left, right)
    return (word,)


def _expanded(words: Sequence[str]) -> list[str]:
    """Put the word for each abbreviation, the longest first; a lone "e" or "a" goes by its noun."""
    found: list[str] = []
    place = 0
    while place < len(words):
        for size in (3, 2, 1):
            phrase = " ".join(words[place : place + size])
            if phrase in _WORD_OF:
                break
        size = min(size, len(words) - place)
        found += _WORD_OF.get(phrase, phrase).split()
        place += size
    nouns = {"guitar", "piano", "bass"}
    letters = {"e": "electric", "a": "acoustic"}
    return [
        letters[word]
        if word in letters and found[place + 1 : place + 2] and found[place + 1] in nouns
        else word
        for place, word in enumerate(found)
    ]


def _phrases(words: Sequence[str], known: dict[str, tuple[str, str]]) -> Iterator[tuple[int, str]]:
    """Find the phrases of a vocabulary from left to right, at each place the longest."""
    place = 0
    while place < len(words):
        for size in range(_LONGEST, 0, -1):
            phrase = " ".join(words[place : place + size])
            if phrase in known and place + size <= len(words):
                yield place, phrase
                place += size
                break
        else:
            place += 1


def _span(place: int, phrase: str) -> range:
    return range(place, place + len(phrase.split()))


def _pair(category: str, instrument: str) -> tuple[str, ...]:
    return (category,) if category == instrument else (category, instrument)


def _vocabulary() -> dict[str, tuple[str, str]]:
    """Map each phrase to category and instrument; the tables here come before the taxonomies."""
    phrases: dict[str, tuple[str, str]] = {}
    for category, names in MEDLEYDB.items():
        for name in names.split(", "):
            phrases[" ".join(_expanded(_words(name)))] = (category, SYNONYMS.get(name, name))
    for category, texts in CATEGORIES.items():
        for text in (category, *texts):
            phrases[" ".join(_expanded(_words(text)))] = (category, text)
    for category, instruments in INSTRUMENTS.items():
        for instrument, names in instruments.items():
            for name in names.split(", "):
                phrases[" ".join(_expanded(_words(name)))] = (category, instrument or name)
    return {phrase: pair for phrase, pair in phrases.items() if phrase not in _NO_NAMES}


_NO_NAMES = frozenset(("other", "wind"))
"""Categories that as a word of a name say nothing."""
_WORD_OF = {short: word for word, names in WORDS.items() for short in (word, *names.split(", "))}
_PHRASES = _vocabulary()
_KNOWN = frozenset(
    word
    for text in (*_WORD_OF, *_PHRASES, *(w for w in (*_SILENT, *WEAK) if len(w) > 1))
    for word in text.split()
    if len(word) > 1
)
"""Single words of the vocabulary."""
_LONGEST = max(len(phrase.split()) for phrase in _PHRASES)
